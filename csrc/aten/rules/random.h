// Count rules of random numbers.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec random(const LaunchArguments& args);  // every distribution that fills its result
Spec rrelu(const LaunchArguments& args);
Spec multinomial(const LaunchArguments& args);
Spec permutation(const LaunchArguments& args);  // randperm: random keys, sorted

}  // namespace trn::aten::rules
