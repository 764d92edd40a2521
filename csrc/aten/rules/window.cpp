// Count rules of pooling, upsampling and sampling.
#include "aten/rules/window.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "aten/rules/box.h"
#include "aten/rules/names.h"

namespace trn::aten::rules {

namespace {

using kernels::WindowKind;
using kernels::WindowShape;

Spec checked(const WindowShape& shape) {
  return shape.in_elements > 0 && shape.out_elements > 0 ? Spec{shape} : Spec{};
}

// Input elements per output element of an adaptive window: the widest along each axis.
std::int64_t adaptive_taps(const at::Tensor& in, const at::Tensor& out, std::int64_t rank) {
  std::int64_t taps = 1;
  for (std::int64_t axis = 1; axis <= rank; ++axis) {
    taps *= std::max<std::int64_t>(ceil_div(size(in, -axis), size(out, -axis)), 1);
  }
  return taps;
}

// A list of one number or one for each axis.
std::vector<std::int64_t> by_axis(const LaunchArguments& args, std::string_view name,
                                  const std::vector<std::int64_t>& fallback) {
  auto values = args.integers(name);
  if (values.empty()) {
    return fallback;
  }
  values.resize(2, values.back());
  return values;
}

// What executes: planes of two axes, and one window for all of their elements.
void set_geometry(const LaunchArguments& args, const at::Tensor& in, const at::Tensor& out, WindowShape& shape) {
  const auto name = args.base_name();
  if (!contains(name, "pool2d") || contains(name, "fractional") || in.dim() < 3) {
    return;
  }
  shape.in = {size(in, -2), size(in, -1)};
  shape.out = {size(out, -2), size(out, -1)};
  if (contains(name, "adaptive")) {
    if (shape.in[0] % shape.out[0] != 0 || shape.in[1] % shape.out[1] != 0) {
      return;
    }
    shape.kernel = {shape.in[0] / shape.out[0], shape.in[1] / shape.out[1]};
  } else {
    shape.kernel = by_axis(args, "kernel_size", {1, 1});
  }
  shape.stride = by_axis(args, "stride", shape.kernel);
  shape.padding = by_axis(args, "padding", {0, 0});
  shape.dilation = by_axis(args, "dilation", {1, 1});
  shape.counts_padding = args.boolean("count_include_pad", true);
  shape.divisor = args.integer("divisor_override", 0);
  if (shape.divisor < 0) {  // PyTorch takes it; the program does not know it
    shape.divisor = 0;
    return;
  }
  shape.planes = numel(in) / std::max<std::int64_t>(shape.in[0] * shape.in[1], 1);
}

std::int64_t kernel_taps(const LaunchArguments& args, std::int64_t rank) {
  const auto kernel = args.integers("kernel_size");
  std::int64_t taps = 1;
  for (std::int64_t axis = 0; axis < rank && !kernel.empty(); ++axis) {
    taps *= kernel[std::min<std::size_t>(static_cast<std::size_t>(axis), kernel.size() - 1)];
  }
  return std::max<std::int64_t>(taps, 1);
}

// How often nearest-neighbour upsampling repeats each element along its axes; empty where some repeat more often.
std::vector<std::int64_t> whole_scales(const LaunchArguments& args, const at::Tensor& in, const at::Tensor& out,
                                       std::int64_t rank) {
  constexpr std::string_view kNames[] = {"scales_w", "scales_h", "scales_d"};
  std::vector<std::int64_t> scales;
  for (std::int64_t axis = rank; axis >= 1; --axis) {
    const std::int64_t scale = out.size(-axis) / in.size(-axis);
    const auto name = rank == 1 ? "scales" : kNames[axis - 1];
    if (scale * in.size(-axis) != out.size(-axis) ||
        args.number(name, static_cast<double>(scale)) != static_cast<double>(scale)) {
      return {};
    }
    scales.push_back(scale);
  }
  return scales;
}

// Each element becomes a box.
Spec repeat_elements(const at::Tensor& in, const at::Tensor& out, const std::vector<std::int64_t>& scales) {
  std::vector<kernels::BoxAxis> axes;
  const auto rank = static_cast<std::int64_t>(scales.size());
  for (std::int64_t d = 0; d < in.dim(); ++d) {
    const std::int64_t spatial = d - (in.dim() - rank);
    const std::int64_t scale = spatial < 0 ? 1 : scales[static_cast<std::size_t>(spatial)];
    axes.push_back({in.size(d), in.stride(d), out.stride(d) * scale, false});
    axes.push_back({scale, 0, out.stride(d), false});
  }
  return box(in, out, std::move(axes));
}

// The gradient of a box is its sum: an average that is divided by 1.
Spec add_elements(const at::Tensor& in, const at::Tensor& out, std::vector<std::int64_t> scales) {
  WindowShape shape;
  shape.kind = WindowKind::average_pool;
  shape.in_elements = numel(out);
  shape.out_elements = numel(in);
  shape.taps = product(scales);
  shape.dtype = dtype(out);
  const bool is_line = scales.size() == 1;
  scales.insert(scales.begin(), is_line ? 1 : 0, 1);
  shape.in = {is_line ? 1 : size(out, -2), size(out, -1)};
  shape.out = {is_line ? 1 : size(in, -2), size(in, -1)};
  shape.kernel = shape.stride = scales;
  shape.padding = {0, 0};
  shape.dilation = {1, 1};
  shape.divisor = 1;
  shape.planes = numel(in) / (shape.out[0] * shape.out[1]);
  return checked(shape);
}

}  // namespace

Spec pool(const LaunchArguments& args) {
  const auto name = args.base_name();
  const auto rank = num_axes(name);
  WindowShape shape;
  shape.kind = contains(name, "max") ? WindowKind::max_pool : WindowKind::average_pool;
  shape.backward = args.find("grad_output") >= 0;
  const auto& in = args.tensor("self");
  const auto& out = shape.backward ? args.tensor("grad_output") : args.output();
  shape.in_elements = numel(in);
  shape.out_elements = numel(out);
  shape.taps = args.find("kernel_size") >= 0 ? kernel_taps(args, rank) : adaptive_taps(in, out, rank);
  shape.dtype = dtype(in);
  shape.indices = shape.kind == WindowKind::max_pool &&
                  (shape.backward ? args.tensor("indices").defined() : args.output(1).defined());
  if (shape.in_elements > 0 && shape.out_elements > 0) {
    set_geometry(args, in, out, shape);
  }
  return checked(shape);
}

Spec nearest_by_whole_factors(const LaunchArguments& args) {
  const auto name = args.base_name();
  const bool is_backward = args.find("grad_output") >= 0;
  // `in` is the forward's input on both ways.
  const auto& self = args.tensor("self").defined() ? args.tensor("self") : args.tensor("input");
  const auto& in = is_backward ? args.output() : self;
  const auto& out = is_backward ? args.tensor("grad_output") : args.output();
  const auto rank = num_axes(name);
  if (!contains(name, "nearest") || !is_strided(in) || !is_strided(out) || (is_backward && rank == 3)) {
    return {};
  }
  const auto scales = whole_scales(args, in, out, rank);
  return scales.empty() ? Spec{} : is_backward ? add_elements(in, out, scales) : repeat_elements(in, out, scales);
}

Spec grid_sample(const LaunchArguments& args) {
  const bool volume = contains(args.base_name(), "3d");
  WindowShape shape;
  shape.kind = WindowKind::upsample;
  shape.backward = args.find("grad_output") >= 0;
  const auto& in = args.tensor("input");
  const auto& out = shape.backward ? args.tensor("grad_output") : args.output();
  shape.in_elements = numel(in) + numel(args.tensor("grid"));
  shape.out_elements = numel(out);
  shape.dtype = dtype(in);
  constexpr std::int64_t kTaps[][2] = {{4, 8}, {1, 1}, {16, 64}};  // bilinear, nearest, bicubic
  const auto mode = std::clamp<std::int64_t>(args.integer("interpolation_mode", 0), 0, 2);
  shape.taps = kTaps[mode][volume ? 1 : 0];
  return checked(shape);
}

}  // namespace trn::aten::rules
