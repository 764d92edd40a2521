// Count rules of softmax and log_softmax.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec softmax(const LaunchArguments& args);  // _softmax, _log_softmax and their backward

}  // namespace trn::aten::rules
