// Count rules of fused attention.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec attention(const LaunchArguments& args);  // forward and backward of every fused variant

}  // namespace trn::aten::rules
