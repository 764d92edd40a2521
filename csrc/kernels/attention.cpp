// Fused attention, forward: scores of 128 queries x 512 keys, softmax online, probabilities transposed for P V.
#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "kernels/attention_plan.h"
#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/rows.h"
#include "program/count.h"
#include "target/error.h"

namespace trn::kernels {

using tiling::on_chip_tile;
using tiling::Opcode;

namespace {

constexpr std::int64_t kWidestHead = 1024;  // the backward pass keeps two such sums in PSUM

bool is_float(Dtype dtype) {
  return dtype == Dtype::float32 || dtype == Dtype::bfloat16 || dtype == Dtype::float16 || dtype == Dtype::float64;
}

class AttentionForward : AttentionTiles {
 public:
  AttentionForward(const target::Target& target, const AttentionShape& shape)
      : AttentionTiles(target, shape, "attention") {
    give_operands();
    const std::int64_t queries = s_.batch * s_.heads * s_.q_len;
    if (plan_.kv_span < plan_.kv_used) {
      partial_out_ = b_.temporary("partial_out", Dtype::float32, queries * s_.value_dim);
      partial_stats_ = b_.temporary("partial_statistics", Dtype::float32, 2 * queries);
    }
    give_tiles();
  }

  program::Program emit() {
    const std::int64_t queries = s_.batch * s_.heads * s_.q_len;
    if (queries > 0 && plan_.kv_used == 0) {
      zero(out_hbm_, queries * s_.value_dim);
      zero(lse_hbm_, queries);
    } else if (queries > 0) {
      each_group([&](const Index& batch, const Index& head, std::int64_t heads, std::int64_t first,
                     std::int64_t length) { emit_group(batch, head, heads, first, length); });
    }
    return b_.take();
  }

 private:
  void give_tiles() {
    const std::int64_t partitions = plan_.partitions, heads = plan_.kv_heads * plan_.q_heads;
    k_stage_ = b_.sbuf("key_tile", plan_.dtype, partitions, plan_.kv_heads * s_.head_dim);
    k_t_ = b_.sbuf("key_transposed", plan_.dtype, partitions, plan_.kv_heads * d_pieces_ * plan_.kv_span, plan_.copies);
    v_ = b_.sbuf("value_tile", plan_.dtype, partitions,
                 plan_.kv_heads * tiling::ceil_div(plan_.kv_span, partitions) * s_.value_dim, plan_.copies);
    q_ = b_.sbuf("query_tile", plan_.dtype, partitions, heads * s_.head_dim);
    out_ = b_.sbuf("out_tile", plan_.dtype, partitions, heads * s_.value_dim);
    sum_out_ = b_.sbuf("accumulated", Dtype::float32, partitions, heads * s_.value_dim);
    shift_ = b_.sbuf("negated_max", Dtype::float32, partitions, heads);
    total_ = b_.sbuf("sum", Dtype::float32, partitions, heads);
    lse_ = b_.sbuf("logsumexp_tile", Dtype::float32, partitions, heads);
    if (!s_.mask.empty()) {
      sees_none_ = b_.sbuf("sees_none", Dtype::float32, partitions, heads);
    }
    part_ = b_.sbuf("block_max", Dtype::float32, partitions, 1);
    part_total_ = b_.sbuf("block_sum", Dtype::float32, partitions, 1);
    next_shift_ = b_.sbuf("next_negated_max", Dtype::float32, partitions, 1);
    factor_ = b_.sbuf("factor", Dtype::float32, partitions, 1);
    probabilities_ = b_.sbuf("probabilities", plan_.dtype, partitions, plan_.block);
    p_t_ = b_.sbuf("probabilities_transposed", plan_.dtype, partitions, partitions);
    product_ = b_.psum("product", Dtype::float32, partitions, s_.value_dim);
    // Of its own, so that the next head's query need not wait for this head's probabilities.
    turned_p_ = b_.psum("probabilities_turned", plan_.dtype, partitions, partitions);
    give_score_tiles(1);
  }

