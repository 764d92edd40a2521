// Count rules of convolutions, all kinds and all directions.
#include "aten/rules/conv.h"

#include <algorithm>
#include <utility>

namespace trn::aten::rules {

namespace {

using kernels::ConvDirection;
using kernels::ConvShape;

// One value per spatial axis: a shorter list repeats its last, an absent one is `fallback`.
std::vector<std::int64_t> per_axis(std::vector<std::int64_t> values, std::size_t rank, std::int64_t fallback) {
  const auto last = values.empty() ? fallback : values.back();
  values.resize(rank, last);
  return values;
}

std::vector<std::int64_t> spatial(const at::Tensor& tensor, std::size_t rank) {
  const auto sizes = tensor.sizes();
  return {sizes.end() - static_cast<std::ptrdiff_t>(std::min(rank, sizes.size())), sizes.end()};
}

// The geometry of the plain convolution: `large` is its input side, `small` its output side. Weight is
// [small channels, large channels / groups, kernel...] in both a plain and a transposed convolution.
ConvShape geometry(const LaunchArguments& args, const at::Tensor& large, const at::Tensor& small,
                   const at::Tensor& weight) {
  ConvShape shape;
  const auto rank = static_cast<std::size_t>(std::max<std::int64_t>(weight.dim() - 2, 0));
  const bool batched = static_cast<std::size_t>(large.dim()) == rank + 2;
  shape.groups = std::max<std::int64_t>(args.integer("groups", 1), 1);
  shape.batch = batched ? large.size(0) : 1;
  shape.in_channels = size(large, batched ? 1 : 0);
  shape.out_channels = size(small, batched ? 1 : 0);
  if (args.base_name() == "conv_depthwise3d") {
    shape.groups = shape.in_channels;
  }
  shape.in = spatial(large, rank);
  shape.out = spatial(small, rank);
  shape.kernel = spatial(weight, rank);
  shape.stride = per_axis(args.integers("stride"), rank, 1);
  shape.padding = per_axis(args.integers("padding"), rank, 0);
  shape.dilation = per_axis(args.integers("dilation"), rank, 1);
  shape.dtype = dtype(large);
  return shape;
}

Spec checked(const ConvShape& shape) {
  const bool work = shape.batch > 0 && shape.in_channels > 0 && shape.out_channels > 0 && product(shape.out) > 0 &&
                    product(shape.in) > 0 && product(shape.kernel) > 0;
  return work ? Spec{shape} : Spec{};
}

const at::Tensor& input_of(const LaunchArguments& args) {
  const auto& input = args.tensor("input");
  return input.defined() ? input : args.tensor("self");
}

bool is_usable(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c) {
  return is_strided(a) && is_strided(b) && is_strided(c);
}

Spec forward(const LaunchArguments& args, bool transposed) {
  const auto& input = input_of(args);
  const auto& weight = args.tensor("weight");
  const auto& output = args.output();
  if (!is_usable(input, weight, output)) {
    return {};
  }
  auto shape = transposed ? geometry(args, output, input, weight) : geometry(args, input, output, weight);
  shape.direction = transposed ? ConvDirection::input_gradient : ConvDirection::forward;
  shape.bias = is_strided(args.tensor("bias"));
  return checked(shape);
}

// Sum of grad_output over everything but its channels.
Spec bias_gradient(const at::Tensor& grad) {
  const auto channels = size(grad, 1);
  if (numel(grad) == 0) {
    return {};
  }
  kernels::ReductionShape shape;
  shape.rows = channels;
  shape.cols = numel(grad) / channels;
  shape.across_partitions = channels > 1 && grad.stride(1) == 1;  // channels last
  const auto access = access_of(grad);
  // An expanded gradient is written out for the convolution's other gradients.
  shape.inputs = {access.elements == numel(grad) ? access : dense(dtype(grad), numel(grad))};
  shape.outputs = {dense(dtype(grad), channels)};
  return {shape};
}

}  // namespace

Spec convolution(const LaunchArguments& args) {
  return or_fill(forward(args, args.boolean("transposed", false)), args);
}

Spec convolution_transposed(const LaunchArguments& args) {
  return or_fill(forward(args, true), args);
}

Spec convolution_backward(const LaunchArguments& args) {
  const auto& input = input_of(args);
  const auto& weight = args.tensor("weight");
  const auto& grad = args.tensor("grad_output");
  if (!is_usable(input, weight, grad)) {
    return {};
  }
  const bool transposed = args.boolean("transposed", false);
  auto shape = transposed ? geometry(args, grad, input, weight) : geometry(args, input, grad, weight);
  const auto mask = args.integers("output_mask");
  const auto wanted = [&](std::size_t i) { return i >= mask.size() || mask[i] != 0; };
  Spec spec;
  if (wanted(0)) {
    shape.direction = transposed ? ConvDirection::forward : ConvDirection::input_gradient;
    spec = checked(shape);
  }
  if (wanted(1)) {
    shape.direction = ConvDirection::weight_gradient;
    spec = concat(std::move(spec), checked(shape));
  }
  if (wanted(2)) {
    spec = concat(std::move(spec), bias_gradient(grad));
  }
  return or_fill(std::move(spec), args);
}

Spec conv_tbc(const LaunchArguments& args) {
  // input [time, batch, in], weight [kernel, in, out], output [time', batch, out].
  const auto& input = args.tensor("self");
  const auto& weight = args.tensor("weight");
  const auto& output = args.output();
  if (!is_usable(input, weight, output)) {
    return {};
  }
  ConvShape shape;
  shape.batch = size(input, 1);
  shape.in_channels = size(weight, 1);
  shape.out_channels = size(weight, 2);
  shape.in = {size(input, 0)};
  shape.out = {size(output, 0)};
  shape.kernel = {size(weight, 0)};
  shape.stride = {1};
  shape.padding = {args.integer("pad", 0)};
  shape.dilation = {1};
  shape.dtype = dtype(input);
  shape.bias = is_strided(args.tensor("bias"));
  return or_fill(checked(shape), args);
}

}  // namespace trn::aten::rules
