// Fused attention, forward, of few queries (a token that is generated): the scores of 128 keys lie on the partitions, a
// column for each query of each head, so that no engine works a row of keys at a time and P need not be transposed.
#include <algorithm>
#include <limits>
#include <optional>

#include "kernels/attention_plan.h"
#include "kernels/rows.h"

namespace trn::kernels {

using tiling::ceil_div;
using tiling::hbm_tile;
using tiling::on_chip_tile;

namespace {

using tiling::Dim;
using tiling::Index;
using tiling::Opcode;
using tiling::RowGroup;
using tiling::Tile;

constexpr float kLargest = std::numeric_limits<float>::max();

struct Plan {
  std::int64_t kv_heads = 1;  // that pass together
  std::int64_t heads = 1;     // of the queries, for these
  std::int64_t columns = 1;   // q_len * heads: column q * heads + h
  std::int64_t tiles = 1;     // of 128 keys, loaded together: keys that follow each other share a lane
  std::int64_t key_tiles = 1;
  std::int64_t mask_queries = 1, mask_heads = 1;  // rows of the mask that differ
  std::int64_t copies = 2;                        // of the scores
};

// None where the queries fill tiles of their own, or scores of all keys do not fit.
std::optional<Plan> plan_for(const target::Target& target, const AttentionShape& s, const AttentionPlan& common) {
  const auto& core = target.core;
  const std::int64_t partitions = core.num_partitions, bytes = itemsize(common.dtype),
                     single = itemsize(Dtype::float32);
  const std::int64_t cores = std::max<std::int64_t>(target.device.num_cores, 1);
  if (s.causal || s.backward || s.dropout > 0 ||
      s.batch * s.heads * s.q_len * s.kv_len * s.head_dim * s.value_dim == 0) {
    return {};
  }
  Plan plan;
  plan.tiles = core.moving_free_max_elements / partitions;
  plan.key_tiles = ceil_div(s.kv_len, partitions);
  const std::int64_t d_pieces = ceil_div(s.head_dim, partitions), v_pieces = ceil_div(s.value_dim, partitions);
  auto fits = [&](std::int64_t kv_heads, std::int64_t copies) {
    plan.kv_heads = kv_heads;
    plan.heads = kv_heads * common.group;
    plan.columns = s.q_len * plan.heads;
    plan.mask_queries = common.mask_per_row ? s.q_len : 1;
    plan.mask_heads = common.mask_per_head ? plan.heads : 1;
    plan.copies = copies;
    const std::int64_t keys = plan.tiles * partitions, dims = s.head_dim + s.value_dim;
    const std::int64_t scores = plan.key_tiles * plan.columns * (single + (bytes < single ? bytes : 0));
    const std::int64_t loaded = plan.tiles * kv_heads * dims * bytes + keys * bytes * d_pieces;
    const std::int64_t mask =
        s.mask.empty() ? 0 : plan.mask_queries * plan.mask_heads * keys * itemsize(tiling::sbuf_dtype(s.mask_dtype));
    const std::int64_t queries = 2 * s.q_len * dims * bytes + (d_pieces + v_pieces) * plan.columns * bytes;
    const std::int64_t columns = 8 * partitions * single;
    return plan.columns <= partitions && v_pieces * plan.columns <= core.moving_free_max_elements &&
           copies * scores + 2 * (loaded + mask + queries + columns) <= core.sbuf_bytes_per_partition;
  };
  const std::int64_t most = s.batch < cores ? std::max<std::int64_t>(s.kv_heads * s.batch / cores, 1) : s.kv_heads;
  for (const std::int64_t copies : {2, 1}) {
    for (std::int64_t kv_heads = most; kv_heads > 0; --kv_heads) {
      if (s.kv_heads % kv_heads == 0 && fits(kv_heads, copies)) {
        return plan;
      }
    }
  }
  return {};
}

class FewQueries : AttentionTiles {
 public:
  FewQueries(const target::Target& target, const AttentionShape& shape, const Plan& few)
      : AttentionTiles(target, shape, "attention"), few_(few) {
    give_operands();
    give_tiles();
  }

