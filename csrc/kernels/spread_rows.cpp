// The geometry of rows that lie over all partitions.
#include "kernels/spread_rows.h"

#include <utility>

namespace trn::kernels::rows {

using tiling::hbm_tile;
using tiling::on_chip_tile;

SpreadRows::SpreadRows(const target::Target& target, std::string name, std::int64_t rows, std::int64_t cols,
                       const Needs& needs)
    : builder(std::move(name)),
      rows_(rows),
      cols_(cols),
      partitions_(target.core.num_partitions),
      num_cores_(std::max<std::int64_t>(target.device.num_cores, 1)),
      width_(ceil_div(cols, partitions_)),
      full_(cols / width_),
      rest_(cols % width_) {
  constexpr std::int64_t kMostRows = 8, kMostColumns = 16, kOtherBytes = 1024;  // TensorE's ones, for example
  const std::int64_t most = std::min(ceil_div(rows_, num_cores_), kMostRows);
  const std::int64_t scalars = 2 * target::itemsize(Dtype::float32) * most;
  const std::int64_t free = target.core.sbuf_bytes_per_partition - kOtherBytes -
                            (needs.lines + kMostColumns) * scalars - width_ * needs.shared_bytes;
  const std::int64_t fitting = std::max<std::int64_t>(free, 0) / (width_ * needs.element_bytes);
  copies_ = fitting > 1 ? 2 : 1;
  together_ = std::min(fitting / copies_, most);
}

RowTensor SpreadRows::tensor(const std::string& name, const Access& access, bool is_output) {
  return {.hbm = builder.hbm(name, access, is_output)};
}
RowTensor SpreadRows::tensor(const std::string& name, Dtype dtype, std::int64_t rows, bool is_output) {
  return {.hbm = builder.hbm(name, dtype, rows * cols_, is_output)};
}
void SpreadRows::give_tile(RowTensor& tensor) {
  tensor.tile = work("tile" + std::to_string(tensor.hbm), tiling::sbuf_dtype(builder.dtype(tensor.hbm)));
}
std::int16_t SpreadRows::work(const std::string& name, Dtype dtype) {
  return builder.sbuf(name, dtype, partitions_, together_ * width_, copies_);
}
std::int16_t SpreadRows::shared(const std::string& name, Dtype dtype, std::int64_t shares) {
  return builder.sbuf(name, dtype, partitions_, shares * width_, 1);
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
  if (is_ragged()) {
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
Tile SpreadRows::line_of(std::int16_t shared, const Index& share) const {
  return on_chip_tile(shared, partitions_, width_, share * width_);
}
Tile SpreadRows::repeated(std::int16_t shared, std::int64_t count) const {
  return on_chip_tile(shared, partitions_, {{count, 0}, {width_, 1}});
}
Tile SpreadRows::by_column(std::int16_t tile, std::int64_t count) const {
  return on_chip_tile(tile, partitions_, {{width_, 1}, {count, width_}});
}

void SpreadRows::mark_inside(std::int16_t shared) {
  builder.memset(line_of(shared), 0);
  builder.memset(on_chip_tile(shared, full_, width_), 1);
  if (rest_ > 0) {
    Tile last = on_chip_tile(shared, 1, rest_);
    last.start_partition = full_;
    builder.dma(last, on_chip_tile(shared, 1, rest_));
  }
}

}  // namespace trn::kernels::rows
