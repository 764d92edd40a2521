// How the parameters of a norm reach the engines: per column, per channel of a row's group, or per row.
#pragma once

#include <string>

#include "kernels/rows.h"

namespace trn::kernels {

// What forward and backward share about a norm's geometry.
struct NormGeometry {
  std::int64_t spatial = 1;              // contiguous elements of one channel of one sample
  std::int64_t channels_per_row = 1;     // group: distinct parameters of a row
  std::int64_t num_parameters = 0;       // elements of weight and of bias
  std::int64_t run_elements = 0;         // of a row in HBM; 0: contiguous
  bool per_row = false;                  // batch: one weight and bias per row
  bool across = false;                   // batch of [samples, channels]: a row is a column of HBM
  std::int64_t bytes_per_parameter = 0;  // in SBUF

  explicit NormGeometry(const NormShape& shape);
};

// weight or bias. Each of its elements is read from HBM once, or once per row tile where a row does not fit in SBUF.
class NormParameter {
 public:
  NormParameter(rows::RowKernel& kernel, const NormShape& shape, const NormGeometry& geometry, const std::string& name);

  void give_tile();
  // Before the rows, in a nest of the caller's.
  void load_once();
  // At the start of a row group, and of a chunk of its columns.
  void load_group(const rows::Index& row, std::int64_t p, std::int64_t g);
  void load_chunk(std::int64_t p, const rows::Index& col, std::int64_t width);

  // Per row: a scalar. Otherwise: an operand as wide as the chunk.
  rows::Tile scalar(std::int64_t p, const rows::Index& member) const;
  rows::Tile wide(std::int64_t p, const rows::Index& member, std::int64_t width) const;

 private:
  rows::RowKernel& kernel_;
  const NormShape& shape_;
  const NormGeometry& geometry_;
  std::string name_;
  std::int16_t hbm_ = -1, tile_ = -1, raw_ = -1;
};

// The whole of a norm's backward pass; norm() dispatches to it.
program::Program norm_backward(const target::Target& target, const NormShape& shape);

}  // namespace trn::kernels
