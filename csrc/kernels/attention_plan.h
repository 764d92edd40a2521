// How fused attention is cut up: heads loaded together, keys and values kept in SBUF, query tiles and what they see.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/tiling.h"

namespace trn::kernels {

// Consecutive query tiles that do the same: `trips` tiles of `rows` rows, the first at row `start`. Each sees
// `full_blocks` blocks of moving_free_max_elements keys and one last block of `last_width` (0: none).
struct QueryTiles {
  std::int64_t start = 0, trips = 0, rows = 0;
  std::int64_t full_blocks = 0, last_width = 0;
  bool diagonal = false;  // the last block holds pairs that the causal mask hides
  bool resumes = false;   // partial results of earlier keys are read back
  bool suspends = false;  // later keys follow: partial results are kept
  std::int64_t blocks() const { return full_blocks + (last_width > 0 ? 1 : 0); }
};

struct AttentionPlan {
  std::int64_t partitions = 128, block = 512;  // of a tile; keys per score tile
  std::int64_t group = 1;                      // query heads per key head
  std::int64_t kv_heads = 1;                   // key heads that are resident together, one long DMA run
  std::int64_t q_heads = 1;                    // query heads of each that are loaded together
  std::int64_t kv_used = 0;                    // keys that any query sees
  std::int64_t kv_span = 0;                    // keys that are resident together
  std::int64_t copies = 2;                     // of resident keys and values: 1 leaves their load exposed
  Dtype dtype = Dtype::float32;                // in SBUF
  Dtype statistics_dtype = Dtype::float32;     // of the log-sum-exp in HBM
  bool mask_per_head = false, mask_per_row = false;
  std::array<std::int64_t, 4> mask_strides = {};  // elements, by [batch, heads, q_len, kv_len]; 0: broadcast

  AttentionPlan(const target::Target& target, const AttentionShape& shape);

  // The spans of keys, each a pass over the queries that see it.
  std::vector<tiling::Segment> spans() const { return tiling::split(kv_used, std::max<std::int64_t>(kv_span, 1)); }
  // Query tiles for keys [first, first + length).
  std::vector<QueryTiles> query_tiles(const AttentionShape& shape, std::int64_t first, std::int64_t length) const;
};

// Scores, exponentials and transposes that forward and backward share.
class AttentionTiles {
 public:
  AttentionTiles(const target::Target& target, const AttentionShape& shape, const std::string& name);

 protected:
  using Builder = tiling::Builder;
  using Index = tiling::Index;
  using Tile = tiling::Tile;

