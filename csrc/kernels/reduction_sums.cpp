// Reductions that TensorE adds up, by matmuls with ones, and those of few long rows.
#include <algorithm>

#include "kernels/reduction_layouts.h"

namespace trn::kernels {

using rows::Index;
using rows::Tile;
using tiling::ceil_div;
using tiling::hbm_tile;
using tiling::on_chip_tile;
using tiling::StreamTile;

Tile Reduction::widened(const Tile& source, std::int16_t wide) {
  if (b_.dtype(source.buffer) == Dtype::float32) {
    return source;
  }
  Tile result = source;
  result.buffer = wide;
  result.offset = 0;
  result.loop_strides.clear();
  b_.tensor_copy(result, source);
  return result;
}

void Reduction::sum_across() {
  const auto& core = target_.core;
  const std::int64_t partitions = core.num_partitions, moving = core.moving_free_max_elements;
  const std::int64_t cores = std::max<std::int64_t>(target_.device.num_cores, 1);
  const std::int64_t fitting = std::max<std::int64_t>(core.sbuf_bytes_per_partition / 2 / bytes_per_element(), 1);
  const std::int64_t banks = std::max<std::int64_t>(core.psum_num_banks / 2, 1);
  const std::int64_t most = std::max<std::int64_t>(std::min(banks * moving, fitting), 1);
  // As many equal tiles for each core, and what does not divide, a few rows, in a nest of its own.
  const std::int64_t width = std::max<std::int64_t>(s_.rows / tiling::round_up(ceil_div(s_.rows, most), cores), 1);
  give_tiles(width);
  const auto work =
      values([&](const std::string& name) { return b_.sbuf(name, Dtype::float32, partitions, width, 1); });
  const auto wide = b_.sbuf("wide", Dtype::float32, partitions, width, 1);
  const auto ones = b_.sbuf("ones", Dtype::float32, partitions, 1, 1);
  const auto sums = b_.psum("sums", Dtype::float32, 1, width);
  const auto out = b_.sbuf("total", Dtype::float32, 1, width);
  b_.nest("ones");
  b_.memset(on_chip_tile(ones, partitions, 1), 1);
  for (const auto& segment : tiling::split(s_.rows, width)) {
    b_.nest(segment.start == 0 ? "body" : "right_edge");
    b_.parallel_loop(segment.trips, [&](const Index& i) {
      const Index row = i * segment.size + segment.start;
      auto column_tile = [&](const Index& col, std::int64_t p, bool after) {
        std::vector<Tile> loaded;
        for (const auto& tensor : tiled_) {
          loaded.push_back(on_chip_tile(tensor.tile, p, segment.size));
          b_.dma(loaded.back(), hbm_tile(tensor.hbm, p, s_.rows, {{segment.size, 1}}, col * s_.rows + row));
        }
        const int depth = b_.depth() - 1;
        auto work_tile = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, segment.size); };
        const Tile position = StreamTile{p, segment.size, col * s_.rows + row}.position();
        const Tile source = widened(value(loaded, work, work_tile, position), wide);
        b_.tiles(segment.size, moving, [&](const Index& c, std::int64_t w) {
          b_.matmul(on_chip_tile(sums, 1, w, c), on_chip_tile(ones, p, 1), on_chip_tile(source.buffer, p, w, c),
                    after ? program::kAccumulate : static_cast<std::int16_t>(depth));
        });
      };
      bool after = false;
      for (const auto& cols : tiling::split(s_.cols, partitions)) {
        b_.loop(cols.trips, [&](const Index& c) { column_tile(c * partitions + cols.start, cols.size, after); });
        after = true;
      }
      b_.tensor_copy(on_chip_tile(out, 1, segment.size), on_chip_tile(sums, 1, segment.size));
      finish(on_chip_tile(out, 1, segment.size));
      store_columns([&](std::int16_t hbm) {
        b_.dma(hbm_tile(hbm, 1, 0, {{segment.size, 1}}, row), on_chip_tile(out, 1, segment.size));
      });
    });
  }
}

bool Reduction::is_narrow() const {
  const auto& core = target_.core;
  const std::int64_t moving = core.moving_free_max_elements, banks = core.psum_num_banks / k_.num_shares();
  return s_.rows <= moving * banks && s_.rows * smallest_itemsize() < core.dma_saturating_bytes * k_.num_shares() &&
         s_.rows * bytes_per_element() <= core.sbuf_bytes_per_partition / 2;
}