  void emit_group(const Index& batch, const Index& head, std::int64_t heads, std::int64_t first, std::int64_t length) {
    row_tiles(length, [&](const Index& key, const Index& number, std::int64_t rows) {
      b_.dma(on_chip_tile(k_stage_, rows, heads * s_.head_dim),
             head_rows(k_hbm_, batch, s_.kv_len, key + first, rows, head, heads, s_.kv_heads, s_.head_dim));
      b_.dma(on_chip_tile(v_, rows, heads * s_.value_dim, number * (heads * s_.value_dim)),
             head_rows(v_hbm_, batch, s_.kv_len, key + first, rows, head, heads, s_.kv_heads, s_.value_dim));
      b_.loop(heads, [&](const Index& h) {
        transpose_into(k_t_, h * (d_pieces_ * plan_.kv_span) + key, plan_.kv_span, k_stage_, h * s_.head_dim, rows,
                       s_.head_dim);
      });
    });
    if (!plan_.mask_per_row && !plan_.mask_per_head) {
      load_mask(batch, head, Index(0), plan_.partitions, first, length);
    }
    const auto variants = plan_.query_tiles(s_, first, length);
    b_.tiles(plan_.group, plan_.q_heads, [&](const Index& g, std::int64_t q_heads) {
      for (const auto& tiles : variants) {
        b_.loop(tiles.trips, [&](const Index& i) {
          emit_queries(tiles, batch, head * plan_.group + g, heads, q_heads, i * plan_.partitions + tiles.start, first,
                       length);
        });
      }
    });
  }

  // [rows, kv_heads * q_heads] queries against the resident keys.
  void emit_queries(const QueryTiles& tiles, const Index& batch, const Index& head, std::int64_t kv_heads,
                    std::int64_t q_heads, const Index& row, std::int64_t first, std::int64_t length) {
    const std::int64_t heads = kv_heads * q_heads, rows = tiles.rows;
    const Tile all_out = on_chip_tile(sum_out_, rows, heads * s_.value_dim);
    b_.dma(on_chip_tile(q_, rows, heads * s_.head_dim),
           head_rows(q_hbm_, batch, s_.q_len, row, rows, head, heads, s_.heads, s_.head_dim));
    if (plan_.mask_per_row && !plan_.mask_per_head) {
      load_mask(batch, head, row, rows, first, length);
    }
    auto statistics = [&](std::int64_t which) {
      return tiling::hbm_tile(partial_stats_, rows, 2 * s_.heads, {{heads, 1}},
                              batch * (2 * s_.heads * s_.q_len) + row * (2 * s_.heads) + head + which * s_.heads);
    };
    auto partial = [&] {
      return head_rows(partial_out_, batch, s_.q_len, row, rows, head, heads, s_.heads, s_.value_dim);
    };
    const bool online = tiles.blocks() > 1 || tiles.resumes || tiles.suspends;
    if (tiles.resumes) {
      b_.dma(all_out, partial());
      b_.dma(on_chip_tile(shift_, rows, heads), statistics(0));
      b_.dma(on_chip_tile(total_, rows, heads), statistics(1));
    } else if (online) {
      b_.memset(all_out, 0);
      b_.memset(on_chip_tile(shift_, rows, heads), kLargest);
      b_.memset(on_chip_tile(total_, rows, heads), 0);
    }
    b_.loop(kv_heads, [&](const Index& k) {
      b_.loop(q_heads, [&](const Index& q) {
        emit_head(tiles, batch, head, k * q_heads + q, k, kv_heads, row, first, length, online);
      });
    });
    if (tiles.suspends) {
      b_.dma(partial(), all_out);
      b_.dma(statistics(0), on_chip_tile(shift_, rows, heads));
      b_.dma(statistics(1), on_chip_tile(total_, rows, heads));
      return;
    }
    b_.dma(head_rows(out_hbm_, batch, s_.q_len, row, rows, head, heads, s_.heads, s_.value_dim),
           on_chip_tile(out_, rows, heads * s_.value_dim));
    emit_logsumexp(rows, heads);
    store_columns(lse_hbm_, lse_, batch, head, heads, row, rows);
  }

