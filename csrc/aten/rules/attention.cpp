// Count rules of fused attention.
#include "aten/rules/attention.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "aten/rules/matmul.h"
#include "aten/rules/steps.h"

namespace trn::aten::rules {

namespace {

using kernels::AttentionShape;

Spec checked(const AttentionShape& s) {
  const bool work = s.batch > 0 && s.heads > 0 && s.q_len > 0 && s.kv_len > 0 && s.head_dim > 0 && s.value_dim > 0;
  return work ? Spec{s} : Spec{};
}

// Sizes by [batch, heads, q_len, kv_len], 1 where all read the same.
void add_mask(AttentionShape& shape, const LaunchArguments& args) {
  for (const auto name : {"attn_bias", "attn_mask", "mask"}) {
    const auto& mask = args.tensor(name);
    if (is_strided(mask) && is_device_tensor(mask) && mask.dim() <= 4 && mask.numel() > 0) {
      shape.mask_dtype = dtype(mask);
      shape.mask.assign(4, 1);
      for (std::int64_t d = 1; d <= mask.dim(); ++d) {
        shape.mask[static_cast<std::size_t>(4 - d)] = mask.stride(-d) == 0 ? 1 : mask.size(-d);
      }
      if (mask.dim() == 2 && mask.size(0) != shape.q_len) {  // of padding: [batch, kv_len]
        std::swap(shape.mask[0], shape.mask[2]);
      }
      return;
    }
  }
}

float default_scale(std::int64_t head_dim) {
  return 1 / std::sqrt(static_cast<float>(std::max<std::int64_t>(head_dim, 1)));
}

// x [.., in] times weight [out, in] transposed, with a bias of `out`.
Spec projection(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (!is_strided(weight) || numel(x) == 0) {
    return {};
  }
  auto shape =
      matmul_shape(dtype(x), numel(x) / std::max<std::int64_t>(size(x, -1), 1), size(weight, 0), size(weight, -1));
  shape.b_dtype = dtype(weight);
  shape.b_k_major = false;
  shape.bias_elements = is_strided(bias) ? numel(bias) : 0;
  return {shape};
}

Spec self_attention(const LaunchArguments& args, const at::Tensor& query, const at::Tensor& key,
                    const at::Tensor& value, std::int64_t heads) {
  auto spec = projection(query, args.tensor("qkv_weight"), args.tensor("qkv_bias"));
  heads = std::max<std::int64_t>(heads, 1);
  AttentionShape shape;
  shape.batch = query.is_nested() ? 1 : size(query, 0);
  shape.heads = shape.kv_heads = heads;
  shape.head_dim = shape.value_dim = size(query, -1) / heads;
  shape.q_len = size(query, 1);
  shape.kv_len = size(key, 1);
  shape.dtype = dtype(value);
  shape.scale = default_scale(shape.head_dim);
  add_mask(shape, args);
  spec = concat(std::move(spec), checked(shape));
  return concat(std::move(spec), projection(query, args.tensor("proj_weight"), args.tensor("proj_bias")));
}

Spec layer_norm(const at::Tensor& x, const at::Tensor& weight) {
  kernels::NormShape shape;
  shape.cols = size(x, -1);
  shape.rows = shape.cols == 0 ? 0 : numel(x) / shape.cols;
  shape.channels = shape.cols;
  shape.dtype = dtype(x);
  shape.parameter_dtype = dtype(weight);
  shape.weight = shape.bias = true;
  return shape.rows > 0 ? Spec{shape} : Spec{};
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

Spec multi_head_attention(const LaunchArguments& args) {
  return self_attention(args, args.tensor("query"), args.tensor("key"), args.tensor("value"),
                        args.integer("num_head", 1));
}

Spec transformer_encoder_layer(const LaunchArguments& args) {
  const auto& src = args.tensor("src");
  const auto& first = args.tensor("ffn_weight_1");
  auto spec = self_attention(args, src, src, src, args.integer("num_heads", 1));
  spec = concat(std::move(spec), layer_norm(src, args.tensor("norm_weight_1")));
  spec = concat(std::move(spec), projection(src, first, args.tensor("ffn_bias_1")));
  const auto tokens = size(src, -1) == 0 ? 0 : numel(src) / size(src, -1);
  if (is_strided(first) && tokens > 0) {
    const auto hidden = size(first, 0);
    const auto activation = args.boolean("use_gelu", false) ? Activation::gelu : Activation::relu;
    spec = concat(std::move(spec), stream(tokens * hidden, {dense(dtype(src), tokens * hidden)},
                                          {dense(dtype(src), tokens * hidden)}, steps_of(act(activation))));
    auto second = matmul_shape(dtype(src), tokens, size(src, -1), hidden);
    second.b_k_major = false;
    second.bias_elements = size(src, -1);
    spec.emplace_back(second);
  }
  spec = concat(std::move(spec), layer_norm(src, args.tensor("norm_weight_2")));
  // Two residual additions.
  const auto x = access_of(src);
  for (int i = 0; i < 2; ++i) {
    spec = concat(std::move(spec), stream(numel(src), {x, x}, {x}, steps_of(tt(Alu::add))));
  }
  return spec;
}

}  // namespace trn::aten::rules
