// Kernels over the rows of a matrix: row tiles with rows on partitions, and instructions with per-row scalars.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/tiling.h"

namespace trn::kernels::rows {

inline constexpr std::int64_t kTriple = 3;                // count, mean and the sum of squared deviations
inline constexpr std::int64_t kStatistics = 2 * kTriple;  // that bn_stats makes of a piece

using tiling::Builder;
using tiling::ceil_div;
using tiling::Index;
using tiling::Instruction;
using tiling::Opcode;
using tiling::Tile;

// Any instruction by its operands; per-row scalars are tiles of one element per partition.
void op(Builder& builder, Opcode opcode, const Tile& dst, std::vector<Tile> src, Alu alu0 = Alu::none,
        Alu alu1 = Alu::none);
// A scale and a bias for each row, or one of each for all.
struct Columns {
  std::optional<Tile> scale = {}, bias = {};
  float scale_constant = 1, bias_constant = 0;
};
// dst = function(scale * src + bias)
void activation(Builder& builder, const Tile& dst, const Tile& src, Activation function, const Columns& columns = {});
// The same, and sum [P, 1] = the sum of dst along the free axis.
void activation_reduce(Builder& builder, const Tile& dst, const Tile& sum, const Tile& src, Activation function,
                       const Columns& columns = {});

// [groups * rows, groups * cols]: ones where a row and a column belong to the same group, else zeros.
Tile block_diagonal(Builder& builder, std::int16_t buffer, std::int64_t groups, std::int64_t rows, std::int64_t cols);
// What bn_stats left behind a triple (count, mean, squared deviations) of what went before, `elements` in all from
// `first` on, joined into it; they are `added` values.
void join_statistics(Builder& builder, std::int16_t buffer, std::int64_t p, const Index& first, std::int64_t elements,
                     std::int64_t added);
// dst = factor a b
void scaled_product(Builder& builder, const Tile& dst, const Tile& a, const Tile& b, float factor);

// Few columns of many rows, across partitions: TensorE's transposes take time for each row, slabs, whose tiles have a
// row in each element, for each element of a partition.
bool may_be_slabs(const target::Core& core, std::int64_t num_rows, std::int64_t cols);
// Long rows that leave partitions or a core idle: each may lie over all partitions instead. `across`: few rows, stored
// as columns, all of which then do.
bool may_spread(const target::Target& target, std::int64_t num_rows, std::int64_t cols, bool across = false);
// What a row is on the chip: a partition (or a column, of a matrix stored across partitions), an element of a tile, or
// a tile.
enum class Layout { rows, slabs, spread };

// A tensor of the kernel: where it lies in HBM and the SBUF tile that holds a group of its rows.
struct RowTensor {
  std::int16_t hbm = -1, tile = -1;
  std::int16_t stage = -1, psum = -1;  // across partitions: the tile before its transpose
};

// Plans and walks a [rows, cols] matrix. Rows lie on partitions: partition p of a group holds `g` consecutive rows, as
// many as make its DMA runs long. `across`: the matrix is stored as [cols, rows], so each 128 x 128 block is loaded
// with columns on partitions and transposed by TensorE; group member j then holds rows j * 128 + p.
class RowKernel {
 public:
  RowKernel(const target::Target& target, std::string name, std::int64_t rows, std::int64_t cols, bool across = false);

  // Chooses the group and the chunk of columns, given the SBUF bytes per element of all tiles, copies included, and
  // bytes that other buffers take.
  void plan(std::int64_t bytes_per_element, std::int64_t smallest_itemsize, std::int64_t reserved_bytes = 0);
  // Columns come in units that a chunk holds whole, or parts of one of.
  void set_unit(std::int64_t unit) { unit_ = unit > 0 && cols_ % unit == 0 ? unit : 1; }
  // Rows repeat with this period: a partition's group divides it, so that its rows are the same ones of each period.
  void set_period(std::int64_t period) { period_ = period; }
  // The whole row fits: tensors are read once. Otherwise the row passes in chunks.
  bool resident() const { return chunk_ == cols_; }
  std::int64_t chunk() const { return chunk_; }
  std::int64_t group() const { return group_; }
  std::int64_t partitions() const { return partitions_; }
  std::int64_t sbuf_bytes() const { return target_.core.sbuf_bytes_per_partition; }

  // Declare every tensor's HBM buffer first; give_tile() then adds SBUF tiles. A row of a tensor may lie in HBM as runs
  // of `run_elements` each (0: contiguous).
  RowTensor tensor(const std::string& name, Dtype dtype, bool is_output = false, std::int64_t run_elements = 0);
  void give_tile(RowTensor& tensor, std::int64_t copies = 2);
  std::int16_t work(const std::string& name, Dtype dtype, std::int64_t copies = 2);
  // One scalar per row.
  std::int16_t column(const std::string& name, Dtype dtype = Dtype::float32);

