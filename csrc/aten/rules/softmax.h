// Count rules of softmax and log_softmax.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec softmax(const LaunchArguments& args);         // _softmax, _log_softmax and their backward
Spec masked_softmax(const LaunchArguments& args);  // the mask applied first, then softmax

}  // namespace trn::aten::rules
