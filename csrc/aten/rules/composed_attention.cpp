// Multi-head attention and an encoder's layer as single operators: projections, fused attention, norms, feed-forward.
#include <array>
#include <cmath>

#include "aten/rules/composition.h"

namespace trn::aten::rules {

namespace {

using Values = Composition::Values;

at::Tensor like(const Composition& c, const at::Tensor& x) {
  return c.temporary(x.sizes(), x.scalar_type());
}

// x [.., in] by a weight [out, in].
void project(Composition& c, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
             const at::Tensor& out) {
  c.product(c.flat(x).view({-1, weight.size(1)}), weight.t(), bias, out.view({-1, weight.size(0)}));
}

struct Heads {
  at::Tensor query, key, value;  // [batch, length, heads, head_dim] each
  float scale() const { return 1 / std::sqrt(static_cast<float>(query.size(3))); }
};

// One product for all three.
Heads heads_of(Composition& c, const at::Tensor& x, std::int64_t heads) {
  const at::Tensor weight = c.tensor("qkv_weight");
  const at::Tensor all = c.temporary({x.size(0) * x.size(1), weight.size(0)}, x.scalar_type());
  project(c, x, weight, c.tensor("qkv_bias"), all);
  const at::Tensor parts = all.view({x.size(0), x.size(1), 3, heads, weight.size(0) / (3 * heads)});
  return {parts.select(2, 0), parts.select(2, 1), parts.select(2, 2)};
}

// Of attention, [length, length]; of padding, [batch, length]; or of every score.
at::Tensor mask_of(const Composition& c) {
  const at::Tensor mask = c.tensor("mask");
  if (!mask.defined() || mask.dim() == 4) {
    return mask;
  }
  const bool is_padding = c.args().integer("mask_type", 2) == 1;
  return is_padding ? mask.unsqueeze(1).unsqueeze(1) : mask.unsqueeze(0).unsqueeze(0);
}

// What the fused program adds to the scores.
at::Tensor added_mask(Composition& c, const at::Tensor& mask) {
  const at::Tensor added = c.temporary(mask.sizes());
  c.map({mask}, {added}, [](Expression& e, const Values& v) {
    e.output(0, e.where_not(e.apply(Alu::not_equal, v[0], 0), 0, -kInfinity));
  });
  return added;
}

// softmax(scale q k^T) v as one program, which keeps no weights.
void attend(Composition& c, const Heads& heads, const at::Tensor& context) {
  const at::Tensor& query = heads.query;
  kernels::AttentionShape shape;
  shape.batch = query.size(0);
  shape.q_len = query.size(1);
  shape.heads = shape.kv_heads = query.size(2);
  shape.kv_len = heads.key.size(1);
  shape.head_dim = shape.value_dim = query.size(3);
  shape.dtype = dtype(query);
  shape.scale = heads.scale();
  std::vector<Stack> inputs{{query}, {heads.key}, {heads.value}};
  if (const at::Tensor mask = mask_of(c); mask.defined()) {
    inputs.push_back({added_mask(c, mask)});
    shape.mask = mask.sizes().vec();
  }
  const auto statistics = query.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  c.add(shape, std::move(inputs), {{context}, {c.temporary({shape.batch, shape.heads, shape.q_len}, statistics)}});
}

// The same, where the weights are a result too: of each head, or their mean.
void attend_with_weights(Composition& c, const Heads& heads, const at::Tensor& context, const at::Tensor& given) {
  auto by_head = [](const at::Tensor& tensor) { return tensor.transpose(1, 2); };
  const at::Tensor query = by_head(heads.query), key = by_head(heads.key);
  const at::Tensor scores = c.temporary({query.size(0), query.size(1), query.size(2), key.size(2)});
  c.product(query, key.mT(), {}, scores, heads.scale());
  if (const at::Tensor mask = mask_of(c); mask.defined()) {
    c.map({scores, mask}, {scores}, [](Expression& e, const Values& v) {
      e.output(0, e.where_not(e.apply(Alu::not_equal, v[1], 0), v[0], -kInfinity));
    });
  }
  const bool averages = c.args().boolean("average_attn_weights", true);
  const at::Tensor weights = averages ? c.temporary(scores.sizes(), query.scalar_type()) : given;
  c.softmax({scores}, weights, -1, false);
  c.product(weights, by_head(heads.value), {}, by_head(context));
  if (averages) {
    const std::int64_t over_heads = 1;
    c.reduce({weights}, given, {&over_heads, 1},
             {Alu::add, {}, steps_of(ts(Alu::multiply, 1.0F / static_cast<float>(query.size(1))))});
  }
}

void self_attention(Composition& c, const at::Tensor& x, std::int64_t num_heads, const at::Tensor& out,
                    const at::Tensor& weights) {
  const Heads heads = heads_of(c, x, num_heads);
  const at::Tensor context = c.temporary(heads.query.sizes(), x.scalar_type());
  weights.defined() ? attend_with_weights(c, heads, context, weights) : attend(c, heads, context);
  project(c, context.view(x.sizes()), c.tensor("proj_weight"), c.tensor("proj_bias"), out);
}

// Three tensors that are one are projected by one product. Which they are is not in a launch's key, so that others are
// counted as if they were.
void multi_head_attention(Composition& c) {
  const at::Tensor query = c.tensor("query");
  if (query.numel() == 0 || query.dim() != 3) {
    return;
  }
  if (!query.is_same(c.tensor("key")) || !query.is_same(c.tensor("value"))) {
    c.only_counts();
  }
  self_attention(c, query, c.args().integer("num_head", 1), c.args().output(0), c.args().output(1));
}

void layer_norm(Composition& c, const at::Tensor& x, std::string_view weight, std::string_view bias,
                const at::Tensor& out) {
  kernels::NormShape shape;
  shape.cols = shape.channels = x.size(-1);
  shape.rows = x.numel() / shape.cols;
  shape.dtype = dtype(x);
  shape.parameter_dtype = dtype(c.tensor(weight));
  shape.weight = shape.bias = true;
  shape.eps = static_cast<float>(c.args().number("eps", 1e-5));
  const auto statistics = c.tensor(weight).scalar_type();
  c.add(shape, {{x}, {c.tensor(weight)}, {c.tensor(bias)}},
        {{out}, {c.temporary({shape.rows}, statistics)}, {c.temporary({shape.rows}, statistics)}});
}

void feed_forward(Composition& c, const at::Tensor& x, const at::Tensor& out) {
  const at::Tensor weight = c.tensor("ffn_weight_1");
  const at::Tensor hidden = c.temporary({x.numel() / x.size(-1), weight.size(0)}, x.scalar_type());
  project(c, x, weight, c.tensor("ffn_bias_1"), hidden);
  c.map({hidden}, {hidden}, [&](Expression& e, const Values& v) {
    c.args().boolean("use_gelu", false) ? write_function("gelu", e) : e.output(0, e.activation(Activation::relu, v[0]));
  });
  project(c, hidden, c.tensor("ffn_weight_2"), c.tensor("ffn_bias_2"), out);
}

// Either of two sublayers: its input is normalised before it, or its sum with what goes around it.
void encoder_layer(Composition& c) {
  const at::Tensor src = c.tensor("src");
  if (src.numel() == 0 || src.dim() != 3) {
    return;
  }
  const bool is_first = c.args().boolean("norm_first", false);
  auto sublayer = [&](const at::Tensor& x, std::string_view weight, std::string_view bias, const at::Tensor& out,
                      const auto& apply) {
    at::Tensor input = x;
    if (is_first) {
      input = like(c, x);
      layer_norm(c, x, weight, bias, input);
    }
    const at::Tensor result = like(c, x), sum = is_first ? out : like(c, x);
    apply(input, result);
    c.map({result, x}, {sum}, [](Expression& e, const Values& v) { e.output(0, e.add(v[0], v[1])); });
    if (!is_first) {
      layer_norm(c, sum, weight, bias, out);
    }
  };
  const at::Tensor attended = like(c, src);
  sublayer(src, "norm_weight_1", "norm_bias_1", attended, [&](const at::Tensor& x, const at::Tensor& out) {
    self_attention(c, x, c.args().integer("num_heads", 1), out, {});
  });
  sublayer(attended, "norm_weight_2", "norm_bias_2", c.args().output(),
           [&](const at::Tensor& x, const at::Tensor& out) { feed_forward(c, x, out); });
}

constexpr Composed kAttention[] = {
    {"_native_multi_head_attention", multi_head_attention},
    {"_transformer_encoder_layer_fwd", encoder_layer},
};

}  // namespace

std::span<const Composed> composed_attention() {
  return kAttention;
}

}  // namespace trn::aten::rules
