// Binds the operands of fused attention: heads inside of positions, as a projection leaves them.
#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "aten/alias.h"
#include "aten/execution.h"

namespace trn::aten {

namespace {

bool is_fused_attention(std::string_view name) {
  constexpr std::string_view kNames[] = {
      "_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_fused_attention_overrideable_backward",
      "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward"};
  return std::ranges::find(kNames, name) != std::end(kNames);
}

const at::Tensor& mask_of(const LaunchArguments& args) {
  const at::Tensor& bias = args.tensor("attn_bias");
  return bias.defined() ? bias : args.tensor("attn_mask");
}

// [batch, heads, length, dim] as [batch, length, heads, dim]
at::Tensor by_position(const at::Tensor& tensor) {
  return cpu_alias(tensor).transpose(1, 2);
}

// The distinct elements of a mask.
at::Tensor staged_mask(const at::Tensor& mask, const std::vector<std::int64_t>& sizes) {
  at::Tensor staged = cpu_alias(mask);
  while (staged.dim() < static_cast<std::int64_t>(sizes.size())) {
    staged = staged.unsqueeze(0);
  }
  for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
    staged = staged.narrow(static_cast<std::int64_t>(axis), 0, sizes[axis]);
  }
  return staged.contiguous();
}

bool is_operand(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.defined() && is_plain(tensor) && tensor.dim() == 4 && tensor.scalar_type() == dtype;
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::AttentionShape& shape,
                                   const program::Program&) {
  const at::Tensor& mask = mask_of(args);
  // The numbers of dropout are a function of the core's seed alone: a launch has none of its own to give.
  if (!is_fused_attention(args.base_name()) || shape.dropout > 0 || mask.defined() == shape.mask.empty() ||
      (mask.defined() && !is_plain(mask))) {
    return std::nullopt;
  }
  const auto dtype = args.tensor("query").scalar_type();
  BoundPart bound;
  auto add_inputs = [&](std::initializer_list<const char*> names) {
    return std::ranges::all_of(names, [&](const char* name) {
      const at::Tensor& tensor = args.tensor(name);
      if (is_operand(tensor, dtype)) {
        bound.inputs.push_back(by_position(tensor).contiguous());
      }
      return is_operand(tensor, dtype);
    });
  };
  auto add_outputs = [&](int count) {
    for (int i = 0; i < count; ++i) {
      if (!is_operand(args.output(i), dtype)) {
        return false;
      }
      bound.outputs.push_back(dense_result(by_position(args.output(i))));
    }
    return true;
  };
  const at::Tensor& statistics = shape.backward ? args.tensor("logsumexp") : args.output(1);
  const auto statistics_dtype = dtype == at::kDouble ? at::kDouble : at::kFloat;
  if (!statistics.defined() || !is_plain(statistics) || statistics.scalar_type() != statistics_dtype) {
    return std::nullopt;
  }
  if (shape.backward) {
    if (!add_inputs({"grad_out", "query", "key", "value", "out"}) || !add_outputs(3)) {
      return std::nullopt;
    }
    bound.inputs.push_back(cpu_alias(statistics).contiguous());
  } else {
    if (!add_inputs({"query", "key", "value"}) || !add_outputs(1)) {
      return std::nullopt;
    }
    bound.outputs.push_back(dense_result(cpu_alias(statistics)));
  }
  if (mask.defined()) {
    bound.inputs.push_back(staged_mask(mask, shape.mask));
  }
  return bound;
}

}  // namespace trn::aten
