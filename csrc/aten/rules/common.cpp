// What the count rules share.
#include "aten/rules/common.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "aten/rules/broadcast.h"
#include "aten/rules/steps.h"

namespace trn::aten::rules {

std::vector<Access> accesses(Tensors tensors) {
  std::vector<Access> result;
  result.reserve(tensors.size());
  for (const auto& tensor : tensors) {
    result.push_back(access_of(tensor));
  }
  return result;
}

std::vector<Access> aggregate(Tensors tensors) {
  Access sum;
  std::int64_t runs = 0;
  bool is_spaced = true;
  for (const auto& tensor : tensors) {
    const Access one = access_of(tensor);
    if (one.elements == 0) {
      continue;
    }
    sum.dtype = one.dtype;
    sum.elements += one.elements;
    runs += one.elements / one.contiguous_elements;
    sum.span_elements += one.span_elements;
    is_spaced = is_spaced && one.span_elements > 0;
  }
  if (sum.elements == 0) {
    return {};
  }
  sum.contiguous_elements = sum.elements / std::max<std::int64_t>(runs, 1);
  sum.span_elements = is_spaced ? sum.span_elements : 0;
  return {sum};
}

std::vector<at::Tensor> named(const LaunchArguments& args, std::initializer_list<std::string_view> names) {
  std::vector<at::Tensor> result;
  for (const auto name : names) {
    for (auto& tensor : args.tensors(name)) {
      if (is_device_tensor(tensor)) {
        result.push_back(std::move(tensor));
      }
    }
  }
  return result;
}

Access dense(Dtype dtype, std::int64_t elements) {
  return {dtype, elements, elements};
}

std::int64_t numel(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.numel() : 0;
}

std::int64_t largest_numel(Tensors tensors) {
  std::int64_t largest = 0;
  for (const auto& tensor : tensors) {
    largest = std::max(largest, numel(tensor));
  }
  return largest;
}

std::int64_t size(const at::Tensor& tensor, std::int64_t dim, std::int64_t fallback) {
  if (!tensor.defined() || tensor.is_nested()) {
    return fallback;
  }
  const auto axis = dim < 0 ? dim + tensor.dim() : dim;
  return axis >= 0 && axis < tensor.dim() ? tensor.size(axis) : fallback;
}

Dtype dtype(const at::Tensor& tensor, Dtype fallback) {
  return tensor.defined() ? dtype_of(tensor.scalar_type()) : fallback;
}

std::int64_t product(Integers values) {
  std::int64_t result = 1;
  for (const auto value : values) {
    result *= value;
  }
  return result;
}

std::int64_t ceil_log2(std::int64_t value) {
  return value <= 1 ? 0 : std::bit_width(static_cast<std::uint64_t>(value - 1));
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return b <= 0 ? 0 : (a + b - 1) / b;
}

bool is_strided(const at::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == at::kStrided && !tensor.is_nested();
}

Rows rows_of(const at::Tensor& tensor, Integers dims) {
  Rows result;
  const auto total = numel(tensor);
  if (total == 0) {
    return result;
  }
  if (!is_strided(tensor) || dims.empty() || tensor.dim() == 0) {
    result.rows = 1;
    result.cols = total;
    return result;
  }
  std::uint64_t along = 0;
  for (const auto dim : dims) {
    const auto axis = dim < 0 ? dim + tensor.dim() : dim;
    if (axis >= 0 && axis < tensor.dim()) {
      along |= std::uint64_t{1} << axis;
    }
  }
  result.cols = 1;
  std::int64_t inner = -1;
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    if ((along >> d & 1) != 0) {
      result.cols *= tensor.size(d);
    }
    const bool moves = tensor.size(d) > 1 && tensor.stride(d) > 0;
    if (moves && (inner < 0 || tensor.stride(d) <= tensor.stride(inner))) {
      inner = d;
    }
  }
  result.rows = total / result.cols;
  result.across_partitions = result.cols > 1 && inner >= 0 && (along >> inner & 1) == 0;
  return result;
}

Spec stream(std::int64_t elements, std::vector<Access> inputs, std::vector<Access> outputs, std::vector<Step> steps,
            std::int64_t segments) {
  if (elements <= 0) {
    return {};
  }
  kernels::PointwiseShape shape;
  shape.elements = elements;
  shape.inputs = std::move(inputs);
  shape.outputs = std::move(outputs);
  shape.steps = std::move(steps);
  shape.segments = segments;
  return {shape};
}

Spec stream(const LaunchArguments& args, std::vector<Step> steps) {
  const auto inputs = args.input_tensors();
  const auto outputs = args.output_tensors();
  const auto elements = outputs.empty() ? largest_numel(inputs) : largest_numel(outputs);
  auto spec = stream(elements, accesses(inputs), accesses(outputs), std::move(steps));
  if (!spec.empty()) {
    set_axes(std::get<kernels::PointwiseShape>(spec.front()), inputs, outputs);
  }
  return spec;
}

Spec or_fill(Spec spec, const LaunchArguments& args) {
  if (!spec.empty()) {
    return spec;
  }
  const auto outputs = args.output_tensors();
  return stream(largest_numel(outputs), {}, accesses(outputs), steps_of(memset(0)));
}

Spec concat(Spec first, const Spec& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

}  // namespace trn::aten::rules
