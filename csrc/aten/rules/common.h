// What the count rules share: footprints of argument lists, row geometry, and the plain streaming part.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "aten/launch_arguments.h"
#include "kernels/shapes.h"

namespace trn::aten::rules {

using kernels::Access;
using kernels::Dtype;
using kernels::is_complex;
using kernels::Part;
using kernels::Spec;
using kernels::Step;
using Tensors = std::span<const at::Tensor>;
using Integers = std::span<const std::int64_t>;

std::vector<Access> accesses(Tensors tensors);
// One Access for a whole list: summed elements, mean run. Nothing for an empty list.
std::vector<Access> aggregate(Tensors tensors);
// The device tensors among the named arguments, in that order; lists are spread out.
std::vector<at::Tensor> named(const LaunchArguments& args, std::initializer_list<std::string_view> names);
Access dense(Dtype dtype, std::int64_t elements);

std::int64_t numel(const at::Tensor& tensor);  // 0 where undefined
std::int64_t largest_numel(Tensors tensors);
std::int64_t size(const at::Tensor& tensor, std::int64_t dim, std::int64_t fallback = 1);  // dim may be negative
Dtype dtype(const at::Tensor& tensor, Dtype fallback = Dtype::float32);
std::int64_t product(Integers values);
std::int64_t ceil_log2(std::int64_t value);  // 0 for value <= 1
std::int64_t ceil_div(std::int64_t a, std::int64_t b);
bool is_strided(const at::Tensor& tensor);

// A tensor seen as rows x cols, where cols are the elements along `dims` (along every axis where there are none).
struct Rows {
  std::int64_t rows = 0, cols = 0;
  bool across_partitions = false;  // the contiguous axis is not among `dims`
};
Rows rows_of(const at::Tensor& tensor, Integers dims);

// Elements streamed once through `steps`. Empty where there is nothing to do.
Spec stream(std::int64_t elements, std::vector<Access> inputs, std::vector<Access> outputs, std::vector<Step> steps,
            std::int64_t segments = 1);
// The same over all of a launch's device tensors.
Spec stream(const LaunchArguments& args, std::vector<Step> steps);

// A launch that found nothing to compute still fills its results: the sum of no elements is 0, of a gradient too.
Spec or_fill(Spec spec, const LaunchArguments& args);

Spec concat(Spec first, const Spec& second);

}  // namespace trn::aten::rules