  // log(sum) + max, and 0 of a row that sees no key.
  void emit_logsumexp(std::int64_t rows, std::int64_t heads) {
    const Tile lse = on_chip_tile(lse_, rows, heads), total = on_chip_tile(total_, rows, heads);
    b_.activation(lse, total, Activation::log);
    b_.tensor_tensor(lse, lse, on_chip_tile(shift_, rows, heads), Alu::subtract);
    if (!s_.mask.empty()) {
      const Tile sees_none = on_chip_tile(sees_none_, rows, heads);
      b_.tensor_scalar(sees_none, total, Alu::equal, 0);
      rows::op(b_, Opcode::tensor_copy_predicated, lse, {lse, sees_none});
    }
  }

  void emit_head(const QueryTiles& tiles, const Index& batch, const Index& first_head, const Index& h, const Index& k,
                 std::int64_t kv_heads, const Index& row, std::int64_t first, std::int64_t length, bool online) {
    const std::int64_t rows = tiles.rows;
    if (plan_.mask_per_head) {
      load_mask(batch, first_head + h, row, rows, first, length);
    }
    transpose_into(q_t_, Index(0), plan_.partitions, q_, h * s_.head_dim, rows, s_.head_dim);
    each_block(tiles, batch, first_head + h, k, row, first,
               [&](const Block& block) { emit_block(block, h, kv_heads, online); });
    if (tiles.suspends) {
      return;
    }
    const Tile factor = on_chip_tile(factor_, rows, 1), total = on_chip_tile(total_, rows, 1, h);
    const Tile sum = online ? on_chip_tile(sum_out_, rows, s_.value_dim, h * s_.value_dim)
                            : on_chip_tile(product_, rows, s_.value_dim);
    if (s_.mask.empty()) {
      rows::op(b_, Opcode::reciprocal, factor, {total});
    } else {  // a row that sees no key is 0
      b_.tensor_scalar(factor, total, Alu::maximum, std::numeric_limits<float>::min());
      rows::op(b_, Opcode::reciprocal, factor, {factor});
    }
    b_.emit({.opcode = Opcode::tensor_scalar,
             .dst = on_chip_tile(out_, rows, s_.value_dim, h * s_.value_dim),
             .src = {sum, factor},
             .alu0 = Alu::multiply,
             .alu1 = Alu::multiply,
             .scalar1 = kept_});
  }

  void emit_block(const Block& block, const Index& h, std::int64_t kv_heads, bool online) {
    const std::int64_t rows = block.rows, width = block.width;
    const auto [score, scale] = scores(block);
    const Tile p = on_chip_tile(probabilities_, rows, width);
    const Tile shift = on_chip_tile(shift_, rows, 1, h), total = on_chip_tile(total_, rows, 1, h);
    const Tile part = on_chip_tile(part_, rows, 1), part_total = on_chip_tile(part_total_, rows, 1);
    const Tile next = on_chip_tile(next_shift_, rows, 1), factor = on_chip_tile(factor_, rows, 1);
    b_.tensor_reduce(part, score, scale < 0 ? Alu::minimum : Alu::maximum);
    if (online) {
      negate_maximum(next, part, scale, shift);
      rows::activation(b_, factor, shift, Activation::exp, {.bias = next, .scale_constant = -1});
      rows::activation_reduce(b_, p, part_total, score, Activation::exp, {.bias = next, .scale_constant = scale});
      rows::op(b_, Opcode::scalar_tensor_tensor, total, {total, part_total, factor}, Alu::multiply, Alu::add);
      b_.tensor_copy(shift, next);
    } else {
      negate_maximum(shift, part, scale, {});
      rows::activation_reduce(b_, p, total, score, Activation::exp, {.bias = shift, .scale_constant = scale});
    }
    if (s_.dropout > 0) {
      draw(block);
      keep(p);
    }
    // product [rows, value_dim] = sum over 128-key pieces of P^T's transpose and V
    bool after = false;
    for (const auto& piece : tiling::split(width, plan_.partitions)) {
      const int depth = b_.depth();
      b_.loop(piece.trips, [&](const Index& i) {
        const std::int64_t skipped = piece.start / plan_.partitions;
        const Tile turned = on_chip_tile(turned_p_, piece.size, rows), p_t = on_chip_tile(p_t_, piece.size, rows);
        b_.transpose(turned, on_chip_tile(probabilities_, rows, piece.size, i * plan_.partitions + piece.start));
        // ScalarE copies, as VectorE is the busier of the two here.
        b_.tensor_copy(p_t, turned, program::Engine::scalar);
        const Index tile = block.number * (plan_.block / plan_.partitions) + i + skipped;
        const Index value = tile * (kv_heads * s_.value_dim) + block.kv_head * s_.value_dim;
        b_.tiles(s_.value_dim, plan_.block, [&](const Index& c, std::int64_t columns) {
          b_.matmul(on_chip_tile(product_, rows, columns, c), p_t, on_chip_tile(v_, piece.size, columns, value + c),
                    after ? program::kAccumulate : static_cast<std::int16_t>(depth));
        });
      });
      after = true;
    }
    if (online) {
      const Tile sum = on_chip_tile(sum_out_, rows, s_.value_dim, h * s_.value_dim);
      rows::op(b_, Opcode::scalar_tensor_tensor, sum, {sum, on_chip_tile(product_, rows, s_.value_dim), factor},
               Alu::multiply, Alu::add);
    }
  }