  program::Program emit() {
    b_.nest("heads");
    b_.parallel_loop(s_.batch, [&](const Index& batch) {
      b_.parallel_loop(s_.kv_heads / few_.kv_heads, [&](const Index& h) { emit_heads(batch, h * few_.kv_heads); });
    });
    return b_.take();
  }

 private:
  void give_tiles() {
    const std::int64_t partitions = plan_.partitions, columns = few_.columns, keys = few_.tiles * partitions;
    auto sbuf = [&](const char* name, Dtype dtype, std::int64_t elements, std::int64_t copies = 2) {
      return b_.sbuf(name, dtype, partitions, elements, copies);
    };
    auto psum = [&](const char* name, Dtype dtype, std::int64_t elements) {
      return b_.psum(name, dtype, partitions, elements);
    };
    q_ = sbuf("query_tile", plan_.dtype, s_.q_len * s_.head_dim);
    q_t_ = sbuf("query_transposed", plan_.dtype, d_pieces_ * columns);
    k_ = sbuf("key_tile", plan_.dtype, few_.tiles * few_.kv_heads * s_.head_dim);
    k_t_ = sbuf("key_transposed", plan_.dtype, keys);
    v_ = sbuf("value_tile", plan_.dtype, few_.tiles * few_.kv_heads * s_.value_dim);
    scores_ = sbuf("scores", Dtype::float32, few_.key_tiles * columns, few_.copies);
    p_ = plan_.dtype == Dtype::float32 ? scores_
                                       : sbuf("probabilities", plan_.dtype, few_.key_tiles * columns, few_.copies);
    column_ = sbuf("column", Dtype::float32, columns);
    extreme_ = sbuf("negated_max", Dtype::float32, 1);
    shift_ = sbuf("negated_max_of_columns", Dtype::float32, columns);
    factor_ = sbuf("factor", Dtype::float32, columns);
    lse_ = sbuf("logsumexp_line", Dtype::float32, columns);
    ones_ = sbuf("ones", Dtype::float32, partitions, 1);
    out_t_ = sbuf("out_transposed", plan_.dtype, v_pieces_ * columns);
    out_ = sbuf("out_tile", plan_.dtype, s_.q_len * s_.value_dim);
    turned_ = psum("turned", plan_.dtype, std::max(keys, s_.value_dim));
    score_ = psum("score_tile", Dtype::float32, few_.tiles * columns);
    product_ = psum("product", Dtype::float32, v_pieces_ * columns);
    turned_line_ = b_.psum("turned_line", Dtype::float32, partitions, partitions, 1);
    if (!s_.mask.empty()) {
      const Dtype dtype = tiling::sbuf_dtype(s_.mask_dtype);
      mask_ = b_.sbuf("mask_lines", dtype, 1, few_.mask_queries * few_.mask_heads * keys);
      mask_ones_ = b_.sbuf("mask_ones", dtype, 1, columns, 1);
      masked_ = sbuf("mask_tile", Dtype::float32, few_.tiles * columns);
      sees_none_ = b_.sbuf("sees_none", Dtype::float32, 1, columns);
      mask_score_ = b_.psum("mask_on_partitions", Dtype::float32, partitions, few_.tiles * columns, 1);
    }
  }

  // The columns of a key head's queries, and of query head h, in a tile of all columns from `at`.
  std::vector<Dim> columns_of_key_head() const { return {{s_.q_len, few_.heads}, {plan_.group, 1}}; }

  // Keys that follow each other in groups of up to `tiles` to a lane: body(first key, group)
  template <class Body>
  void each_keys(Body body) {
    b_.groups(tiling::row_groups(s_.kv_len, plan_.partitions, few_.tiles), body);
  }