  // body(first row, partitions, rows per partition), a nest for each kind of group.
  template <class Body>
  void row_groups(Body body) {
    row_groups(std::move(body), rows_, true, "");
  }
  template <class Body>
  void row_groups(Body body, std::int64_t num_rows, bool parallel, const std::string& prefix) {
    const std::int64_t full = num_rows / (partitions_ * group_);
    const std::int64_t rest = num_rows - full * partitions_ * group_;
    const std::int64_t narrow = rest / partitions_, tail = rest % partitions_;
    auto emit = [&](const char* name, std::int64_t start, std::int64_t trips, std::int64_t p, std::int64_t g) {
      if (cols_ > 0 && trips > 0 && p > 0 && g > 0) {
        builder.nest(prefix + name);
        builder.loop(trips, [&](const Index& i) { body(i * (p * g) + start, p, g); }, parallel);
      }
    };
    emit("body", 0, full, partitions_, group_);
    emit("remainder", num_rows - rest, 1, partitions_, narrow);
    emit("tail", num_rows - tail, 1, tail, 1);
  }
  // The same for sums over rows: body(first row, partitions, rows per partition, share), where share names the physical
  // core's own accumulator, 0 .. num_shares() - 1; groups that do not divide evenly go to share 0.
  std::int64_t num_shares() const { return std::max<std::int64_t>(target_.device.num_cores, 1); }
  template <class Body>
  void row_groups_shared(Body body) {
    const std::int64_t group_rows = partitions_ * group_;
    const std::int64_t each = rows_ / group_rows / num_shares();
    const std::int64_t shared = each * num_shares() * group_rows;
    if (cols_ > 0 && each > 0) {
      builder.nest("body");
      builder.parallel_loop(num_shares(), [&](const Index& share) {
        builder.loop(each, [&](const Index& i) {
          body(share * (each * group_rows) + i * group_rows, partitions_, group_, share);
        });
      });
    }
    row_groups([&](const Index& row, std::int64_t p, std::int64_t g) { body(row + shared, p, g, Index(0)); },
               rows_ - shared, false, each > 0 ? "rest_" : "");
  }
  // body(member) for each row of a partition's group.
  template <class Body>
  void members(std::int64_t g, Body body) {
    if (g == 1) {
      body(Index(0));
    } else {
      builder.loop(g, body);
    }
  }
  // body(first column, width)
  template <class Body>
  void chunks(Body body) {
    if (resident()) {
      body(Index(0), cols_);
    } else if (unit_ <= chunk_) {
      builder.tiles(cols_, chunk_, body);
    } else {
      builder.loop(cols_ / unit_, [&](const Index& unit) {
        builder.tiles(unit_, chunk_, [&](const Index& col, std::int64_t width) { body(unit * unit_ + col, width); });
      });
    }
  }

  // body(first, width) for pieces of a chunk, of at most `most` columns: whole units, or parts of one.
  template <class Body>
  void pieces(std::int64_t width, std::int64_t most, Body body) {
    if (unit_ <= most || width <= unit_) {
      builder.tiles(width, unit_ <= most ? most / unit_ * unit_ : most, body);
      return;
    }
    builder.loop(width / unit_, [&](const Index& unit) {
      builder.tiles(unit_, most, [&](const Index& first, std::int64_t part) { body(unit * unit_ + first, part); });
    });
  }

  void load(const RowTensor& tensor, const Index& row, std::int64_t p, std::int64_t g, const Index& col,
            std::int64_t width);
  void store(const RowTensor& tensor, const Index& row, std::int64_t p, std::int64_t g, const Index& col,
             std::int64_t width);
  // One element per row, to or from an SBUF column; through TensorE where that makes the rows contiguous.
  void load_column(std::int16_t hbm, std::int16_t column, const Index& row, std::int64_t p, std::int64_t g);
  void store_column(std::int16_t hbm, std::int16_t column, const Index& row, std::int64_t p, std::int64_t g);

  // Member j's row in a tile, and its scalar in a column.
  Tile row(std::int16_t tile, std::int64_t p, const Index& member, std::int64_t width) const;
  Tile scalar(std::int16_t column, std::int64_t p, const Index& member) const;

  Builder builder;

 private:
  bool turns_columns(std::int64_t p, std::int64_t g) const { return p > 1 && (across_ || g == 1); }
  void give_line();

  const target::Target& target_;
  std::int64_t rows_, cols_, partitions_;
  bool across_;
  std::int64_t group_ = 1, chunk_ = 1, unit_ = 1;
  std::int64_t period_ = 0;  // 0: none
  std::int16_t line_ = -1, turned_ = -1;
};

}  // namespace trn::kernels::rows
