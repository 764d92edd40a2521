// Fused attention: the device takes SDPA's fused path wherever the CPU does, through the CPU's flash kernels.
#include <ATen/ExpandUtils.h>
#include <ATen/SDPBackend.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_fused_sdp_choice_native.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward_native.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

#include "aten/allocator.h"
#include "aten/system.h"

namespace trn::aten {

namespace {

using at::Tensor;
using c10::SymInt;

// The CPU's own choice, which reads shapes and strides alone; its flash kernel becomes the device's fused one.
std::int64_t fused_sdp_choice(const Tensor& query, const Tensor& key, const Tensor& value,
                              const std::optional<Tensor>& mask, double dropout, bool causal,
                              std::optional<double> scale, bool enable_gqa) {
  constexpr auto kMath = static_cast<std::int64_t>(at::SDPBackend::math);
  const bool plain = query.layout() == at::kStrided && !query.is_nested() && !key.is_nested() && !value.is_nested();
  // vmap has no rule for the fused operator, nor one that would run it sample by sample; torch.func's other
  // transformations may have a vmap inside.
  constexpr c10::DispatchKeySet kTransformed(
      {c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::FuncTorchGradWrapper});
  if ((query.key_set() | key.key_set() | value.key_set()).has_any(kTransformed)) {
    return kMath;
  }
  if (!plain || (mask && mask->defined() && mask->requires_grad())) {
    return kMath;
  }
  const std::int64_t choice =
      at::native::_fused_sdp_choice_cpp(query, key, value, mask, dropout, causal, scale, enable_gqa);
  return choice == static_cast<std::int64_t>(at::SDPBackend::flash_attention)
             ? static_cast<std::int64_t>(at::SDPBackend::overrideable)
             : choice;
}

// One empty tensor for all calls: the device's own, or the CPU's outside of a launch.
const Tensor& empty_on(int device_index) {
  thread_local std::vector<Tensor> empties;
  const auto slot = static_cast<std::size_t>(device_index + 1);
  if (empties.size() <= slot) {
    empties.resize(slot + 1);
  }
  if (!empties[slot].defined()) {
    const c10::Device place = device_index < 0 ? c10::Device(c10::kCPU) : device(device_index);
    empties[slot] = at::empty({0}, at::TensorOptions(place).dtype(at::kLong));
  }
  return empties[slot];
}

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, SymInt, SymInt, Tensor, Tensor, Tensor>;

Forward attention(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& bias,
                  double dropout, bool causal, bool, std::optional<double> scale) {
  auto [output, logsumexp] =
      at::native::_scaled_dot_product_flash_attention_cpu(query, key, value, dropout, causal, bias, scale);
  // No dropout inside the kernel, so no random state to keep for the backward; as the meta kernel, no sequence lengths.
  const Tensor& no_state = empty_on(DeviceScope::current());
  return {output, logsumexp, Tensor(), Tensor(), query.sym_size(-2), key.sym_size(-2), no_state, no_state, Tensor()};
}

// The layout that PyTorch's rule of shapes for the operator gives a gradient, its operand's: the CPU's kernel, which
// has another operator, would leave every head's to be copied before the projections' products.
Tensor laid_out_as(const Tensor& operand, const Tensor& grad) {
  if (!grad.defined()) {
    return grad;
  }
  const std::vector<std::int64_t> strides = operand.is_non_overlapping_and_dense()
                                                ? operand.strides().vec()
                                                : at::infer_dense_strides(operand.sizes(), operand.strides());
  return grad.strides().equals(strides) ? grad
                                        : at::empty_strided(operand.sizes(), strides, grad.options()).copy_(grad);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& bias,
    std::array<bool, 4>, const Tensor& output, const Tensor& logsumexp, const Tensor&, const Tensor&, SymInt, SymInt,
    double dropout, bool causal, const Tensor&, const Tensor&, std::optional<double> scale) {
  const auto mask = bias.defined() ? std::optional<Tensor>(bias) : std::nullopt;
  auto [grad_query, grad_key, grad_value] = at::native::_scaled_dot_product_flash_attention_cpu_backward(
      grad, query, key, value, output, logsumexp, dropout, causal, mask, scale);
  return {laid_out_as(query, grad_query), laid_out_as(key, grad_key), laid_out_as(value, grad_value), Tensor()};
}

// Of shapes alone: PyTorch's own rules for the same kernels.
Forward attention_shapes(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& bias,
                         double dropout, bool causal, bool, std::optional<double> scale) {
  auto [output, logsumexp] =
      at::_scaled_dot_product_flash_attention_for_cpu(query, key, value, dropout, causal, bias, scale);
  const Tensor no_state = at::empty({0}, query.options().dtype(at::kLong));
  return {output, logsumexp, Tensor(), Tensor(), query.sym_size(-2), key.sym_size(-2), no_state, no_state, Tensor()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward_shapes(const Tensor&, const Tensor& query,
                                                                     const Tensor& key, const Tensor& value,
                                                                     const Tensor&, std::array<bool, 4>, const Tensor&,
                                                                     const Tensor&, const Tensor&, const Tensor&,
                                                                     SymInt, SymInt, double, bool, const Tensor&,
                                                                     const Tensor&, std::optional<double>) {
  return {at::empty_like(query), at::empty_like(key), at::empty_like(value), Tensor()};
}

TORCH_LIBRARY_FRAGMENT(trn, m) {
  m.def(
      "_scaled_dot_product_fused_attention_overrideable(Tensor query, Tensor key, Tensor value, Tensor? "
      "attn_bias=None, "
      "float dropout_p=0.0, bool is_causal=False, bool return_debug_mask=False, *, float? scale=None) -> (Tensor "
      "output, Tensor logsumexp, Tensor cum_seq_q, Tensor cum_seq_k, SymInt max_q, SymInt max_k, Tensor philox_seed, "
      "Tensor philox_offset, Tensor debug_attn_mask)");
  m.def(
      "_scaled_dot_product_fused_attention_overrideable_backward(Tensor grad_out, Tensor query, Tensor key, Tensor "
      "value, Tensor attn_bias, bool[4] grad_input_mask, Tensor out, Tensor logsumexp, Tensor cum_seq_q, Tensor "
      "cum_seq_k, SymInt max_q, SymInt max_k, float dropout_p, bool is_causal, Tensor philox_seed, Tensor "
      "philox_offset, *, float? scale=None) -> (Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor "
      "grad_attn_bias)");
}

TORCH_LIBRARY_IMPL(trn, CPU, m) {
  m.impl("_scaled_dot_product_fused_attention_overrideable", TORCH_FN(attention));
  m.impl("_scaled_dot_product_fused_attention_overrideable_backward", TORCH_FN(attention_backward));
}

TORCH_LIBRARY_IMPL(trn, Meta, m) {
  m.impl("_scaled_dot_product_fused_attention_overrideable", TORCH_FN(attention_shapes));
  m.impl("_scaled_dot_product_fused_attention_overrideable_backward", TORCH_FN(attention_backward_shapes));
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_fused_sdp_choice", TORCH_FN(fused_sdp_choice));
}

}  // namespace

}  // namespace trn::aten

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &trn::aten::fused_sdp_choice)
}  // namespace at::native