  void load(std::int16_t tile, std::int16_t hbm, std::int64_t dim, const Index& batch, const Index& head,
            const Index& first, const RowGroup& group) {
    const std::int64_t row = s_.kv_heads * dim, run = few_.kv_heads * dim;
    b_.dma(on_chip_tile(tile, group.lanes, group.tiles * run),
           hbm_tile(hbm, group.lanes, group.tiles * row, {{group.tiles, row}, {run, 1}},
                    batch * (s_.kv_len * row) + first * row + head * dim));
  }

  void emit_heads(const Index& batch, const Index& kv_head) {
    const std::int64_t partitions = plan_.partitions, columns = few_.columns, ragged = s_.kv_len % partitions;
    const Index head = kv_head * plan_.group;
    emit_queries(batch, head);
    if (ragged > 0) {  // the last tile's lanes without a key
      b_.memset(on_chip_tile(scores_, partitions, columns, Index((few_.key_tiles - 1) * columns)),
                -std::numeric_limits<float>::infinity());
    }
    each_keys([&](const Index& first, const RowGroup& group) { emit_scores(batch, kv_head, first, group); });
    emit_exponentials();
    bool after = false;
    each_keys([&](const Index& first, const RowGroup& group) {
      load(v_, v_hbm_, s_.value_dim, batch, kv_head, first, group);
      const int depth = b_.depth() - 1;
      b_.loop(group.tiles, [&](const Index& j) {
        b_.loop(few_.kv_heads, [&](const Index& k) {
          b_.tiles(s_.value_dim, partitions, [&](const Index& c, std::int64_t width) {
            const Index at = c / partitions * columns + k * plan_.group;
            b_.matmul(on_chip_tile(product_, width, columns_of_key_head(), at),
                      on_chip_tile(v_, group.lanes, width, j * (few_.kv_heads * s_.value_dim) + k * s_.value_dim + c),
                      on_chip_tile(p_, group.lanes, columns_of_key_head(),
                                   first / partitions * columns + j * columns + k * plan_.group),
                      after ? program::kAccumulate : static_cast<std::int16_t>(depth), 2);
          });
        });
      });
      after = true;
    });
    emit_results(batch, head);
  }

  // [q_len * heads] columns of queries
  void emit_queries(const Index& batch, const Index& head) {
    const std::int64_t row = s_.heads * s_.head_dim;
    b_.dma(on_chip_tile(q_, few_.heads, s_.q_len * s_.head_dim),
           hbm_tile(q_hbm_, few_.heads, s_.head_dim, {{s_.q_len, row}, {s_.head_dim, 1}},
                    batch * (s_.q_len * row) + head * s_.head_dim));
    b_.loop(s_.q_len, [&](const Index& q) {
      transpose_into(q_t_, q * few_.heads, few_.columns, q_, q * s_.head_dim, few_.heads, s_.head_dim);
    });
  }

