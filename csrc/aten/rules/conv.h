// Count rules of convolutions, all kinds and all directions.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec convolution(const LaunchArguments& args);             // also mkldnn, slow and dilated kernels
Spec convolution_transposed(const LaunchArguments& args);  // slow_conv_transpose{2,3}d
Spec convolution_backward(const LaunchArguments& args);
Spec conv_tbc(const LaunchArguments& args);

}  // namespace trn::aten::rules
