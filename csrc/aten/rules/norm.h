// Count rules of normalisations.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec layer_norm(const LaunchArguments& args);  // native_layer_norm and backward
Spec rms_norm(const LaunchArguments& args);
Spec group_norm(const LaunchArguments& args);
Spec batch_norm(const LaunchArguments& args);  // every variant, forward and backward

}  // namespace trn::aten::rules
