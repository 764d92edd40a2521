// Count rules of fused attention.
#include "aten/rules/attention.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace trn::aten::rules {

namespace {

using kernels::AttentionShape;

Spec checked(const AttentionShape& s) {
  const bool work = s.batch > 0 && s.heads > 0 && s.q_len > 0 && s.kv_len > 0 && s.head_dim > 0 && s.value_dim > 0;
  return work ? Spec{s} : Spec{};
}

// Sizes by [batch, heads, q_len, kv_len], 1 where all read the same.
void add_mask(AttentionShape& shape, const LaunchArguments& args) {
  for (const auto name : {"attn_bias", "attn_mask"}) {
    const auto& mask = args.tensor(name);
    if (is_strided(mask) && is_device_tensor(mask) && mask.dim() <= 4 && mask.numel() > 0) {
      shape.mask_dtype = dtype(mask);
      shape.mask.assign(4, 1);
      for (std::int64_t d = 1; d <= mask.dim(); ++d) {
        shape.mask[static_cast<std::size_t>(4 - d)] = mask.stride(-d) == 0 ? 1 : mask.size(-d);
      }
      return;
    }
  }
}

float default_scale(std::int64_t head_dim) {
  return 1 / std::sqrt(static_cast<float>(std::max<std::int64_t>(head_dim, 1)));
}

}  // namespace

Spec attention(const LaunchArguments& args) {
  const auto& query = args.tensor("query");
  const auto& key = args.tensor("key");
  const auto& value = args.tensor("value");
  if (!is_strided(query) || !is_strided(key) || !is_strided(value) || query.dim() < 3) {
    return {};
  }
  AttentionShape shape;
  shape.batch = query.dim() > 3 ? query.size(0) : 1;
  shape.heads = size(query, -3);
  shape.kv_heads = size(key, -3);
  shape.q_len = size(query, -2);
  shape.kv_len = size(key, -2);
  shape.head_dim = size(query, -1);
  shape.value_dim = size(value, -1);
  shape.dtype = dtype(query);
  shape.causal = args.boolean("is_causal", false);
  shape.backward = args.find("grad_out") >= 0;
  shape.dropout = static_cast<float>(args.number("dropout_p", 0));
  shape.scale = static_cast<float>(args.number("scale", default_scale(shape.head_dim)));
  add_mask(shape, args);
  return or_fill(checked(shape), args);
}

}  // namespace trn::aten::rules
