// Plans fused attention and emits what its two directions share.
#include "kernels/attention_plan.h"

#include <algorithm>
#include <limits>

#include "kernels/rows.h"

namespace trn::kernels {

using tiling::ceil_div;
using tiling::hbm_tile;
using tiling::on_chip_tile;

AttentionPlan::AttentionPlan(const target::Target& target, const AttentionShape& s) {
  const auto& core = target.core;
  partitions = core.num_partitions;
  block = core.moving_free_max_elements;
  dtype = tiling::sbuf_dtype(s.dtype);
  statistics_dtype = s.dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32;
  const std::int64_t all_kv_heads = std::max<std::int64_t>(s.kv_heads, 1);
  group = std::max<std::int64_t>(s.heads / all_kv_heads, 1);
  kv_used = s.causal ? std::min(s.q_len, s.kv_len) : s.kv_len;
  if (!s.mask.empty()) {
    mask_per_head = s.mask[1] > 1;
    mask_per_row = s.mask[2] > 1;
    std::int64_t stride = 1;
    for (std::size_t axis = mask_strides.size(); axis-- > 0; stride *= s.mask[axis]) {
      mask_strides[axis] = s.mask[axis] > 1 ? stride : 0;
    }
  }

  const std::int64_t bytes = itemsize(dtype), single = itemsize(Dtype::float32);
  const std::int64_t narrowest = std::max<std::int64_t>(std::min(s.head_dim, s.value_dim), 1);
  const std::int64_t wanted = std::max<std::int64_t>(ceil_div(core.dma_saturating_bytes, narrowest * bytes), 1);
  const std::int64_t d_pieces = ceil_div(s.head_dim, partitions), v_pieces = ceil_div(s.value_dim, partitions);
  const std::int64_t dims = s.head_dim + s.value_dim;
  // Bytes per partition for `n` keys of one head; q_t, k, v and the accumulated gradients, or k_t and v.
  auto resident = [&](std::int64_t n) {
    const std::int64_t tiles = ceil_div(n, partitions);
    if (s.backward) {
      return n * (d_pieces + v_pieces) * bytes + tiles * (s.head_dim * bytes + dims * single);
    }
    return n * d_pieces * bytes + tiles * s.value_dim * bytes;
  };
  auto working = [&](std::int64_t heads, std::int64_t queries) {
    const std::int64_t columns = s.backward ? 2 * dims + 2 * s.value_dim + 2 * s.head_dim : 2 * dims;
    const std::int64_t per_head = columns * bytes + (s.backward ? 2 * dims * bytes : 2 * s.value_dim * single + 64);
    return heads * queries * per_head + 2 * heads * dims * bytes + 4 * block * (2 * bytes + 2 * single) +
           4 * (d_pieces + v_pieces) * partitions * bytes;
  };
  const std::int64_t mask_bytes = s.mask.empty() ? 0 : 2 * itemsize(tiling::sbuf_dtype(s.mask_dtype));
  auto fits = [&](std::int64_t heads, std::int64_t queries, std::int64_t n, std::int64_t num_copies) {
    return num_copies * heads * resident(n) + working(heads, queries) + n * mask_bytes <= core.sbuf_bytes_per_partition;
  };

  // Enough heads for long DMA runs, but an equal share for every core.
  const std::int64_t cores = std::max<std::int64_t>(target.device.num_cores, 1);
  const bool shares_heads = s.batch < cores;
  const std::int64_t most = shares_heads ? all_kv_heads * s.batch / cores : all_kv_heads;
  kv_heads = std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(most, 1));
  auto queries_together = [&] { return kv_heads > 1 ? group : std::min(group, wanted); };
  while (kv_heads > 1 &&
         ((shares_heads && all_kv_heads % kv_heads != 0) || !fits(kv_heads, queries_together(), kv_used, 2))) {
    --kv_heads;
  }
  q_heads = queries_together();
  while (kv_heads == 1 && q_heads > 1 && !fits(1, q_heads, 0, 2)) {
    q_heads = ceil_div(q_heads, 2);
  }
  kv_span = kv_used;
  if (fits(kv_heads, q_heads, kv_used, 2)) {
    return;
  }
  if (fits(kv_heads, q_heads, kv_used, 1)) {
    copies = 1;
    return;
  }
  std::int64_t low = 1, high = ceil_div(kv_used, block);
  while (low < high) {
    const std::int64_t middle = (low + high + 1) / 2;
    if (fits(kv_heads, q_heads, middle * block, 2)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  kv_span = std::min(low * block, kv_used);
}

std::vector<QueryTiles> AttentionPlan::query_tiles(const AttentionShape& s, std::int64_t first,
                                                   std::int64_t length) const {
  std::vector<QueryTiles> result;
  auto add = [&](std::int64_t start, std::int64_t trips, std::int64_t rows) {
    QueryTiles tiles{.start = start, .trips = trips, .rows = rows};
    const std::int64_t seen = s.causal ? std::min(kv_used, start + rows) : kv_used;
    const std::int64_t width = std::min(seen - first, length);
    if (width <= 0) {
      return;
    }
    tiles.diagonal = s.causal && first + width > start + 1;
    tiles.full_blocks = width / block;
    tiles.last_width = width % block;
    if (tiles.diagonal && tiles.last_width == 0) {
      tiles.full_blocks -= 1;
      tiles.last_width = block;
    }
    tiles.resumes = first > 0;
    tiles.suspends = seen > first + length;
    if (!result.empty()) {
      auto& back = result.back();
      if (back.rows == rows && back.full_blocks == tiles.full_blocks && back.last_width == tiles.last_width &&
          back.diagonal == tiles.diagonal && back.suspends == tiles.suspends) {
        back.trips += trips;
        return;
      }
    }
    result.push_back(tiles);
  };
  for (const auto& segment : tiling::split(s.q_len, partitions)) {
    if (!s.causal) {
      add(segment.start, segment.trips, segment.size);
      continue;
    }
    for (std::int64_t i = 0; i < segment.trips; ++i) {
      add(segment.start + i * segment.size, 1, segment.size);
    }
  }
  return result;
}

AttentionTiles::AttentionTiles(const target::Target& target, const AttentionShape& shape, const std::string& name)
    : s_(shape),
      plan_(target, shape),
      b_(name),
      d_pieces_(ceil_div(shape.head_dim, plan_.partitions)),
      v_pieces_(ceil_div(shape.value_dim, plan_.partitions)),
      kept_(1 / (1 - shape.dropout)) {}

void AttentionTiles::give_mask() {
  if (!s_.mask.empty()) {
    mask_hbm_ = b_.hbm("attn_mask", s_.mask_dtype, s_.mask[0] * s_.mask[1] * s_.mask[2] * s_.mask[3]);
  }
}

void AttentionTiles::give_operands() {
  const std::int64_t queries = s_.batch * s_.heads * s_.q_len, keys = s_.batch * s_.kv_heads * s_.kv_len;
  q_hbm_ = b_.hbm("query", s_.dtype, queries * s_.head_dim);
  k_hbm_ = b_.hbm("key", s_.dtype, keys * s_.head_dim);
  v_hbm_ = b_.hbm("value", s_.dtype, keys * s_.value_dim);
  give_mask();
  out_hbm_ = b_.hbm("out", s_.dtype, queries * s_.value_dim, true);
  lse_hbm_ = b_.hbm("logsumexp", plan_.statistics_dtype, queries, true);
}

void AttentionTiles::give_score_tiles(std::int64_t turned_copies) {
  const std::int64_t partitions = plan_.partitions;
  if (!s_.mask.empty()) {
    mask_ = b_.sbuf("mask_tile", tiling::sbuf_dtype(s_.mask_dtype), partitions, plan_.kv_span);
  }
  q_t_ = b_.sbuf("q_transposed", plan_.dtype, partitions, d_pieces_ * partitions);
  if (!s_.mask.empty() || s_.causal) {
    masked_ = b_.sbuf("masked_scores", Dtype::float32, partitions, plan_.block);
  }
  if (s_.dropout > 0) {
    random_ = b_.sbuf("random", Dtype::float32, partitions, plan_.block);
  }
  line_ = b_.sbuf("line", Dtype::float32, partitions, partitions);
  turned_line_ = b_.psum("turned_line", Dtype::float32, partitions, partitions, 1);
  score_ = b_.psum("scores", Dtype::float32, partitions, plan_.block);
  turned_ = b_.psum("turned", plan_.dtype, partitions, partitions, turned_copies);
}

void AttentionTiles::transpose_into(std::int16_t dst, const Index& to, std::int64_t piece_stride, std::int16_t src,
                                    const Index& from, std::int64_t rows, std::int64_t cols) {
  for (const auto& piece : tiling::split(cols, plan_.partitions)) {
    b_.loop(piece.trips, [&](const Index& i) {
      const Tile turned = on_chip_tile(turned_, piece.size, rows);
      b_.transpose(turned, on_chip_tile(src, rows, piece.size, from + i * plan_.partitions + piece.start));
      b_.tensor_copy(
          on_chip_tile(dst, piece.size, rows, to + i * piece_stride + piece.start / plan_.partitions * piece_stride),
          turned);
    });
  }
}

tiling::Tile AttentionTiles::head_rows(std::int16_t hbm, const Index& batch, std::int64_t length, const Index& row,
                                       std::int64_t rows, const Index& head, std::int64_t heads, std::int64_t all_heads,
                                       std::int64_t dim) const {
  const std::int64_t stride = all_heads * dim;
  return hbm_tile(hbm, rows, stride, {{heads * dim, 1}}, batch * (length * stride) + row * stride + head * dim);
}

void AttentionTiles::load_mask(const Index& batch, const Index& head, const Index& row, std::int64_t rows,
                               std::int64_t first, std::int64_t length) {
  if (s_.mask.empty()) {
    return;
  }
  const auto [of_batch, of_head, of_row, of_key] = plan_.mask_strides;
  const Index at = batch * of_batch + head * of_head + row * of_row + first * of_key;
  b_.dma(on_chip_tile(mask_, rows, length), hbm_tile(mask_hbm_, rows, of_row, {{length, of_key}}, at));
}

AttentionTiles::Scores AttentionTiles::scores(const Block& block) {
  const std::int64_t rows = block.rows, width = block.width;
  const Index key = block.number * plan_.block;
  const Index k_at = block.kv_head * (d_pieces_ * plan_.kv_span) + key;
  const Tile psum = on_chip_tile(score_, rows, width);
  bool after = false;
  for (const auto& piece : tiling::split(s_.head_dim, plan_.partitions)) {
    const int depth = b_.depth();
    const std::int64_t number = piece.start / plan_.partitions;
    b_.loop(piece.trips, [&](const Index& i) {
      b_.matmul(psum, on_chip_tile(q_t_, piece.size, rows, (i + number) * plan_.partitions),
                on_chip_tile(k_t_, piece.size, width, k_at + (i + number) * plan_.kv_span),
                after ? program::kAccumulate : static_cast<std::int16_t>(depth));
    });
    after = true;
  }
  if (s_.mask.empty() && !block.diagonal) {
    return {psum, s_.scale};
  }
  const Tile masked = on_chip_tile(masked_, rows, width);
  if (s_.mask.empty()) {
    b_.activation(masked, psum, Activation::copy, s_.scale);
  } else {
    b_.emit({.opcode = program::Opcode::scalar_tensor_tensor,
             .dst = masked,
             .src = {psum, on_chip_tile(mask_, rows, width, key)},
             .alu0 = Alu::multiply,
             .alu1 = Alu::add,
             .scalar0 = s_.scale});
  }
  if (block.diagonal) {
    b_.emit({.opcode = program::Opcode::affine_select,
             .dst = masked,
             .src = {masked, hbm_tile(-1, rows, 1, {{width, -1}}, block.ahead)},
             .alu0 = Alu::greater_equal,
             .scalar0 = -std::numeric_limits<float>::infinity()});
  }
  return {masked, 1};
}

void AttentionTiles::store_columns(std::int16_t hbm, std::int16_t columns, const Index& batch, const Index& head,
                                   std::int64_t heads, const Index& row, std::int64_t rows) {
  b_.tiles(heads, plan_.partitions, [&](const Index& h, std::int64_t count) {
    b_.transpose(on_chip_tile(turned_line_, count, rows), on_chip_tile(columns, rows, count, h));
    b_.tensor_copy(on_chip_tile(line_, count, rows), on_chip_tile(turned_line_, count, rows));
    b_.dma(hbm_tile(hbm, count, s_.q_len, {{rows, 1}}, batch * (s_.heads * s_.q_len) + (head + h) * s_.q_len + row),
           on_chip_tile(line_, count, rows));
  });
}

void AttentionTiles::load_columns(std::int16_t hbm, std::int16_t columns, const Index& batch, const Index& head,
                                  std::int64_t heads, const Index& row, std::int64_t rows, float factor) {
  b_.tiles(heads, plan_.partitions, [&](const Index& h, std::int64_t count) {
    b_.dma(on_chip_tile(line_, count, rows),
           hbm_tile(hbm, count, s_.q_len, {{rows, 1}}, batch * (s_.heads * s_.q_len) + (head + h) * s_.q_len + row));
    b_.transpose(on_chip_tile(turned_line_, rows, count), on_chip_tile(line_, count, rows));
    b_.tensor_scalar(on_chip_tile(columns, rows, count, h), on_chip_tile(turned_line_, rows, count), Alu::multiply,
                     factor);
  });
}

void AttentionTiles::zero(std::int16_t hbm, std::int64_t elements, std::int64_t start, std::int64_t repeats,
                          std::int64_t stride) {
  if (elements * repeats == 0) {
    return;
  }
  const std::int64_t free = plan_.block, tile = plan_.partitions * free;
  if (zeros_ < 0) {
    zeros_ = b_.sbuf("zeros", plan_.dtype, plan_.partitions, free, 1);
  }
  auto write = [&](const Index& first, std::int64_t partitions, std::int64_t width) {
    if (width > 0) {
      b_.dma(hbm_tile(hbm, partitions, width, {{width, 1}}, first), on_chip_tile(zeros_, partitions, width));
    }
  };
  b_.nest("zeros");
  b_.memset(on_chip_tile(zeros_, plan_.partitions, free), 0);
  b_.parallel_loop(repeats, [&](const Index& r) {
    const Index from = r * stride + start;
    const std::int64_t rest = elements % tile, tail = rest % plan_.partitions;
    b_.parallel_loop(elements / tile, [&](const Index& i) { write(from + i * tile, plan_.partitions, free); });
    write(from + (elements - rest), plan_.partitions, rest / plan_.partitions);
    write(from + (elements - tail), 1, tail);
  });
}

void AttentionTiles::draw(const Block& block) {
  rows::op(b_, program::Opcode::rng, on_chip_tile(random_, block.rows, block.width),
           {hbm_tile(-1, block.rows, s_.kv_len, {{block.width, 1}}, block.pair)});
}

void AttentionTiles::keep(const Tile& tile) {
  Tile random = tile;
  random.buffer = random_;
  b_.emit({.opcode = program::Opcode::scalar_tensor_tensor,
           .dst = tile,
           .src = {random, tile},
           .alu0 = Alu::greater_equal,
           .alu1 = Alu::multiply,
           .scalar0 = s_.dropout});
}

}  // namespace trn::kernels
