// How reductions of the rows of a matrix are built: what their layouts share.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/reduction.h"
#include "kernels/rows.h"

namespace trn::kernels {

// What an accumulator starts from.
float identity(Alu alu);

// Operands, the prologue, and the reduction of one tile to a column; then a layout each.
class Reduction {
 public:
  Reduction(const target::Target& target, const ReductionShape& shape);

  // Slabs are of a matrix across partitions only; so are spread rows of anything but sums of floats.
  program::Program emit(rows::Layout layout);

 private:
  using Index = rows::Index;
  using Opcode = rows::Opcode;
  using Tile = rows::Tile;

  std::int64_t smallest_itemsize() const;
  // Tiles: two copies of each input, one each of the prologue's values and of the NaN mask.
  std::int64_t bytes_per_element() const;
  void plan();
  void give_tiles(std::int64_t free);  // to the operands, of `free` elements a partition
  bool is_empty() const { return size_ == 0 || size_ / std::max<std::int64_t>(s_.rows, 1) != s_.cols; }

  // Operands that are not as large as the iteration space (weights of a loss, say) pass through SBUF once.
  std::int64_t odd_free(Dtype dtype) const { return 2 * target_.core.dma_saturating_bytes / itemsize(dtype); }
  void read_odd_inputs();
  bool is_column(std::size_t output) const { return s_.outputs[output].elements == s_.rows && size_ > 0; }

  // Results that are not one element per row, and every result of an empty input.
  void write_odd_outputs();

  // What the prologue computes in; the first holds its result.
  std::int64_t num_values() const { return tiling::num_temporaries(s_.prologue); }
  template <class Allocate>
  std::vector<std::int16_t> values(Allocate allocate) const {
    std::vector<std::int16_t> buffers{allocate("value")};
    for (std::int64_t i = 1; i < num_values(); ++i) {
      buffers.push_back(allocate("value" + std::to_string(i)));
    }
    return buffers;
  }
  // The prologue's value of the loaded tiles; the first input itself where there is none. `tile` of a buffer.
  template <class TileOf>
  Tile value(const std::vector<Tile>& loaded, const std::vector<std::int16_t>& buffers, TileOf tile,
             const Tile& position) {
    if (s_.prologue.empty() && !loaded.empty()) {
      return loaded.front();
    }
    std::vector<Tile> work;
    for (const std::int16_t buffer : buffers) {
      work.push_back(tile(buffer));
    }
    tiling::apply_steps(b_, s_.prologue, loaded, {work.front()}, work, position);
    return work.front();
  }

  // max and min of PyTorch propagate NaN, the engine's do not (TorchNeuron's tests: relu(NaN) is 0): a mask is reduced
  // beside.
  void mask_nan(const Tile& mask, const Tile& source, const Tile& column);
  void combine(const Tile& total, const Tile& part, const Tile& nan_total, const Tile& nan_part);
  void finish_nan(const Tile& total, const Tile& nan_total);
  void finish(const Tile& total);
  template <class Store>
  void store_columns(Store store) {
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      if (is_column(i)) {
        store(outputs_[i]);
      }
    }
  }
  // fp32 is what the sum accumulates in, so that narrow floats are widened on the way to TensorE, as the rate that is
  // measured for bf16 says (docs/contract.md: half of fp32's bytes a second).
  Tile widened(const Tile& source, std::int16_t wide);

  // Rows on partitions, reduced along the free axis by VectorE; across partitions, tiles are transposed first.
  void along_rows();
  // [cols on partitions, rows free]: ones^T @ tile, accumulated in PSUM over the columns. The cores share the rows.
  void sum_across();
  // The same of few rows, several columns to a descriptor. The cores share the columns.
  bool is_narrow() const;
  void sum_narrow();
  // Few columns of very many rows: as many rows as a tile has elements, column by column.
  void slabs();
  // Few long rows: each is spread over all partitions. Floats are summed by matmuls with ones into one PSUM row;
  // everything else is reduced per partition by VectorE, and the 128 results are transposed and reduced again.
  void spread();
  // Few long rows stored as columns, all of which lie over all partitions: reduced side by side on each, and the
  // results, moved to one partition by DMA, again.
  void spread_columns();
  // [128 partitions, shares] to one element.
  void fold(const Tile& out, std::int16_t columns, std::int16_t turned, std::int64_t shares, Alu alu);

  const ReductionShape& s_;
  const target::Target& target_;
  const std::int64_t size_;
  const bool extreme_;
  bool propagates_nan_ = false, sums_floats_ = false;
  rows::RowKernel k_;
  tiling::Builder& b_;
  std::vector<rows::RowTensor> tiled_, odd_;
  std::vector<std::int16_t> outputs_;
};

}  // namespace trn::kernels
