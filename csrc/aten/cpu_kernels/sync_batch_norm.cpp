// Batch norm in the pieces that SyncBatchNorm needs: statistics, their union over processes, the normalisation.
#include <ATen/AccumulateType.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/batch_norm_elemt.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "aten/cpu_kernels/optional_tensor.h"

namespace trn::aten {

namespace {

using at::Tensor;

// Statistics of half precision inputs are float32, as on every device.
at::ScalarType statistics_type(const Tensor& input) {
  return at::toAccumulateType(input.scalar_type(), c10::DeviceType::CUDA);
}

void check_input(const char* where, const Tensor& input) {
  TORCH_CHECK(input.dim() >= 2, "[", where, "] the input is [batch, channels, ...]; got ", input.dim(), " axes.");
  TORCH_CHECK(at::isFloatingType(input.scalar_type()), "[", where, "] the input is floating point; got ",
              input.scalar_type(), ".");
}

// Every axis but the channels'.
std::vector<std::int64_t> reduced_axes(const Tensor& input) {
  std::vector<std::int64_t> axes{0};
  for (std::int64_t d = 2; d < input.dim(); ++d) {
    axes.push_back(d);
  }
  return axes;
}

// [channels] -> [1, channels, 1, ...] of the input's rank, in the statistics' type.
Tensor per_channel(const Tensor& values, const Tensor& input) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(input.dim()), 1);
  shape[1] = values.numel();
  return values.to(statistics_type(input)).reshape(shape);
}

std::tuple<Tensor, Tensor> stats(const Tensor& input, double eps) {
  check_input("batch_norm_stats", input);
  const auto axes = reduced_axes(input);
  const Tensor x = input.to(statistics_type(input));
  const Tensor mean = x.mean(axes);
  const Tensor variance = (x - per_channel(mean, x)).square_().mean(axes);
  return {mean, (variance + eps).rsqrt_()};
}

// mean, invstd: [processes, channels]; counts: [processes].
std::tuple<Tensor, Tensor> gather_stats_with_counts(const Tensor& input, const Tensor& mean, const Tensor& invstd,
                                                    const OptionalTensor& running_mean,
                                                    const OptionalTensor& running_var, double momentum, double eps,
                                                    const Tensor& counts) {
  TORCH_CHECK(mean.dim() == 2 && mean.sizes() == invstd.sizes() && counts.numel() == mean.size(0),
              "[batch_norm_gather_stats_with_counts] mean and invstd are [processes, channels], counts is [processes]; "
              "got ",
              mean.sizes(), ", ", invstd.sizes(), " and ", counts.sizes(), ".");
  const auto type = statistics_type(input);
  const Tensor means = mean.to(type);
  const Tensor count = counts.to(type).reshape({-1, 1});
  const Tensor total = count.sum();
  const Tensor union_mean = (means * count).sum(0) / total;
  // Each process's sum of squares around the common mean: its own, and its mean's distance.
  const Tensor variances = invstd.to(type).reciprocal().square_() - eps;
  const Tensor squares = ((variances + (means - union_mean).square_()) * count).sum(0);
  if (is_given(running_mean)) {
    running_mean->mul_(1 - momentum).add_(union_mean.to(running_mean->scalar_type()), momentum);
  }
  if (is_given(running_var)) {
    const Tensor unbiased = squares / (total - 1);
    running_var->mul_(1 - momentum).add_(unbiased.to(running_var->scalar_type()), momentum);
  }
  return {union_mean, (squares / total + eps).rsqrt_()};
}

std::tuple<Tensor, Tensor> gather_stats(const Tensor& input, const Tensor& mean, const Tensor& invstd,
                                        const OptionalTensor& running_mean, const OptionalTensor& running_var,
                                        double momentum, double eps, std::int64_t count) {
  return gather_stats_with_counts(input, mean, invstd, running_mean, running_var, momentum, eps,
                                  at::full({mean.size(0)}, count, mean.options()));
}

Tensor elemt(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& mean,
             const Tensor& invstd, double) {
  check_input("batch_norm_elemt", input);
  const Tensor x = input.to(statistics_type(input));
  Tensor scale = per_channel(invstd, x);
  if (is_given(weight)) {
    scale = scale * per_channel(*weight, x);
  }
  Tensor out = (x - per_channel(mean, x)).mul_(scale);
  if (is_given(bias)) {
    out.add_(per_channel(*bias, x));
  }
  return out.to(input.scalar_type());
}

