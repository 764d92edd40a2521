// RMS norm as one operator. PyTorch's CPU takes it apart, and has no kernel of its backward pass: the parts run here,
// in the order and with the roundings of eager's, so that values and gradients are the CPU's.
#include <ATen/ExpandUtils.h>
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "aten/allocator.h"
#include "aten/cpu_kernels/optional_tensor.h"

namespace trn::aten {

namespace {

using at::IntArrayRef;
using at::Tensor;

std::tuple<Tensor, Tensor> rms_norm(const Tensor& input, IntArrayRef normalized_shape, const OptionalTensor& weight,
                                    std::optional<double> eps) {
  const auto [result, rstd] = [&] {
    const DeviceScope host(-1);  // the parts' results are not the device's
    return at::_fused_rms_norm(input, normalized_shape, weight, eps);
  }();
  return {result.clone(), rstd.clone()};
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad_out, const Tensor& input, IntArrayRef normalized_shape,
                                             const Tensor& rstd, const OptionalTensor& weight,
                                             std::array<bool, 2> output_mask) {
  const bool has_weight = is_given(weight);
  const auto [of_input, of_weight] = [&]() -> std::tuple<Tensor, Tensor> {
    const DeviceScope host(-1);
    const at::ScalarType wide = rstd.scalar_type();
    const Tensor x = input.to(wide), normalized = x.mul(rstd);
    const Tensor grad = grad_out.to(has_weight ? at::result_type(normalized, *weight) : wide);
    Tensor weight_gradient, input_gradient;
    if (has_weight && output_mask[1]) {
      weight_gradient = at::sum_to(grad * normalized, weight->sizes()).to(weight->scalar_type());
    }
    if (output_mask[0]) {
      const Tensor scaled = has_weight ? (grad * *weight).to(wide) : grad;
      const Tensor of_rstd = at::sum_to(scaled * x, rstd.sizes());
      const Tensor of_mean = -0.5 * of_rstd * rstd.pow(3);
      const Tensor of_square = of_mean.expand(x.sizes()) / c10::multiply_integers(normalized_shape);
      input_gradient = (scaled * rstd + of_square * (2 * x)).to(input.scalar_type());
    }
    return {input_gradient, weight_gradient};
  }();
  return {of_input.defined() ? of_input.clone() : Tensor(), of_weight.defined() ? of_weight.clone() : Tensor()};
}

TORCH_LIBRARY_FRAGMENT(trn, m) {
  m.def("_fused_rms_norm(Tensor input, int[] normalized_shape, Tensor? weight, float? eps) -> (Tensor, Tensor)");
  m.def(
      "_fused_rms_norm_backward(Tensor grad_out, Tensor input, int[] normalized_shape, Tensor rstd, Tensor? weight, "
      "bool[2] output_mask) -> (Tensor, Tensor)");
}

void register_passes(torch::Library& m) {
  m.impl("_fused_rms_norm", TORCH_FN(rms_norm));
  m.impl("_fused_rms_norm_backward", TORCH_FN(rms_norm_backward));
}
TORCH_LIBRARY_IMPL(trn, CPU, m) {
  register_passes(m);
}
TORCH_LIBRARY_IMPL(trn, Meta, m) {
  register_passes(m);  // made of operators that have shape rules
}

}  // namespace

}  // namespace trn::aten