void Reduction::sum_narrow() {
  const auto& core = target_.core;
  const std::int64_t partitions = core.num_partitions, moving = core.moving_free_max_elements, num_rows = s_.rows;
  const std::int64_t num_shares = k_.num_shares();
  const std::int64_t fitting = core.sbuf_bytes_per_partition / 2 / (num_rows * bytes_per_element());
  const std::int64_t spare = s_.cols / (4 * num_shares * partitions);
  const std::int64_t tiles = std::max<std::int64_t>(
      std::min({tiling::rows_per_descriptor(target_, num_rows * smallest_itemsize()), fitting, spare}), 1);
  // Sums of several columns side by side, while their rows leave room in a matmul.
  const std::int64_t together = std::clamp<std::int64_t>(moving / num_rows, 1, tiles);
  const std::int64_t width = tiling::round_up(together * num_rows, moving), free = tiles * num_rows;
  give_tiles(free);
  const auto work = values([&](const std::string& name) { return b_.sbuf(name, Dtype::float32, partitions, free, 1); });
  const auto wide = b_.sbuf("wide", Dtype::float32, partitions, free, 1);
  const auto ones = b_.sbuf("ones", Dtype::float32, partitions, 1, 1);
  const auto sums = b_.psum("sums", Dtype::float32, 1, num_shares * width, 1);
  const auto out = b_.sbuf("total", Dtype::float32, 1, num_rows), part = b_.sbuf("part", Dtype::float32, 1, num_rows);
  b_.nest("start");
  b_.memset(on_chip_tile(ones, partitions, 1), 1);
  b_.memset(on_chip_tile(sums, 1, num_shares * width), 0);
  const auto add = [&](const Index& col, const tiling::RowGroup& group, const Index& share) {
    const std::int64_t n = group.tiles * num_rows;
    std::vector<Tile> loaded;
    for (const auto& tensor : tiled_) {
      loaded.push_back(on_chip_tile(tensor.tile, group.lanes, n));
      b_.dma(loaded.back(), hbm_tile(tensor.hbm, group.lanes, n, {{n, 1}}, col * num_rows));
    }
    auto work_tile = [&](std::int16_t buffer) { return on_chip_tile(buffer, group.lanes, n); };
    const Tile position = StreamTile{group.lanes, n, col * num_rows}.position();
    const Tile source = widened(value(loaded, work, work_tile, position), wide);
    b_.tiles(group.tiles, together, [&](const Index& t, std::int64_t columns) {
      b_.tiles(columns * num_rows, moving, [&](const Index& c, std::int64_t w) {
        b_.matmul(on_chip_tile(sums, 1, w, share * width + c), on_chip_tile(ones, group.lanes, 1),
                  on_chip_tile(source.buffer, group.lanes, w, t * num_rows + c), program::kAccumulate);
      });
    });
  };
  b_.nest("body");
  b_.shared_groups(tiling::row_groups(s_.cols, partitions, tiles), num_shares, add);
  b_.nest("result");
  const Tile total = on_chip_tile(out, 1, num_rows);
  for (std::int64_t share = 0; share < num_shares; ++share) {
    const Tile into = share == 0 ? total : on_chip_tile(part, 1, num_rows);
    b_.tensor_reduce(into, on_chip_tile(sums, 1, {{num_rows, 1}, {together, num_rows}}, share * width), Alu::add);
    if (share > 0) {
      b_.tensor_tensor(total, total, into, Alu::add);
    }
  }
  finish(total);
  store_columns([&](std::int16_t hbm) { b_.dma(hbm_tile(hbm, 1, 0, {{num_rows, 1}}), total); });
}

