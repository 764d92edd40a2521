// Count rules of pooling, upsampling and sampling.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec pool(const LaunchArguments& args);  // max and average, plain and adaptive, forward and backward
// Each element becomes a box, or of a gradient each box a sum. Empty where some repeat more often than others.
Spec nearest_by_whole_factors(const LaunchArguments& args);
Spec grid_sample(const LaunchArguments& args);

}  // namespace trn::aten::rules
