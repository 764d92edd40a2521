// Fused attention, backward: probabilities recomputed from the log-sum-exp, then dV, dP, dK and dQ of each tile.
//
// With P = exp(q k^T - lse), dP = dO v^T and delta = rowsum(dO O): dS = P (dP - delta), dV = P^T dO, dK = dS^T q,
// dQ = dS k. With dropout M of kept pairs, c = 1 / (1 - p): P M c stands for P in dV, dP M c for dP; c waits until sums
// leave. P and dS have queries on partitions, as dV and dK want them; only dS is transposed, for dQ.
#include <algorithm>

#include "kernels/attention_plan.h"
#include "kernels/rows.h"

namespace trn::kernels {

using tiling::on_chip_tile;
using tiling::Opcode;

namespace {

class AttentionBackward : AttentionTiles {
 public:
  AttentionBackward(const target::Target& target, const AttentionShape& shape)
      : AttentionTiles(target, shape, "attention_backward") {
    const std::int64_t queries = s_.batch * s_.heads * s_.q_len, keys = s_.batch * s_.kv_heads * s_.kv_len;
    grad_hbm_ = b_.hbm("grad_out", s_.dtype, queries * s_.value_dim);
    q_hbm_ = b_.hbm("query", s_.dtype, queries * s_.head_dim);
    k_hbm_ = b_.hbm("key", s_.dtype, keys * s_.head_dim);
    v_hbm_ = b_.hbm("value", s_.dtype, keys * s_.value_dim);
    out_hbm_ = b_.hbm("out", s_.dtype, queries * s_.value_dim);
    lse_hbm_ = b_.hbm("logsumexp", plan_.statistics_dtype, queries);
    give_mask();
    dq_hbm_ = b_.hbm("grad_query", s_.dtype, queries * s_.head_dim, true);
    dk_hbm_ = b_.hbm("grad_key", s_.dtype, keys * s_.head_dim, true);
    dv_hbm_ = b_.hbm("grad_value", s_.dtype, keys * s_.value_dim, true);
    if (plan_.kv_span < plan_.kv_used) {
      partial_ = b_.temporary("partial_grad_query", Dtype::float32, queries * s_.head_dim);
    }
    give_tiles();
  }

  program::Program emit() {
    const std::int64_t queries = s_.batch * s_.heads * s_.q_len;
    const std::int64_t unseen = (s_.kv_len - plan_.kv_used) * s_.kv_heads;
    const std::int64_t seen = plan_.kv_used * s_.kv_heads, all = s_.kv_len * s_.kv_heads;
    if (queries > 0 && plan_.kv_used > 0) {
      each_group([&](const Index& batch, const Index& head, std::int64_t heads, std::int64_t first,
                     std::int64_t length) { emit_group(batch, head, heads, first, length); });
    } else if (queries > 0) {
      zero(dq_hbm_, queries * s_.head_dim);
    }
    for (const auto& [hbm, dim] : {std::pair{dk_hbm_, s_.head_dim}, std::pair{dv_hbm_, s_.value_dim}}) {
      zero(hbm, unseen * dim, seen * dim, s_.batch, all * dim);
    }
    return b_.take();
  }