void Reduction::spread() {
  const auto& core = target_.core;
  const std::int64_t partitions = core.num_partitions, moving = core.moving_free_max_elements;
  const std::int64_t cores = std::max<std::int64_t>(target_.device.num_cores, 1);
  const std::int64_t shares = s_.rows == 1 ? cores : 1;
  const std::int64_t free =
      tiling::stream_free_elements(target_, s_.cols, smallest_itemsize(), bytes_per_element() + 8);
  give_tiles(free);
  const auto work = values([&](const std::string& name) { return b_.sbuf(name, Dtype::float32, partitions, free, 1); });
  const auto mask = b_.sbuf("nan", Dtype::float32, partitions, free, 1);
  const auto wide = b_.sbuf("wide", Dtype::float32, partitions, sums_floats_ ? free : 1, 1);
  const auto ones = b_.sbuf("ones", Dtype::float32, partitions, 1, 1);
  const auto totals = b_.sbuf("totals", Dtype::float32, partitions, shares, 1);
  const auto nan_totals = b_.sbuf("nan_totals", Dtype::float32, partitions, shares, 1);
  const auto parts = b_.sbuf("parts", Dtype::float32, partitions, 2);
  const auto sums = b_.psum("sums", Dtype::float32, 1, shares * moving, 1);
  const auto turned = b_.psum("turned", Dtype::float32, 1, 2 * partitions);
  const auto result = b_.sbuf("result", Dtype::float32, 1, 2);

  auto start = [&] {
    b_.memset(on_chip_tile(ones, partitions, 1), 1);
    if (sums_floats_) {
      b_.memset(on_chip_tile(sums, 1, shares * moving), 0);
    } else {
      b_.memset(on_chip_tile(totals, partitions, shares), identity(s_.alu));
      b_.memset(on_chip_tile(nan_totals, partitions, shares), 0);
    }
  };
  auto tile = [&](const Index& first, std::int64_t p, std::int64_t n, const Index& share) {
    std::vector<Tile> loaded;
    for (const auto& tensor : tiled_) {
      loaded.push_back(on_chip_tile(tensor.tile, p, n));
      b_.dma(loaded.back(), hbm_tile(tensor.hbm, p, n, {{n, 1}}, first));
    }
    auto work_tile = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, n); };
    const Tile source = value(loaded, work, work_tile, StreamTile{p, n, first}.position());
    if (sums_floats_) {
      const Tile moving_tile = widened(source, wide);
      b_.tiles(n, moving, [&](const Index& c, std::int64_t w) {
        b_.matmul(on_chip_tile(sums, 1, w, share * moving), on_chip_tile(ones, p, 1),
                  on_chip_tile(moving_tile.buffer, p, w, c), program::kAccumulate);
      });
      return;
    }
    b_.tensor_reduce(on_chip_tile(parts, p, 1), source, s_.alu);
    mask_nan(on_chip_tile(mask, p, n), source, on_chip_tile(parts, p, 1, Index(1)));
    combine(on_chip_tile(totals, p, 1, share), on_chip_tile(parts, p, 1), on_chip_tile(nan_totals, p, 1, share),
            on_chip_tile(parts, p, 1, Index(1)));
  };
  auto finish = [&](const Index& row) {
    const Tile out = on_chip_tile(result, 1, 1), nan = on_chip_tile(result, 1, 1, Index(1));
    if (sums_floats_) {
      b_.tensor_reduce(out, on_chip_tile(sums, 1, shares * moving), Alu::add);
    } else {
      fold(out, totals, turned, shares, s_.alu);
      if (propagates_nan_) {
        fold(nan, nan_totals, turned, shares, Alu::maximum);
      }
      finish_nan(out, nan);
    }
    this->finish(out);
    store_columns([&](std::int16_t hbm) { b_.dma(hbm_tile(hbm, 1, 0, {{1, 1}}, row), out); });
  };

  const std::int64_t size = partitions * free, each = s_.cols / size / shares;
  const std::int64_t rest = s_.cols - each * shares * size;
  auto remainder = [&](const Index& first) {
    for (const auto& segment : tiling::split(rest, size)) {
      if (segment.size == size) {
        b_.loop(segment.trips, [&](const Index& i) { tile(first + i * size, partitions, free, Index(0)); });
        continue;
      }
      const std::int64_t narrow = segment.size / partitions, tail = segment.size % partitions;
      if (narrow > 0) {
        tile(first + segment.start, partitions, narrow, Index(0));
      }
      if (tail > 0) {
        tile(first + segment.start + narrow * partitions, 1, tail, Index(0));
      }
    }
  };
  if (shares > 1) {
    b_.nest("start");
    start();
    b_.nest("body");
    b_.parallel_loop(each > 0 ? shares : 0, [&](const Index& share) {
      b_.loop(each, [&](const Index& i) { tile(share * (each * size) + i * size, partitions, free, share); });
    });
    b_.nest("remainder");
    remainder(Index(each * shares * size));
    finish(Index(0));
    return;
  }
  b_.nest("body");
  b_.parallel_loop(s_.rows, [&](const Index& row) {
    start();
    b_.loop(each, [&](const Index& i) { tile(row * s_.cols + i * size, partitions, free, Index(0)); });
    remainder(row * s_.cols + each * size);
    finish(row);
  });
}

void Reduction::fold(const Tile& out, std::int16_t columns, std::int16_t turned, std::int64_t shares, Alu alu) {
  const std::int64_t partitions = target_.core.num_partitions;
  for (std::int64_t share = 1; share < shares; ++share) {
    const Tile first = on_chip_tile(columns, partitions, 1);
    b_.tensor_tensor(first, first, on_chip_tile(columns, partitions, 1, Index(share)), alu);
  }
  b_.transpose(on_chip_tile(turned, 1, partitions), on_chip_tile(columns, partitions, 1));
  b_.tensor_reduce(out, on_chip_tile(turned, 1, partitions), alu);
}

}  // namespace trn::kernels
