// Reductions over few columns of very many rows, across partitions: a tile of rows on all partitions, column by column.
#include "kernels/reduction_layouts.h"

namespace trn::kernels {

using rows::Index;
using rows::Tile;
using tiling::on_chip_tile;
using tiling::StreamTile;

void Reduction::slabs() {
  const std::int64_t partitions = target_.core.num_partitions;
  const std::int64_t totals = 2 + (propagates_nan_ ? 1 : 0);  // copies
  const std::int64_t free = tiling::stream_free_elements(target_, s_.rows, smallest_itemsize(),
                                                         bytes_per_element() + totals * itemsize(Dtype::float32));
  give_tiles(free);
  const auto resident = [&](const std::string& name) { return b_.sbuf(name, Dtype::float32, partitions, free, 1); };
  const auto work = values(resident);
  const auto total = b_.sbuf("total", Dtype::float32, partitions, free);
  const auto mask = propagates_nan_ ? resident("nan") : total,
             nan_total = propagates_nan_ ? resident("nan_total") : total;
  // A logical operation makes truths of what it is given, a copy does not.
  const bool starts_with_column = s_.alu == Alu::add || s_.alu == Alu::multiply || extreme_;
  tiling::stream(b_, target_, s_.rows, free, [&](const StreamTile& rows) {
    const auto tile = [&](std::int16_t buffer) { return on_chip_tile(buffer, rows.partitions, rows.free); };
    const auto add = [&](const Index& col, bool is_first) {
      const StreamTile at{rows.partitions, rows.free, col * s_.rows + rows.first};
      std::vector<Tile> loaded;
      for (const auto& tensor : tiled_) {
        loaded.push_back(tile(tensor.tile));
        b_.dma(loaded.back(), at.hbm(tensor.hbm));
      }
      const Tile source = value(loaded, work, tile, at.position());
      if (propagates_nan_) {
        b_.tensor_tensor(tile(is_first ? nan_total : mask), source, source, Alu::not_equal);
      }
      if (is_first) {
        b_.activation(tile(total), source, Activation::copy);
      } else {
        combine(tile(total), source, tile(nan_total), tile(mask));
      }
    };
    if (starts_with_column) {
      add(Index(0), true);
    } else {
      b_.memset(tile(total), identity(s_.alu));
    }
    const std::int64_t added = starts_with_column ? 1 : 0;
    b_.loop(s_.cols - added, [&](const Index& col) { add(col + added, false); });
    finish_nan(tile(total), tile(nan_total));
    finish(tile(total));
    store_columns([&](std::int16_t hbm) { b_.dma(rows.hbm(hbm), tile(total)); });
  });
}

}  // namespace trn::kernels