  // Each span of keys, batch entry and group of key heads: body(batch, first key head, key heads, first key, keys).
  template <class Body>
  void each_group(Body body) {
    int number = 0;
    for (const auto& span : plan_.spans()) {
      for (std::int64_t trip = 0; trip < span.trips; ++trip) {
        const std::int64_t first = span.start + trip * span.size;
        for (const auto& heads : tiling::split(s_.kv_heads, plan_.kv_heads)) {
          b_.nest("keys" + std::to_string(number) + (heads.start == 0 ? "" : "_last_heads"));
          b_.parallel_loop(s_.batch, [&](const Index& batch) {
            b_.parallel_loop(heads.trips, [&](const Index& h) {
              body(batch, h * heads.size + heads.start, heads.size, first, span.size);
            });
          });
        }
        ++number;
      }
    }
  }
  // src [rows, cols at `from`] -> dst [cols, rows at `to`], in pieces of at most 128 columns stacked `piece_stride`
  // elements apart.
  void transpose_into(std::int16_t dst, const Index& to, std::int64_t piece_stride, std::int16_t src, const Index& from,
                      std::int64_t rows, std::int64_t cols);
  // `count` query or key rows in tiles of 128: body(first row, tile number, rows)
  template <class Body>
  void row_tiles(std::int64_t count, Body body) {
    for (const auto& segment : tiling::split(count, plan_.partitions)) {
      b_.loop(segment.trips, [&](const Index& i) {
        body(i * plan_.partitions + segment.start, i + segment.start / plan_.partitions, segment.size);
      });
    }
  }
  // A tile of queries against a block of resident keys.
  struct Block {
    std::int64_t rows = 0, width = 0;
    bool diagonal = false;
    Index number;   // among the blocks of resident keys
    Index kv_head;  // among the resident heads
    Index ahead;    // of the first key: places that the first query is
    Index pair;     // the first query and key, in [batch, heads, q_len, kv_len]
  };
  // The blocks that a query tile from `row` sees of the keys from `first`: body(block)
  template <class Body>
  void each_block(const QueryTiles& tiles, const Index& batch, const Index& head, const Index& kv_head,
                  const Index& row, std::int64_t first, Body body) {
    const Index pair = ((batch * s_.heads + head) * s_.q_len + row) * s_.kv_len + first;
    auto at = [&](const Index& number, std::int64_t width, bool diagonal) {
      const Index key = number * plan_.block;
      body(Block{tiles.rows, width, diagonal, number, kv_head, row + Index(-first) + key * -1, pair + key});
    };
    b_.loop(tiles.full_blocks, [&](const Index& i) { at(i, plan_.block, false); });
    if (tiles.last_width > 0) {
      at(Index(tiles.full_blocks), tiles.last_width, tiles.diagonal);
    }
  }
  // A tensor [batch, length, heads, dim]: `rows` rows of `heads` neighbouring heads.
  Tile head_rows(std::int16_t hbm, const Index& batch, std::int64_t length, const Index& row, std::int64_t rows,
                 const Index& head, std::int64_t heads, std::int64_t all_heads, std::int64_t dim) const;
  void load_mask(const Index& batch, const Index& head, const Index& row, std::int64_t rows, std::int64_t first,
                 std::int64_t length);
  // scale q k^T + mask of one block, -inf above the diagonal: q k^T in PSUM, times a scale that is still to come, where
  // nothing is masked; else in SBUF.
  struct Scores {
    Tile tile;
    float scale = 1;
  };
  Scores scores(const Block& block);
  // Dropout: a random number for each pair of a block, the same in the backward pass, and the elements of a tile that
  // they keep. Sums of them are then to be multiplied by kept_.
  void draw(const Block& block);
  void keep(const Tile& tile);

  const AttentionShape& s_;
  const AttentionPlan plan_;
  Builder b_;
  std::int64_t d_pieces_, v_pieces_;
  const float kept_;  // 1 / (1 - dropout)
  std::int16_t mask_hbm_ = -1;
  std::int16_t q_t_ = -1, k_t_ = -1, mask_ = -1, masked_ = -1, random_ = -1, score_ = -1, turned_ = -1, line_ = -1,
               turned_line_ = -1;
  std::int16_t zeros_ = -1;

  void give_mask();  // in HBM
  std::int16_t q_hbm_ = -1, k_hbm_ = -1, v_hbm_ = -1, out_hbm_ = -1, lse_hbm_ = -1;
  void give_operands();  // the forward pass's, in HBM
  void give_score_tiles(std::int64_t turned_copies);
  // Columns [rows, heads] of per-row scalars, in HBM as [batch, heads, length]: transposed on the way, and multiplied
  // by a factor on the way in.
  void store_columns(std::int16_t hbm, std::int16_t columns, const Index& batch, const Index& head, std::int64_t heads,
                     const Index& row, std::int64_t rows);
  void load_columns(std::int16_t hbm, std::int16_t columns, const Index& batch, const Index& head, std::int64_t heads,
                    const Index& row, std::int64_t rows, float factor);
  // Zeros `elements` from `start` of an output, `repeats` times `stride` elements apart.
  void zero(std::int16_t hbm, std::int64_t elements, std::int64_t start = 0, std::int64_t repeats = 1,
            std::int64_t stride = 0);
};

program::Program attention_backward(const target::Target& target, const AttentionShape& shape);
// Forward, of queries that do not fill a tile: none if they do, or if scores of all keys do not fit in SBUF.
std::optional<program::Program> attention_few_queries(const target::Target& target, const AttentionShape& shape);

}  // namespace trn::kernels
