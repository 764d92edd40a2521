// Layer and RMS normalisation of few long rows, each of which lies over all partitions.
//
// A row's sums are matmuls with ones, whose result every partition has: one for all rows that are normalised together,
// in a column each, so that a NaN stays in its row. Variances are sums of squared deviations from the row's mean.
#pragma once

#include <optional>
#include <string>

#include "kernels/norm_parameters.h"
#include "kernels/spread_rows.h"

namespace trn::kernels::spread_norm {

using rows::Index;
using rows::Opcode;
using rows::RowTensor;
using rows::SpreadRows;
using rows::Tile;
using tiling::on_chip_tile;

// What the two directions share: the rows, and sums over them.
class SpreadNorm {
 protected:
  SpreadNorm(const target::Target& target, const NormShape& shape, std::string name, const SpreadRows::Needs& needs)
      : s_(shape), k_(target, std::move(name), shape.rows, shape.cols, needs) {}

  void give_sums(std::int64_t columns) {
    const std::int64_t partitions = k_.partitions();
    ones_ = b_.sbuf("ones", Dtype::float32, partitions, partitions, 1);
    on_all_ = b_.psum("on_all_partitions", Dtype::float32, partitions, columns);
  }
  void fill_ones() { b_.memset(on_chip_tile(ones_, k_.partitions(), k_.partitions()), 1); }
  // The sums over partitions of each of a tile's columns, on all of them.
  Tile total(const Tile& parts) {
    const Tile sum = on_chip_tile(on_all_, k_.partitions(), parts.free_elements());
    b_.matmul(sum, on_chip_tile(ones_, k_.partitions(), k_.partitions()), parts);
    return sum;
  }

  // to = scale from + shift, by row.
  void affine(std::int16_t to, std::int16_t from, std::int64_t count, std::int16_t scale, std::int16_t shift = -1) {
    b_.loop(count, [&](const Index& r) {
      rows::Columns columns{.scale = k_.scalar(scale, r)};
      if (shift >= 0) {
        columns.bias = k_.scalar(shift, r);
      }
      rows::activation(b_, k_.row(to, r), k_.row(from, r), Activation::copy, columns);
    });
  }

  // A value for each of `count` rows: on every partition, and in HBM.
  void load_statistic(std::int16_t column, std::int16_t hbm, const Index& row, std::int64_t count) {
    b_.dma(k_.columns(column, count), tiling::hbm_tile(hbm, k_.partitions(), 0, {{count, 1}}, row));
  }
  void store_statistic(std::int16_t hbm, std::int16_t column, const Index& row, std::int64_t count) {
    b_.dma(tiling::hbm_tile(hbm, 1, count, {{count, 1}}, row), on_chip_tile(column, 1, count));
  }

  const NormShape& s_;
  SpreadRows k_;
  tiling::Builder& b_ = k_.builder;

 private:
  std::int16_t ones_ = -1, on_all_ = -1;
};

// None where a row does not fit in SBUF, over all partitions, or the norm is another.
std::optional<program::Program> forward(const target::Target& target, const NormShape& shape);
std::optional<program::Program> backward(const target::Target& target, const NormShape& shape);
bool may_be(const target::Target& target, const NormShape& shape);

}  // namespace trn::kernels::spread_norm