  // scale K q + mask: keys on partitions
  void emit_scores(const Index& batch, const Index& kv_head, const Index& first, const RowGroup& group) {
    const std::int64_t partitions = plan_.partitions, columns = few_.columns;
    load(k_, k_hbm_, s_.head_dim, batch, kv_head, first, group);
    b_.loop(few_.kv_heads, [&](const Index& k) {
      bool after = false;
      b_.tiles(s_.head_dim, partitions, [&](const Index& d, std::int64_t width) {
        const Index from = k * s_.head_dim + d;
        b_.loop(group.tiles, [&](const Index& j) {
          b_.transpose(on_chip_tile(turned_, width, group.lanes, j * group.lanes),
                       on_chip_tile(k_, group.lanes, width, j * (few_.kv_heads * s_.head_dim) + from));
        });
        const std::int64_t keys = group.rows();
        b_.tensor_copy(on_chip_tile(k_t_, width, keys), on_chip_tile(turned_, width, keys));
        b_.loop(group.tiles, [&](const Index& j) {
          b_.matmul(on_chip_tile(score_, group.lanes, columns_of_key_head(), j * columns + k * plan_.group),
                    on_chip_tile(k_t_, width, group.lanes, j * group.lanes),
                    on_chip_tile(q_t_, width, columns_of_key_head(), d / partitions * columns + k * plan_.group),
                    after ? program::kAccumulate : program::kOverwrite);
        });
        after = true;
      });
    });
    const std::int64_t elements = group.tiles * columns;
    const Tile scores = on_chip_tile(scores_, group.lanes, elements, first / partitions * columns);
    const Tile products = on_chip_tile(score_, group.lanes, elements);
    if (s_.mask.empty()) {
      b_.tensor_scalar(scores, products, Alu::multiply, s_.scale);
      return;
    }
    emit_mask(batch, kv_head * plan_.group, first, group);
    const Tile masked = on_chip_tile(masked_, group.lanes, elements);
    b_.tensor_copy(masked, on_chip_tile(mask_score_, group.lanes, elements), program::Engine::scalar);
    b_.emit({.opcode = Opcode::scalar_tensor_tensor,
             .dst = scores,
             .src = {products, masked},
             .alu0 = Alu::multiply,
             .alu1 = Alu::add,
             .scalar0 = s_.scale});
  }

  // Rows of the mask, keys along them, times ones: exact, as each sum has one term.
  void emit_mask(const Index& batch, const Index& head, const Index& first, const RowGroup& group) {
    const auto [of_batch, of_head, of_row, of_key] = plan_.mask_strides;
    const std::int64_t keys = group.rows(), queries = few_.mask_queries, heads = few_.mask_heads;
    b_.dma(on_chip_tile(mask_, 1, queries * heads * keys),
           hbm_tile(mask_hbm_, 1, 0, {{queries, of_row}, {heads, of_head}, {keys, of_key}},
                    batch * of_batch + head * of_head + first * of_key));
    const std::vector<Dim> same = {{queries > 1 ? 1 : s_.q_len, few_.heads}, {heads > 1 ? 1 : few_.heads, 1}};
    const Tile ones = on_chip_tile(mask_ones_, 1, same[0].size * same[1].size);
    b_.memset(ones, 1);
    b_.loop(queries, [&](const Index& q) {
      b_.loop(heads, [&](const Index& h) {
        b_.loop(group.tiles, [&](const Index& j) {
          b_.matmul(on_chip_tile(mask_score_, group.lanes, same, j * few_.columns + q * few_.heads + h),
                    on_chip_tile(mask_, 1, {{group.lanes, group.tiles}}, q * (heads * keys) + h * keys + j), ones);
        });
      });
    });
  }

