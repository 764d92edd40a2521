// Count rules of pooling, upsampling and sampling.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec pool(const LaunchArguments& args);      // max and average, plain and adaptive, forward and backward
Spec upsample(const LaunchArguments& args);  // nearest to bicubic, with and without antialiasing
Spec grid_sample(const LaunchArguments& args);
Spec fold(const LaunchArguments& args);  // col2im, unfold_backward: overlapping windows added up

}  // namespace trn::aten::rules
