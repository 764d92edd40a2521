// Count rules of operators that stream their operands once.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

// The steps of `function` with this launch's scalars: alpha, exponent, rounding mode, bounds; of one member of its
// lists.
std::vector<Step> pointwise_steps(const LaunchArguments& args, std::string_view function, std::size_t member = 0);

// Whether the steps compute this launch's function, as kernels::Step defines them. The others stand for its cost only.
bool computes(const LaunchArguments& args);
bool computes(std::string_view function);

Spec pointwise(const LaunchArguments& args);
Spec power(const LaunchArguments& args);
Spec clamp(const LaunchArguments& args);
Spec polygamma(const LaunchArguments& args);
Spec fill(const LaunchArguments& args);      // memset: nothing read but a value tensor
Spec sequence(const LaunchArguments& args);  // arange, linspace, eye, ...: iota and a scale

}  // namespace trn::aten::rules
