// Count rules of normalisations.
#include "aten/rules/norm.h"

#include <algorithm>
#include <limits>

namespace trn::aten::rules {

namespace {

using kernels::NormKind;
using kernels::NormShape;

// Of weight and bias, and where there are none of the running statistics.
kernels::Dtype parameter_dtype(const LaunchArguments& args, kernels::Dtype fallback) {
  for (const auto* name : {"weight", "bias", "running_mean"}) {
    if (args.tensor(name).defined()) {
      return dtype(args.tensor(name));
    }
  }
  return fallback;
}

// rms norm without an eps takes the spacing of 1 in the type that it accumulates in.
double default_eps(kernels::Dtype dtype) {
  return dtype == kernels::Dtype::float64 ? std::numeric_limits<double>::epsilon()
                                          : std::numeric_limits<float>::epsilon();
}

NormShape base(const LaunchArguments& args, NormKind kind) {
  const auto& input = args.tensor("input");
  NormShape shape;
  shape.kind = kind;
  shape.dtype = dtype(input);
  shape.parameter_dtype = parameter_dtype(args, shape.dtype);
  shape.eps = static_cast<float>(args.number("eps", kind == NormKind::rms ? default_eps(shape.dtype) : shape.eps));
  shape.momentum = static_cast<float>(args.number("momentum", shape.momentum));
  shape.weight = is_strided(args.tensor("weight"));
  shape.bias = is_strided(args.tensor("bias"));
  shape.backward = args.find("grad_out") >= 0;
  const auto mask = args.integers("output_mask");
  if (shape.backward && !mask.empty()) {
    shape.input_gradient = mask[0] != 0;
    shape.weight_gradient = mask.size() > 1 && mask[1] != 0;
    shape.bias_gradient = mask.size() > 2 && mask[2] != 0;
  }
  return shape;
}

Spec checked(const NormShape& shape) {
  return shape.rows > 0 && shape.cols > 0 ? Spec{shape} : Spec{};
}

// Statistics over the last axes named by normalized_shape.
Spec over_last_axes(const LaunchArguments& args, NormKind kind) {
  auto shape = base(args, kind);
  shape.cols = product(args.integers("normalized_shape"));
  shape.rows = shape.cols == 0 ? 0 : numel(args.tensor("input")) / shape.cols;
  shape.channels = shape.cols;
  return checked(shape);
}

}  // namespace

Spec layer_norm(const LaunchArguments& args) {
  return or_fill(over_last_axes(args, NormKind::layer), args);
}

Spec rms_norm(const LaunchArguments& args) {
  return or_fill(over_last_axes(args, NormKind::rms), args);
}

Spec group_norm(const LaunchArguments& args) {
  auto shape = base(args, NormKind::group);
  shape.channels = args.integer("C", 1);
  shape.rows = args.integer("N", 1) * args.integer("group", 1);
  shape.cols = shape.rows == 0 ? 0 : numel(args.tensor("input")) / shape.rows;
  shape.spatial = args.integer("HxW", 1);
  return or_fill(checked(shape), args);
}

Spec batch_norm(const LaunchArguments& args) {
  auto shape = base(args, NormKind::batch);
  const auto& input = args.tensor("input");
  shape.channels = size(input, 1);
  shape.rows = shape.channels;
  shape.cols = shape.rows == 0 ? 0 : numel(input) / shape.rows;
  // Channels last: every element of a channel stands alone.
  const bool channels_last = is_strided(input) && input.dim() > 1 && input.stride(1) == 1 && shape.channels > 1;
  const auto samples = std::max<std::int64_t>(size(input, 0), 1);
  shape.spatial = channels_last ? 1 : std::max<std::int64_t>(shape.cols / samples, 1);
  shape.running_statistics = is_strided(args.tensor("running_mean"));
  // Variants without a flag of their own compute statistics; `update` is the name in batch_norm_backward.
  shape.training = args.boolean("training", args.boolean("train", args.boolean("update", true)));
  return or_fill(checked(shape), args);
}

}  // namespace trn::aten::rules
