// Writes the Program of a matrix product under a given plan.
#pragma once

#include <string>
#include <vector>

#include "kernels/matmul.h"
#include "kernels/tiling.h"

namespace trn::kernels {

// Of a normalised shape.
class MatmulEmitter {
 public:
  MatmulEmitter(const target::Target& target, const MatmulShape& shape, const MatmulPlan& plan, Dtype auto_cast);

  program::Program emit();
  // The buffers alone, to see whether they fit.
  program::Program declare_only() { return builder_.take(); }

 private:
  using Index = tiling::Index;
  using Tile = tiling::Tile;

  // One operand: [k, extent] in HBM, or its transpose.
  struct Operand {
    bool k_major = true;
    std::int64_t extent = 0, block = 0, batch_stride = 0;
    std::int64_t pitch = 0;          // columns of a tile of K in SBUF: the blocks of all products of a step
    std::int64_t rows_together = 1;  // tiles of rows in a descriptor, where the operand is not k-major
    std::int16_t hbm = -1, sbuf = -1, staged = -1, transposed = -1;
  };

  // One block of the result, of every product of a step; `batch` is the first.
  struct Block {
    Index batch, m, n;
    std::int64_t m_size = 0, n_size = 0;
  };

  // A tile of a block's rows: `rows` of them, every `step`-th from `first`; the `number`-th tile of the block. Of the
  // `batch`-th product of those that a step computes.
  struct RowTile {
    Index batch, first, number;
    std::int64_t rows = 0, step = 1;
  };

  // The strides over batch, rows and columns of what is added to the result.
  struct Bias {
    std::int64_t elements = 0, batch_stride = 0, row_stride = 0, column_stride = 0;
    bool per_row() const { return elements > 0 && row_stride != 0; }
    bool per_block() const { return elements > 0 && row_stride == 0; }
  };

  bool accumulates() const { return plan_.k_block < s_.k; }
  Bias bias_of_shape() const;
  void choose_groups();
  void declare(Operand& operand, const std::string& name, Dtype hbm_dtype, Dtype tensor_dtype);
  std::vector<tiling::Dim> stacked(std::int64_t pitch, std::vector<tiling::Dim> dims) const;
  void outer_block(const Index& batch, const Index& first, std::int64_t size);
  void resident_block(const Block& block);
  void accumulated_block(const Block& block);
  void partial_products(const Block& block, const Index& k, std::int64_t k_size, bool is_first);
  void load(const Operand& operand, const Index& batch, const Index& first, std::int64_t size, const Index& k,
            std::int64_t k_size);
  void load_transposed(const Operand& operand, const Index& start, std::int64_t size, std::int64_t k_size);
  template <class Body, class After>
  void row_tiles(const Block& block, Body per_tile, After after);
  template <class Body>
  void finished_rows(const Block& block, Body finish_tile);
  void load_bias(const Block& block, const RowTile& tile);
  void sum_over_k(const RowTile& tile, const Index& column, std::int64_t columns, std::int64_t k_size);
  void finish(const Tile& sums, const Index& column, std::int64_t columns, const Index& out_row);
  void store(const Block& block, const Index& first, const tiling::RowGroup& group);
  void stream_complex_bias();

  const target::Target& target_;
  const MatmulShape s_;
  const MatmulPlan plan_;
  const Dtype auto_cast_;
  const bool complex_;
  const std::int64_t partitions_, rows_, columns_;  // of the largest tile: K, M and N
  const std::int64_t k_lanes_, m_lanes_;            // of a tile: K and M
  const std::int64_t staged_columns_;
  tiling::Builder builder_;
  std::int64_t batches_ = 1;                        // that the step being emitted has
  std::int64_t k_together_ = 1, out_together_ = 1;  // tiles of K, and of the result's rows, in a descriptor
  Operand a_, b_;
  Bias bias_;
  std::int16_t bias_hbm_ = -1, bias_rows_ = -1, out_hbm_ = -1, out_rows_ = -1, sums_ = -1, partial_ = -1;
};

}  // namespace trn::kernels
