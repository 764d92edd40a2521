// Count rules of operators that move elements from one layout to another.
#pragma once

#include <vector>

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec copy(const LaunchArguments& args);         // copy_, _copy_from, clone, _to_copy: casts and transposes too
Spec concatenate(const LaunchArguments& args);  // cat, stack
Spec rearrange(const LaunchArguments& args);    // pad, im2col, ...: a permuted or repeated read

Spec copy_between(const at::Tensor& from, const at::Tensor& to);
// A concatenation's parts: of the tensors that have elements, the numbers of neighbours that lie alike in HBM and move
// by one program, dense ones of a dtype or those of one spacing. One that repeats elements is copied for itself.
std::vector<std::vector<std::size_t>> alike(const std::vector<at::Tensor>& tensors);
bool repeats(const at::Tensor& tensor);
// A member with the axes of the result, and where members from `first` to `last` go in it.
at::Tensor as_joined(const LaunchArguments& args, const at::Tensor& tensor);
at::Tensor joined_place(const LaunchArguments& args, std::size_t first, std::size_t last);

// An axis of a copy, its strides on both sides.
struct MovedAxis {
  std::int64_t size = 1, from = 0, to = 0;
};
// The fewest axes that a copy walks, in the order of `to` in memory, outermost first.
std::vector<MovedAxis> moved_axes(const at::Tensor& from, const at::Tensor& to);
// Of those the one that lies innermost in `from`; -1: none moves there.
std::int64_t innermost_in_source(const std::vector<MovedAxis>& axes);

}  // namespace trn::aten::rules
