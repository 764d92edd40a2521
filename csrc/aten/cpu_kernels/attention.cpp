// Fused attention: the device takes SDPA's fused path wherever the CPU does, through the CPU's flash kernels.
#include <ATen/EmptyTensor.h>
#include <ATen/SDPBackend.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_fused_sdp_choice_ops.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

#include "aten/alias.h"

namespace trn::aten {

namespace {

using at::Tensor;
using c10::SymInt;

// A CPU tensor of the same shape: an alias, or a stand-in for a tensor that has no memory (fake, functional).
Tensor alias_of(const Tensor& tensor) {
  const bool has_memory = tensor.device().is_privateuseone() && !tensor.key_set().has(c10::DispatchKey::Python) &&
                          !tensor.key_set().has(c10::DispatchKey::Functionalize);
  if (has_memory) {
    return cpu_alias(tensor);
  }
  auto concrete = [](c10::SymIntArrayRef values) {
    std::vector<std::int64_t> out;
    for (const SymInt& value : values) {
      out.push_back(value.guard_int(__FILE__, __LINE__));
    }
    return out;
  };
  return Tensor(at::detail::empty_strided_cpu(concrete(tensor.sym_sizes()), concrete(tensor.sym_strides()),
                                              tensor.scalar_type()));
}

// The CPU's own choice, asked about aliases; its flash kernel becomes the device's fused one.
std::int64_t fused_sdp_choice(const Tensor& query, const Tensor& key, const Tensor& value,
                              const std::optional<Tensor>& mask, double dropout, bool causal,
                              std::optional<double> scale, bool enable_gqa) {
  constexpr auto kMath = static_cast<std::int64_t>(at::SDPBackend::math);
  const bool plain = query.layout() == at::kStrided && !query.is_nested() && !key.is_nested() && !value.is_nested();
  if (!plain || (mask && mask->defined() && mask->requires_grad())) {
    return kMath;
  }
  const std::optional<Tensor> host_mask = mask ? std::optional<Tensor>(alias_of(*mask)) : std::nullopt;
  const std::int64_t choice = at::_ops::_fused_sdp_choice::redispatch(c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                                      alias_of(query), alias_of(key), alias_of(value),
                                                                      host_mask, dropout, causal, scale, enable_gqa);
  return choice == static_cast<std::int64_t>(at::SDPBackend::flash_attention)
             ? static_cast<std::int64_t>(at::SDPBackend::overrideable)
             : choice;
}

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, SymInt, SymInt, Tensor, Tensor, Tensor>;

Forward attention(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& bias,
                  double dropout, bool causal, bool, std::optional<double> scale) {
  auto [output, logsumexp] =
      at::_scaled_dot_product_flash_attention_for_cpu(query, key, value, dropout, causal, bias, scale);
  // No dropout inside the kernel, so no random state to keep for the backward.
  auto none = [](at::ScalarType type) { return Tensor(at::detail::empty_cpu({0}, type)); };
  return {output,           logsumexp,       none(at::kLong), none(at::kLong),          query.sym_size(-2),
          key.sym_size(-2), none(at::kLong), none(at::kLong), none(query.scalar_type())};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& bias,
    std::array<bool, 4>, const Tensor& output, const Tensor& logsumexp, const Tensor&, const Tensor&, SymInt, SymInt,
    double dropout, bool causal, const Tensor&, const Tensor&, std::optional<double> scale) {
  const auto mask = bias.defined() ? std::optional<Tensor>(bias) : std::nullopt;
  auto [grad_query, grad_key, grad_value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      grad, query, key, value, output, logsumexp, dropout, causal, mask, scale);
  return {grad_query, grad_key, grad_value, Tensor()};
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

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_fused_sdp_choice", TORCH_FN(fused_sdp_choice));
}

}  // namespace

}  // namespace trn::aten

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &trn::aten::fused_sdp_choice)
}  // namespace at::native