 private:
  void give_tiles() {
    const std::int64_t partitions = plan_.partitions, heads = plan_.kv_heads * plan_.q_heads;
    const std::int64_t key_tiles = tiling::ceil_div(plan_.kv_span, partitions);
    k_ = b_.sbuf("key_tile", plan_.dtype, partitions, plan_.kv_heads * key_tiles * s_.head_dim, plan_.copies);
    v_stage_ = b_.sbuf("value_tile", plan_.dtype, partitions, plan_.kv_heads * s_.value_dim);
    k_t_ = b_.sbuf("key_transposed", plan_.dtype, partitions, plan_.kv_heads * d_pieces_ * plan_.kv_span, plan_.copies);
    v_t_ =
        b_.sbuf("value_transposed", plan_.dtype, partitions, plan_.kv_heads * v_pieces_ * plan_.kv_span, plan_.copies);
    dk_ = b_.sbuf("key_sum", Dtype::float32, partitions, plan_.kv_heads * key_tiles * s_.head_dim, plan_.copies);
    dv_ = b_.sbuf("value_sum", Dtype::float32, partitions, plan_.kv_heads * key_tiles * s_.value_dim, plan_.copies);
    dk_out_ = b_.sbuf("grad_key_tile", plan_.dtype, partitions, plan_.kv_heads * s_.head_dim);
    dv_out_ = b_.sbuf("grad_value_tile", plan_.dtype, partitions, plan_.kv_heads * s_.value_dim);
    q_ = b_.sbuf("query_tile", plan_.dtype, partitions, heads * s_.head_dim);
    grad_ = b_.sbuf("grad_out_tile", plan_.dtype, partitions, heads * s_.value_dim);
    out_ = b_.sbuf("out_tile", plan_.dtype, partitions, heads * s_.value_dim);
    dq_ = b_.sbuf("grad_query_tile", partial_ >= 0 ? Dtype::float32 : plan_.dtype, partitions, heads * s_.head_dim);
    dq_out_ = partial_ >= 0 ? b_.sbuf("grad_query_cast", plan_.dtype, partitions, heads * s_.head_dim) : dq_;
    negated_lse_ = b_.sbuf("negated_logsumexp", Dtype::float32, partitions, heads);
    delta_ = b_.sbuf("delta", Dtype::float32, partitions, 1);
    grad_t_ = b_.sbuf("grad_out_transposed", plan_.dtype, partitions, v_pieces_ * partitions);
    product_ = b_.sbuf("grad_times_out", Dtype::float32, partitions, s_.value_dim, 1);
    p_ = b_.sbuf("probabilities", plan_.dtype, partitions, plan_.block);
    ds_ = b_.sbuf("grad_scores", plan_.dtype, partitions, plan_.block);
    ds_t_ = b_.sbuf("grad_scores_transposed", plan_.dtype, partitions, partitions);
    dp_psum_ = b_.psum("grad_probabilities", Dtype::float32, partitions, plan_.block, 1);
    sum_psum_ = b_.psum("grad_keys_and_values", Dtype::float32, partitions, std::max(s_.head_dim, s_.value_dim), 1);
    dq_psum_ = b_.psum("grad_query_sum", Dtype::float32, partitions, s_.head_dim, 1);
    give_score_tiles(2);
  }

