// Count rules of operators that move elements from one layout to another.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec copy(const LaunchArguments& args);         // copy_, _copy_from, clone, _to_copy: casts and transposes too
Spec concatenate(const LaunchArguments& args);  // cat, stack
Spec rearrange(const LaunchArguments& args);    // flip, roll, shuffle, pad, repeat, im2col: a permuted or repeated read
Spec pad_backward(const LaunchArguments& args);  // every gradient element added to its source

Spec copy_between(const at::Tensor& from, const at::Tensor& to);

}  // namespace trn::aten::rules
