// Reductions of few long rows that are stored as columns.
#include <algorithm>
#include <vector>

#include "kernels/reduction_layouts.h"

namespace trn::kernels {

using rows::Index;
using rows::Tile;
using tiling::Dim;
using tiling::hbm_tile;
using tiling::on_chip_tile;
using tiling::StreamTile;

void Reduction::spread_columns() {
  const std::int64_t partitions = target_.core.num_partitions, num_rows = s_.rows;
  const std::int64_t elements =
      tiling::stream_free_elements(target_, size_, smallest_itemsize(), bytes_per_element() + 8);
  const std::int64_t width = std::max<std::int64_t>(elements / num_rows, 1), free = width * num_rows;
  const std::int64_t shares = s_.cols >= k_.num_shares() * partitions * width ? k_.num_shares() : 1;
  const std::int64_t lanes = partitions * shares;
  give_tiles(free);
  const auto work = values([&](const std::string& name) { return b_.sbuf(name, Dtype::float32, partitions, free, 1); });
  const auto mask = b_.sbuf("nan", Dtype::float32, partitions, free, 1);
  const auto totals = b_.sbuf("totals", Dtype::float32, partitions, 2 * shares * num_rows, 1);
  const auto parts = b_.sbuf("parts", Dtype::float32, partitions, 2 * num_rows);
  const auto line = b_.sbuf("line", Dtype::float32, 1, lanes * num_rows, 1);
  const auto result = b_.sbuf("result", Dtype::float32, 1, 2 * num_rows);
  // What is found of NaN stands behind the values.
  const auto of = [&](std::int16_t buffer, std::int64_t p, bool nan, std::int64_t count, const Index& share = {}) {
    return on_chip_tile(buffer, p, count * num_rows, share * num_rows + Index(nan ? count * num_rows : 0));
  };
  const auto total = [&](std::int64_t p, bool nan, const Index& share) {
    return on_chip_tile(totals, p, num_rows, share * num_rows + Index(nan ? shares * num_rows : 0));
  };
  const auto side_by_side = [&](std::int64_t n) { return std::vector<Dim>{{num_rows, 1}, {n, num_rows}}; };

  const auto tile = [&](const Index& col, std::int64_t p, std::int64_t n, const Index& share) {
    const std::int64_t count = n * num_rows;
    const Index first = col * num_rows;
    std::vector<Tile> loaded;
    for (const auto& tensor : tiled_) {
      loaded.push_back(on_chip_tile(tensor.tile, p, count));
      b_.dma(loaded.back(), hbm_tile(tensor.hbm, p, count, {{count, 1}}, first));
    }
    const auto work_tile = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, count); };
    const Tile source = value(loaded, work, work_tile, StreamTile{p, count, first}.position());
    b_.tensor_reduce(of(parts, p, false, 1), on_chip_tile(source.buffer, p, side_by_side(n)), s_.alu);
    if (propagates_nan_) {
      b_.tensor_tensor(on_chip_tile(mask, p, count), source, source, Alu::not_equal);
      b_.tensor_reduce(of(parts, p, true, 1), on_chip_tile(mask, p, side_by_side(n)), Alu::maximum);
    }
    combine(total(p, false, share), of(parts, p, false, 1), total(p, true, share), of(parts, p, true, 1));
  };

  b_.nest("start");
  b_.memset(of(totals, partitions, false, shares), identity(s_.alu));
  b_.memset(of(totals, partitions, true, shares), 0);
  const std::int64_t size = partitions * width, each = s_.cols / size / shares, shared = each * shares * size;
  b_.nest("body");
  b_.parallel_loop(each > 0 ? shares : 0, [&](const Index& share) {
    b_.loop(each, [&](const Index& i) { tile(share * (each * size) + i * size, partitions, width, share); });
  });
  b_.nest("rest");
  std::int64_t col = shared;
  b_.loop((s_.cols - col) / size, [&](const Index& i) { tile(i * size + shared, partitions, width, Index(0)); });
  col += (s_.cols - col) / size * size;
  for (const std::int64_t p : {partitions, std::int64_t{1}}) {
    const std::int64_t n = (s_.cols - col) / p;
    if (n > 0) {
      tile(Index(col), p, n, Index(0));
      col += p * n;
    }
  }
  const auto join = [&](bool nan, Alu alu) {
    b_.dma(on_chip_tile(line, 1, lanes * num_rows), of(totals, partitions, nan, shares));
    b_.tensor_reduce(of(result, 1, nan, 1), on_chip_tile(line, 1, side_by_side(lanes)), alu);
  };
  join(false, s_.alu);
  if (propagates_nan_) {
    join(true, Alu::maximum);
  }
  finish_nan(of(result, 1, false, 1), of(result, 1, true, 1));
  finish(of(result, 1, false, 1));
  store_columns([&](std::int16_t hbm) { b_.dma(hbm_tile(hbm, 1, 0, {{num_rows, 1}}), of(result, 1, false, 1)); });
}

}  // namespace trn::kernels
