// Reads from sizes and strides along which axes inputs repeat, and merges the axes that all of them treat alike.
#include "aten/rules/broadcast.h"

#include <algorithm>
#include <numeric>

namespace trn::aten::rules {

namespace {

constexpr std::int64_t kMostAxes = 32;

struct Axis {
  std::int64_t size = 1;
  std::vector<bool> repeats;  // by input
};

bool repeats_along(const at::Tensor& input, std::int64_t dim, std::int64_t rank) {
  const std::int64_t own = dim - (rank - input.dim());
  return own < 0 || input.size(own) == 1 || input.stride(own) == 0;
}

std::vector<Axis> axes_of(Tensors inputs, const at::Tensor& result) {
  std::vector<Axis> axes;
  for (const std::int64_t dim : memory_order(result)) {
    if (result.size(dim) == 1) {
      continue;
    }
    Axis axis{.size = result.size(dim), .repeats = {}};
    for (const at::Tensor& input : inputs) {
      axis.repeats.push_back(repeats_along(input, dim, result.dim()));
    }
    if (!axes.empty() && axes.back().repeats == axis.repeats) {
      axes.back().size *= axis.size;
    } else {
      axes.push_back(std::move(axis));
    }
  }
  return axes;
}

// Whole periods of one length: all of the outermost axes repeat, for each input that is no scalar, and no others.
bool is_periodic(const std::vector<Axis>& axes, std::size_t num_inputs) {
  std::int64_t period = 0;
  for (std::size_t i = 0; i < num_inputs; ++i) {
    std::int64_t kept = 1;
    bool has_kept = false;
    for (const Axis& axis : axes) {
      if (axis.repeats[i] && has_kept) {
        return false;
      }
      has_kept = has_kept || !axis.repeats[i];
      kept *= axis.repeats[i] ? 1 : axis.size;
    }
    const bool repeats = has_kept && axes.front().repeats[i];
    if (repeats && period > 0 && period != kept) {
      return false;
    }
    period = repeats ? kept : period;
  }
  return true;
}

}  // namespace

std::vector<std::int64_t> memory_order(const at::Tensor& tensor) {
  std::vector<std::int64_t> axes(static_cast<std::size_t>(tensor.dim()));
  std::iota(axes.begin(), axes.end(), 0);
  std::ranges::stable_sort(axes, std::ranges::greater(), [&](std::int64_t d) { return tensor.stride(d); });
  return axes;
}

void set_axes(kernels::PointwiseShape& shape, Tensors inputs, Tensors outputs) {
  if (outputs.empty() || inputs.empty() || shape.segments != 1 || inputs.size() != shape.inputs.size() ||
      outputs.size() != shape.outputs.size() || !std::ranges::all_of(inputs, is_strided) ||
      !std::ranges::all_of(outputs, is_strided)) {
    return;
  }
  const at::Tensor& result = outputs.front();
  const auto fits = [&](const at::Tensor& input) {
    for (std::int64_t d = 1; d <= input.dim(); ++d) {
      if (d > result.dim() || (input.size(-d) != 1 && input.size(-d) != result.size(-d))) {
        return false;
      }
    }
    return true;
  };
  const auto is_whole = [&](const Access& output) { return output.elements == shape.elements; };
  if (result.numel() != shape.elements || result.dim() > kMostAxes || !std::ranges::all_of(shape.outputs, is_whole) ||
      !std::ranges::all_of(inputs, fits)) {
    return;
  }
  const auto axes = axes_of(inputs, result);
  if (axes.empty() || is_periodic(axes, inputs.size())) {
    return;
  }
  std::vector<std::int64_t> repeats(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    std::int64_t kept = 1;
    for (std::size_t axis = 0; axis < axes.size(); ++axis) {
      repeats[i] |= std::int64_t{axes[axis].repeats[i]} << axis;
      kept *= axes[axis].repeats[i] ? 1 : axes[axis].size;
    }
    if (kept != shape.inputs[i].elements) {
      return;  // its elements overlap in HBM
    }
  }
  for (const Axis& axis : axes) {
    shape.axes.push_back(axis.size);
  }
  shape.repeats = std::move(repeats);
}

}  // namespace trn::aten::rules