  void emit_group(const Index& batch, const Index& head, std::int64_t heads, std::int64_t first, std::int64_t length) {
    const std::int64_t key_tiles = tiling::ceil_div(length, plan_.partitions);
    b_.memset(on_chip_tile(dk_, plan_.partitions, heads * key_tiles * s_.head_dim), 0);
    b_.memset(on_chip_tile(dv_, plan_.partitions, heads * key_tiles * s_.value_dim), 0);
    row_tiles(length, [&](const Index& key, const Index& number, std::int64_t rows) {
      const Index k_at = number * (heads * s_.head_dim);
      b_.dma(on_chip_tile(k_, rows, heads * s_.head_dim, k_at),
             head_rows(k_hbm_, batch, s_.kv_len, key + first, rows, head, heads, s_.kv_heads, s_.head_dim));
      b_.dma(on_chip_tile(v_stage_, rows, heads * s_.value_dim),
             head_rows(v_hbm_, batch, s_.kv_len, key + first, rows, head, heads, s_.kv_heads, s_.value_dim));
      b_.loop(heads, [&](const Index& h) {
        transpose_into(k_t_, h * (d_pieces_ * plan_.kv_span) + key, plan_.kv_span, k_, k_at + h * s_.head_dim, rows,
                       s_.head_dim);
        transpose_into(v_t_, h * (v_pieces_ * plan_.kv_span) + key, plan_.kv_span, v_stage_, h * s_.value_dim, rows,
                       s_.value_dim);
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
    row_tiles(length, [&](const Index& key, const Index& number, std::int64_t rows) {
      store_sum(dk_hbm_, dk_out_, dk_, batch, head, heads, key + first, number, rows, s_.head_dim, s_.scale * kept_);
      store_sum(dv_hbm_, dv_out_, dv_, batch, head, heads, key + first, number, rows, s_.value_dim, kept_);
    });
  }

  void store_sum(std::int16_t hbm, std::int16_t tile, std::int16_t sum, const Index& batch, const Index& head,
                 std::int64_t heads, const Index& key, const Index& number, std::int64_t rows, std::int64_t dim,
                 float scale) {
    const Tile result = on_chip_tile(tile, rows, heads * dim);
    b_.activation(result, on_chip_tile(sum, rows, heads * dim, number * (heads * dim)), Activation::copy, scale);
    b_.dma(head_rows(hbm, batch, s_.kv_len, key, rows, head, heads, s_.kv_heads, dim), result);
  }

  void emit_queries(const QueryTiles& tiles, const Index& batch, const Index& head, std::int64_t kv_heads,
                    std::int64_t q_heads, const Index& row, std::int64_t first, std::int64_t length) {
    const std::int64_t heads = kv_heads * q_heads, rows = tiles.rows;
    auto rows_of = [&](std::int16_t hbm, std::int64_t dim) {
      return head_rows(hbm, batch, s_.q_len, row, rows, head, heads, s_.heads, dim);
    };
    b_.dma(on_chip_tile(q_, rows, heads * s_.head_dim), rows_of(q_hbm_, s_.head_dim));
    b_.dma(on_chip_tile(grad_, rows, heads * s_.value_dim), rows_of(grad_hbm_, s_.value_dim));
    b_.dma(on_chip_tile(out_, rows, heads * s_.value_dim), rows_of(out_hbm_, s_.value_dim));
    load_columns(lse_hbm_, negated_lse_, batch, head, heads, row, rows, -1);
    if (plan_.mask_per_row && !plan_.mask_per_head) {
      load_mask(batch, head, row, rows, first, length);
    }
    const Tile all_dq = on_chip_tile(dq_, rows, heads * s_.head_dim);
    if (tiles.resumes) {
      b_.dma(all_dq, rows_of(partial_, s_.head_dim));
    }
    b_.loop(kv_heads, [&](const Index& k) {
      b_.loop(q_heads, [&](const Index& q) {
        const Index h = k * q_heads + q;
        if (plan_.mask_per_head) {
          load_mask(batch, head + h, row, rows, first, length);
        }
        emit_head(tiles, batch, head, h, k, kv_heads, row, first);
      });
    });
    if (tiles.suspends) {
      b_.dma(rows_of(partial_, s_.head_dim), all_dq);
      return;
    }
    const Tile result = on_chip_tile(dq_out_, rows, heads * s_.head_dim);
    if (dq_out_ != dq_) {
      b_.tensor_copy(result, all_dq);
    }
    b_.dma(rows_of(dq_hbm_, s_.head_dim), result);
  }

  void emit_head(const QueryTiles& tiles, const Index& batch, const Index& first_head, const Index& h, const Index& k,
                 std::int64_t kv_heads, const Index& row, std::int64_t first) {
    const std::int64_t rows = tiles.rows;
    transpose_into(q_t_, Index(0), plan_.partitions, q_, h * s_.head_dim, rows, s_.head_dim);
    transpose_into(grad_t_, Index(0), plan_.partitions, grad_, h * s_.value_dim, rows, s_.value_dim);
    const Tile product = on_chip_tile(product_, rows, s_.value_dim);
    b_.tensor_tensor(product, on_chip_tile(grad_, rows, s_.value_dim, h * s_.value_dim),
                     on_chip_tile(out_, rows, s_.value_dim, h * s_.value_dim), Alu::multiply);
    const Tile delta = on_chip_tile(delta_, rows, 1);
    b_.tensor_reduce(delta, product, Alu::add);
    if (s_.dropout > 0) {
      b_.tensor_scalar(delta, delta, Alu::multiply, 1 - s_.dropout);
    }
    b_.memset(on_chip_tile(dq_psum_, rows, s_.head_dim), 0);
    each_block(tiles, batch, first_head + h, k, row, first,
               [&](const Block& block) { emit_block(block, h, kv_heads); });
    const Tile sum = on_chip_tile(dq_psum_, rows, s_.head_dim);
    const Tile dq = on_chip_tile(dq_, rows, s_.head_dim, h * s_.head_dim);
    if (tiles.resumes) {
      b_.emit({.opcode = Opcode::scalar_tensor_tensor,
               .dst = dq,
               .src = {sum, dq},
               .alu0 = Alu::multiply,
               .alu1 = Alu::add,
               .scalar0 = s_.scale * kept_});
    } else {
      b_.activation(dq, sum, Activation::copy, s_.scale * kept_);
    }
  }

  void emit_block(const Block& block, const Index& h, std::int64_t kv_heads) {
    const std::int64_t rows = block.rows, width = block.width;
    const Index &number = block.number, &k = block.kv_head;
    const Index key = number * plan_.block;
    const auto [score, scale] = scores(block);
    const Tile p = on_chip_tile(p_, rows, width), ds = on_chip_tile(ds_, rows, width);
    rows::activation(b_, p, score, Activation::exp,
                     {.bias = on_chip_tile(negated_lse_, rows, 1, h), .scale_constant = scale});
    // dP [rows, width] = dO v^T
    const Tile dp = on_chip_tile(dp_psum_, rows, width);
    bool after = false;
    for (const auto& piece : tiling::split(s_.value_dim, plan_.partitions)) {
      const int depth = b_.depth();
      const std::int64_t skipped = piece.start / plan_.partitions;
      b_.loop(piece.trips, [&](const Index& i) {
        b_.matmul(dp, on_chip_tile(grad_t_, piece.size, rows, (i + skipped) * plan_.partitions),
                  on_chip_tile(v_t_, piece.size, width,
                               k * (v_pieces_ * plan_.kv_span) + key + (i + skipped) * plan_.kv_span),
                  after ? program::kAccumulate : static_cast<std::int16_t>(depth));
      });
      after = true;
    }
    if (s_.dropout > 0) {
      draw(block);
      keep(dp);
    }
    rows::op(b_, Opcode::scalar_tensor_tensor, ds, {dp, p, on_chip_tile(delta_, rows, 1)}, Alu::subtract,
             Alu::multiply);
    if (s_.dropout > 0) {
      keep(p);
    }
    for (const auto& piece : tiling::split(width, plan_.partitions)) {
      b_.loop(piece.trips, [&](const Index& i) {
        const Index at = i * plan_.partitions + piece.start;
        const Index tile = number * (plan_.block / plan_.partitions) + i + piece.start / plan_.partitions;
        const Index key_at = tile * (kv_heads * s_.head_dim) + k * s_.head_dim;
        // dV += P^T dO and dK += dS^T q: [keys, dim], queries contracted on partitions.
        add_product(dv_, tile * (kv_heads * s_.value_dim) + k * s_.value_dim, on_chip_tile(p_, rows, piece.size, at),
                    grad_, h * s_.value_dim, piece.size, rows, s_.value_dim);
        add_product(dk_, key_at, on_chip_tile(ds_, rows, piece.size, at), q_, h * s_.head_dim, piece.size, rows,
                    s_.head_dim);
        const Tile turned = on_chip_tile(turned_, piece.size, rows), ds_t = on_chip_tile(ds_t_, piece.size, rows);
        b_.transpose(turned, on_chip_tile(ds_, rows, piece.size, at));
        b_.tensor_copy(ds_t, turned, program::Engine::scalar);
        b_.tiles(s_.head_dim, plan_.block, [&](const Index& c, std::int64_t columns) {
          b_.matmul(on_chip_tile(dq_psum_, rows, columns, c), ds_t, on_chip_tile(k_, piece.size, columns, key_at + c),
                    program::kAccumulate);
        });
      });
    }
  }

  void add_product(std::int16_t sum, const Index& at, const Tile& stationary, std::int16_t moving, const Index& from,
                   std::int64_t keys, std::int64_t rows, std::int64_t dim) {
    b_.tiles(dim, plan_.block, [&](const Index& c, std::int64_t columns) {
      b_.matmul(on_chip_tile(sum_psum_, keys, columns, c), stationary, on_chip_tile(moving, rows, columns, from + c));
    });
    const Tile into = on_chip_tile(sum, keys, dim, at);
    b_.tensor_tensor(into, into, on_chip_tile(sum_psum_, keys, dim), Alu::add);
  }

  std::int16_t grad_hbm_ = -1, dq_hbm_ = -1, dk_hbm_ = -1, dv_hbm_ = -1, partial_ = -1;
  std::int16_t k_ = -1, v_stage_ = -1, v_t_ = -1, dk_ = -1, dv_ = -1, dk_out_ = -1, dv_out_ = -1;
  std::int16_t q_ = -1, grad_ = -1, out_ = -1, dq_ = -1, dq_out_ = -1, negated_lse_ = -1, delta_ = -1, grad_t_ = -1;
  std::int16_t product_ = -1, p_ = -1, ds_ = -1, ds_t_ = -1, dp_psum_ = -1, sum_psum_ = -1, dq_psum_ = -1;
};

}  // namespace

// HBM bytes, backward, where one head's keys fit in SBUF: read = e B (H q (D + 2 Dv) + KV kv' (D + Dv)) + statistics
// B H q + mask, written = e B (H q D + KV kv_len (D + Dv)).
program::Program attention_backward(const target::Target& target, const AttentionShape& shape) {
  return AttentionBackward(target, shape).emit();
}

}  // namespace trn::kernels