  // min(-scale maximum, before): the largest float32 before the first block, so that a row of -inf has exponentials of
  // 0.
  void negate_maximum(const Tile& dst, const Tile& maximum, float scale, const Tile& before) {
    b_.emit({.opcode = Opcode::tensor_scalar,
             .dst = dst,
             .src = {maximum, {}, before},
             .alu0 = Alu::multiply,
             .alu1 = Alu::minimum,
             .scalar0 = -scale,
             .scalar1 = kLargest});
  }

  static constexpr float kLargest = std::numeric_limits<float>::max();

  std::int16_t partial_out_ = -1, partial_stats_ = -1;
  std::int16_t k_stage_ = -1, v_ = -1, q_ = -1, out_ = -1, sum_out_ = -1, probabilities_ = -1, p_t_ = -1, product_ = -1,
               turned_p_ = -1;
  std::int16_t shift_ = -1, next_shift_ = -1, total_ = -1, lse_ = -1, sees_none_ = -1, part_ = -1, part_total_ = -1,
               factor_ = -1;
};

}  // namespace

void require_executable(const AttentionShape& shape) {
  auto require = [](bool executes, const std::string& what, const std::string& got) {
    if (!executes) {
      throw Error(Category::unimplemented,
                  "[attention] " + what + " is counted, not executed; got " + got + ". Use reference numerics for it.");
    }
  };
  require(shape.dropout >= 0 && shape.dropout < 1, "a dropout of everything", std::to_string(shape.dropout));
  require(is_float(shape.dtype), "attention of elements that are not floating", std::string(target::name(shape.dtype)));
  const std::int64_t widest = std::max(shape.head_dim, shape.value_dim);
  require(widest <= kWidestHead, "a head wider than " + std::to_string(kWidestHead), std::to_string(widest));
  const std::int64_t sizes[] = {shape.batch, shape.heads, shape.q_len, shape.kv_len};
  for (std::size_t axis = 0; axis < shape.mask.size(); ++axis) {
    require(shape.mask[axis] == 1 || shape.mask[axis] == sizes[axis], "a mask that does not broadcast to the scores",
            std::to_string(shape.mask[axis]) + " for " + std::to_string(sizes[axis]));
  }
  require(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0, "a fraction of a head for each key head",
          std::to_string(shape.heads) + " for " + std::to_string(shape.kv_heads));
}

// HBM bytes, forward, where one head's keys fit in SBUF (kv' = kv_len, causal: min(q_len, kv_len)):
//   read = e B (H q D + KV kv' (D + Dv)) + mask, written = e B H q Dv + statistics B H q.
// A mask with rows is read once per batch entry and group of heads loaded together (B ceil(KV / n)), or per head if it
// differs between heads. Where keys do not fit, docs/counters.md has the spans' terms.
program::Program attention(const target::Target& target, const AttentionShape& shape) {
  if (shape.backward) {
    return attention_backward(target, shape);
  }
  program::Program program = AttentionForward(target, shape).emit();
  std::optional<program::Program> few = attention_few_queries(target, shape);
  return few ? program::faster(std::move(program), std::move(*few), target) : std::move(program);
}

}  // namespace trn::kernels