  // exp(scores - max), each column's own, and the factor and log-sum-exp of each.
  void emit_exponentials() {
    const std::int64_t partitions = plan_.partitions, columns = few_.columns, tiles = few_.key_tiles;
    const std::vector<Dim> by_column = {{columns, 1}, {tiles, columns}}, all = {{tiles, columns}, {columns, 1}};
    const Tile column = on_chip_tile(column_, partitions, columns), extreme = on_chip_tile(extreme_, columns, 1);
    const Tile shift = on_chip_tile(shift_, partitions, columns), scores = on_chip_tile(scores_, partitions, all);
    b_.tensor_reduce(column, on_chip_tile(scores_, partitions, by_column), Alu::maximum);
    b_.tensor_scalar(column, column, Alu::maximum, -kLargest);  // TensorE of NeuronCore-v2 spreads infinities
    b_.transpose(on_chip_tile(turned_line_, columns, partitions), column);
    b_.tensor_reduce(extreme, on_chip_tile(turned_line_, columns, partitions), Alu::maximum);
    b_.tensor_scalar(extreme, extreme, Alu::multiply, -1, Alu::minimum, kLargest);
    b_.transpose(on_chip_tile(turned_line_, partitions, columns), on_chip_tile(extreme_, columns, {{partitions, 0}}));
    b_.tensor_copy(shift, on_chip_tile(turned_line_, partitions, columns));
    b_.tensor_tensor(scores, scores, on_chip_tile(shift_, partitions, {{tiles, 0}, {columns, 1}}), Alu::add);
    b_.activation(scores, scores, Activation::exp);
    b_.tensor_reduce(column, on_chip_tile(scores_, partitions, by_column), Alu::add);
    if (p_ != scores_) {
      b_.tensor_copy(on_chip_tile(p_, partitions, all), scores);
    }
    const Tile ones = on_chip_tile(ones_, partitions, partitions),
               total = on_chip_tile(turned_line_, partitions, columns);
    b_.memset(ones, 1);
    b_.matmul(total, ones, column);
    const Tile lse = on_chip_tile(lse_, 1, columns), total_line = on_chip_tile(turned_line_, 1, columns);
    b_.activation(lse, total_line, Activation::log);
    b_.tensor_tensor(lse, lse, on_chip_tile(shift_, 1, columns), Alu::subtract);
    const Tile factor = on_chip_tile(factor_, partitions, columns);
    if (s_.mask.empty()) {
      rows::op(b_, Opcode::reciprocal, factor, {total});
      return;
    }
    // A query that sees no key is 0, and so is its log-sum-exp.
    const Tile sees_none = on_chip_tile(sees_none_, 1, columns);
    b_.tensor_scalar(sees_none, total_line, Alu::equal, 0);
    rows::op(b_, Opcode::tensor_copy_predicated, lse, {lse, sees_none});
    b_.tensor_scalar(factor, total, Alu::maximum, std::numeric_limits<float>::min());
    rows::op(b_, Opcode::reciprocal, factor, {factor});
  }

  void emit_results(const Index& batch, const Index& head) {
    const std::int64_t partitions = plan_.partitions, columns = few_.columns, dim = s_.value_dim;
    b_.tiles(dim, partitions, [&](const Index& c, std::int64_t width) {
      const Index at = c / partitions * columns;
      b_.tensor_tensor(on_chip_tile(out_t_, width, columns, at), on_chip_tile(product_, width, columns, at),
                       on_chip_tile(factor_, width, columns), Alu::multiply);
    });
    b_.loop(s_.q_len, [&](const Index& q) {
      b_.tiles(dim, partitions, [&](const Index& c, std::int64_t width) {
        const Tile turned = on_chip_tile(turned_, few_.heads, width);
        b_.transpose(turned, on_chip_tile(out_t_, width, few_.heads, c / partitions * columns + q * few_.heads));
        b_.tensor_copy(on_chip_tile(out_, few_.heads, width, q * dim + c), turned);
      });
    });
    const std::int64_t row = s_.heads * dim;
    b_.dma(hbm_tile(out_hbm_, few_.heads, dim, {{s_.q_len, row}, {dim, 1}}, batch * (s_.q_len * row) + head * dim),
           on_chip_tile(out_, few_.heads, s_.q_len * dim));
    b_.dma(hbm_tile(lse_hbm_, 1, 0, {{s_.q_len, 1}, {few_.heads, s_.q_len}},
                    batch * (s_.heads * s_.q_len) + head * s_.q_len),
           on_chip_tile(lse_, 1, columns));
  }

  const Plan few_;
  std::int16_t q_ = -1, k_ = -1, v_ = -1, scores_ = -1, p_ = -1, column_ = -1, extreme_ = -1, shift_ = -1, factor_ = -1,
               lse_ = -1, ones_ = -1, mask_ones_ = -1, sees_none_ = -1, mask_score_ = -1, out_t_ = -1, out_ = -1,
               product_ = -1;
};

}  // namespace

std::optional<program::Program> attention_few_queries(const target::Target& target, const AttentionShape& shape) {
  const auto plan = plan_for(target, shape, AttentionPlan(target, shape));
  return plan ? std::optional(FewQueries(target, shape, *plan).emit()) : std::nullopt;
}

}  // namespace trn::kernels
