// The geometry of rows that lie over all partitions.
#include "kernels/spread_rows.h"

#include <utility>

namespace trn::kernels::rows {

using tiling::hbm_tile;
using tiling::on_chip_tile;

SpreadRows::SpreadRows(const target::Target& target, std::string name, std::int64_t rows, std::int64_t cols,
                       std::int64_t bytes_per_element)
    : builder(std::move(name)),
      rows_(rows),
      cols_(cols),
      partitions_(target.core.num_partitions),
      width_(ceil_div(cols, partitions_)),
      full_(cols / width_),
      rest_(cols % width_) {
  constexpr std::int64_t kMost = 8;  // scalars of all of them lie on one partition
  const std::int64_t scalars = 8 * partitions_ * kMost * target::itemsize(Dtype::float32);
  const std::int64_t fitting = (target.core.sbuf_bytes_per_partition - scalars) / (width_ * bytes_per_element);
  const std::int64_t cores = std::max<std::int64_t>(target.device.num_cores, 1);
  together_ = std::min({ceil_div(rows_, cores), fitting, kMost});
}

RowTensor SpreadRows::tensor(const std::string& name, const Access& access, bool is_output) {
  return {.hbm = builder.hbm(name, access, is_output)};
}
void SpreadRows::give_tile(RowTensor& tensor) {
  tensor.tile = work("tile" + std::to_string(tensor.hbm), tiling::sbuf_dtype(builder.dtype(tensor.hbm)));
}
std::int16_t SpreadRows::work(const std::string& name, Dtype dtype) {
  return builder.sbuf(name, dtype, partitions_, together_ * width_);
}
std::int16_t SpreadRows::column(const std::string& name) {
  return builder.sbuf(name, Dtype::float32, partitions_, together_);
}
std::int16_t SpreadRows::line(const std::string& name, std::int64_t lines) {
  return builder.sbuf(name, Dtype::float32, 1, lines * together_);
}

// What the full partitions have, and the partition that has what is left.
template <class Move>
void SpreadRows::each_part(const RowTensor& tensor, const Index& row, std::int64_t count, Move move) const {
  move(on_chip_tile(tensor.tile, full_, {{count, width_}, {width_, 1}}),
       hbm_tile(tensor.hbm, full_, width_, {{count, cols_}, {width_, 1}}, row * cols_));
  if (rest_ > 0) {
    Tile last = on_chip_tile(tensor.tile, 1, {{count, width_}, {rest_, 1}});
    last.start_partition = full_;
    move(last, hbm_tile(tensor.hbm, 1, 0, {{count, cols_}, {rest_, 1}}, row * cols_ + Index(full_ * width_)));
  }
}

void SpreadRows::load(const RowTensor& tensor, const Index& row, std::int64_t count, float outside) {
  if (full_ < partitions_) {
    builder.memset(all(tensor.tile, count), outside);
  }
  each_part(tensor, row, count, [&](const Tile& tile, const Tile& hbm) { builder.dma(tile, hbm); });
}
void SpreadRows::store(const RowTensor& tensor, const Index& row, std::int64_t count) {
  each_part(tensor, row, count, [&](const Tile& tile, const Tile& hbm) { builder.dma(hbm, tile); });
}

Tile SpreadRows::all(std::int16_t tile, std::int64_t count) const {
  return on_chip_tile(tile, partitions_, count * width_);
}
Tile SpreadRows::by_row(std::int16_t tile, std::int64_t count) const {
  return on_chip_tile(tile, partitions_, {{count, width_}, {width_, 1}});
}
Tile SpreadRows::row(std::int16_t tile, const Index& member) const {
  return on_chip_tile(tile, partitions_, width_, member * width_);
}
Tile SpreadRows::columns(std::int16_t column, std::int64_t count) const {
  return on_chip_tile(column, partitions_, count);
}
Tile SpreadRows::scalar(std::int16_t column, const Index& member) const {
  return on_chip_tile(column, partitions_, 1, member);
}

}  // namespace trn::kernels::rows