Tensor& elemt_out(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& mean,
                  const Tensor& invstd, double eps, Tensor& out) {
  out.resize_(input.sizes());
  return out.copy_(at::batch_norm_elemt(input, weight, bias, mean, invstd, eps));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_reduce(const Tensor& grad_out, const Tensor& input,
                                                           const Tensor& mean, const Tensor& invstd,
                                                           const OptionalTensor& weight, bool input_grad,
                                                           bool weight_grad, bool bias_grad) {
  check_input("batch_norm_backward_reduce", input);
  const auto type = statistics_type(input);
  const auto axes = reduced_axes(input);
  const Tensor grad = grad_out.to(type);
  const Tensor sum_dy = grad.sum(axes);
  const Tensor sum_dy_xmu = (grad * (input.to(type) - per_channel(mean, input))).sum(axes);
  const auto weight_type = is_given(weight) ? weight->scalar_type() : type;
  Tensor grad_weight, grad_bias;
  if (weight_grad) {
    grad_weight = (sum_dy_xmu * invstd.to(type)).to(weight_type);
  }
  if (bias_grad) {
    grad_bias = sum_dy.to(weight_type, /*non_blocking=*/false, /*copy=*/true);
  }
  return {input_grad ? sum_dy : Tensor(), input_grad ? sum_dy_xmu : Tensor(), grad_weight, grad_bias};
}

Tensor backward_elemt(const Tensor& grad_out, const Tensor& input, const Tensor& mean, const Tensor& invstd,
                      const OptionalTensor& weight, const Tensor& sum_dy, const Tensor& sum_dy_xmu,
                      const Tensor& count) {
  check_input("batch_norm_backward_elemt", input);
  const auto type = statistics_type(input);
  const Tensor total = count.sum().to(type);
  const Tensor inverse = per_channel(invstd, input);
  const Tensor scale = is_given(weight) ? inverse * per_channel(*weight, input) : inverse;
  const Tensor projection = per_channel(sum_dy_xmu.to(type) / total, input) * inverse.square();
  const Tensor centred = input.to(type) - per_channel(mean, input);
  return (grad_out.to(type) - per_channel(sum_dy.to(type) / total, input))
      .sub_(centred * projection)
      .mul_(scale)
      .to(input.scalar_type());
}

TORCH_LIBRARY_FRAGMENT(trn, m) {
  m.def("batch_norm_stats(Tensor input, float eps) -> (Tensor, Tensor)");
  m.def(
      "batch_norm_gather_stats(Tensor input, Tensor mean, Tensor invstd, Tensor? running_mean, Tensor? running_var, "
      "float momentum, float eps, int count) -> (Tensor, Tensor)");
  m.def(
      "batch_norm_gather_stats_with_counts(Tensor input, Tensor mean, Tensor invstd, Tensor? running_mean, Tensor? "
      "running_var, float momentum, float eps, Tensor counts) -> (Tensor, Tensor)");
  m.def(
      "batch_norm_elemt(Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor invstd, float eps) -> Tensor");
  m.def(
      "batch_norm_backward_reduce(Tensor grad_out, Tensor input, Tensor mean, Tensor invstd, Tensor? weight, bool "
      "input_g, bool weight_g, bool bias_g) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_backward_elemt(Tensor grad_out, Tensor input, Tensor mean, Tensor invstd, Tensor? weight, Tensor "
      "sum_dy, Tensor sum_dy_xmu, Tensor count) -> Tensor");
}

void register_pieces(torch::Library& m) {
  m.impl("batch_norm_stats", TORCH_FN(stats));
  m.impl("batch_norm_gather_stats", TORCH_FN(gather_stats));
  m.impl("batch_norm_gather_stats_with_counts", TORCH_FN(gather_stats_with_counts));
  m.impl("batch_norm_elemt", TORCH_FN(elemt));
  m.impl("batch_norm_backward_reduce", TORCH_FN(backward_reduce));
  m.impl("batch_norm_backward_elemt", TORCH_FN(backward_elemt));
}

TORCH_LIBRARY_IMPL(trn, CPU, m) {
  register_pieces(m);
}
TORCH_LIBRARY_IMPL(trn, Meta, m) {
  register_pieces(m);  // made of operators that have shape rules
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("batch_norm_elemt.out", TORCH_FN(elemt_out));
}

}  // namespace

}  // namespace trn::aten
