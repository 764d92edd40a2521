// DMA transfers.
#include "emu/dma.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>

#include "emu/alu.h"
#include "emu/convert.h"
#include "emu/limits.h"
#include "emu/transfer.h"

namespace trn::emu {
namespace {

// What leaves or enters HBM: a row that serves all partitions, or an element that is repeated, moves once.
std::int64_t distinct_bytes(const View& view) {
  std::int64_t elements = view.partition_bytes == 0 ? 1 : view.partitions;
  for (const Extent& extent : view.free) {
    elements *= extent.stride == 0 ? 1 : extent.size;
  }
  return elements * target::itemsize(view.dtype);
}

void require_ends_match(std::string_view where, const View& dst, const View& src) {
  require_equal(where, "both ends have as many elements", src.elements(), dst.elements(), "Give both tiles one size.");
}

}  // namespace

View HbmTensor::view(std::int64_t partitions, std::int64_t partition_stride, std::int64_t address, const Extents& free,
                     std::string_view name) const {
  const std::int64_t size = target::itemsize(dtype);
  Extents all = free;
  all.push_back({partitions, partition_stride});
  require_within("dma", "a tile of " + std::string(name), "the tensor", partitions, all, address, elements);
  View view{.data = static_cast<std::byte*>(data) + address * size,
            .memory = Memory::hbm,
            .dtype = dtype,
            .partitions = partitions,
            .partition_bytes = partition_stride * size,
            .free = free};
  return view;
}

void Dma::require_written(std::string_view where, const View& src) const {
  require_initialized(where, src);
  // All ones is the NaN of some 8-bit floats, which a tensor may well hold.
  const bool is_told = src.memory == Memory::hbm && target::itemsize(src.dtype) > 1;
  if (raises_uninitialized_ && is_told && looks_fresh(src)) {
    refuse_fresh(where, src);
  }
}

void Dma::count(const View& dst, const View& src) {
  hbm_read_bytes_ += src.memory == Memory::hbm ? distinct_bytes(src) : 0;
  hbm_write_bytes_ += dst.memory == Memory::hbm ? distinct_bytes(dst) : 0;
}

void Dma::copy(const View& dst, const View& src) {
  constexpr std::string_view where = "dma_copy";
  require_ends_match(where, dst, src);
  for (const View* end : {&dst, &src}) {
    require_at_most(where, "a tile on the chip spans at most every partition",
                    end->memory == Memory::hbm ? 0 : end->partitions, core_.num_partitions, "Split the tile.");
  }
  require_written(where, src);
  if (src.dtype == dst.dtype) {
    transfer(dst, src);
  } else if (is_integer(src.dtype)) {
    lanes_.run<std::int64_t, 1>(dst, {&src},
                                [](auto in, std::int64_t* out, std::int64_t n) { std::copy(in[0], in[0] + n, out); });
  } else {
    lanes_.run<float, 1>(dst, {&src}, [](auto in, float* out, std::int64_t n) { std::copy(in[0], in[0] + n, out); });
  }
  count(dst, src);
}

void Dma::accumulate(const View& dst, const View& src) {
  constexpr std::string_view where = "dma_copy";
  require_ends_match(where, dst, src);
  require_written(where, dst);
  require_written(where, src);
  auto add = [](auto in, auto* out, std::int64_t n) { apply(Alu::add, in[0], in[1], out, n); };
  const bool has_64_bits = target::itemsize(src.dtype) == 8;
  if (is_integer(dst.dtype) && is_integer(src.dtype) && numerics_.computes_integers(has_64_bits)) {
    lanes_.run<std::int64_t, 2>(dst, {&dst, &src}, add);
  } else {
    lanes_.run<float, 2>(dst, {&dst, &src}, add);
  }
  count(dst, src);
  hbm_read_bytes_ += dst.memory == Memory::hbm ? distinct_bytes(dst) : 0;
}

void Dma::compute(const View& dst, std::span<const View> srcs, target::Alu reduce_op) {
  constexpr std::string_view where = "dma_compute";
  require_at_most(where, "few tensors are summed", static_cast<std::int64_t>(srcs.size()), 16, "Sum in two steps.");
  if (srcs.empty()) {
    refuse(where, "at least one tensor is summed", "none", "Pass a source.");
  }
  const std::int64_t n = dst.elements();
  float* sums = lanes_.row(0, n);
  for (std::size_t s = 0; s < srcs.size(); ++s) {
    require_equal(where, "all tensors have the same elements", srcs[s].elements(), n, "Give them one shape.");
    require_written(where, srcs[s]);
    std::int64_t at = 0;
    const View& src = srcs[s];
    Walk walk(src);
    walk.take(n, [&](const std::byte* from, std::int64_t stride, std::int64_t part) {
      float* block = lanes_.row(1, part);
      load(src.dtype, from, stride, block, part);
      apply(s == 0 ? Alu::none : reduce_op, s == 0 ? block : sums + at, block, sums + at, part);
      at += part;
    });
    hbm_read_bytes_ += src.memory == Memory::hbm ? distinct_bytes(src) : 0;
  }
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    lanes_.write_row(dst, p, sums + p * dst.free_elements());
  }
  hbm_write_bytes_ += dst.memory == Memory::hbm ? distinct_bytes(dst) : 0;
}

void Dma::transpose(const View& dst, const View& src, std::span<const int> axes) {
  constexpr std::string_view where = "dma_transpose";
  constexpr std::array<int, 2> kTwo = {1, 0};
  constexpr std::array<int, 3> kThree = {2, 1, 0};
  constexpr std::array<int, 4> kFour = {3, 1, 2, 0};
  if (!std::ranges::equal(axes, kTwo) && !std::ranges::equal(axes, kThree) && !std::ranges::equal(axes, kFour)) {
    refuse(where, "axes are (1, 0), (2, 1, 0) or (3, 1, 2, 0)", std::to_string(axes.size()) + " others",
           "Use one of them.");
  }
  require_equal(where, "the source has a dimension per axis", static_cast<std::int64_t>(src.free.size()) + 1,
                static_cast<std::int64_t>(axes.size()), "Merge or split dimensions.");
  require_dtype(where, "source and result have one dtype", dst, dst.dtype == src.dtype, "Cast afterwards.");
  const std::int64_t size = target::itemsize(src.dtype);
  auto dimension = [&](int axis) {
    return axis == 0 ? Extent{src.partitions, src.partition_bytes / size}
                     : src.free[static_cast<std::size_t>(axis - 1)];
  };
  View permuted = src;
  permuted.partitions = dimension(axes[0]).size;
  permuted.partition_bytes = dimension(axes[0]).stride * size;
  permuted.free = {};
  for (const int axis : axes.subspan(1)) {
    permuted.free.push_back(dimension(axis));
  }
  require_equal(where, "the result has the permuted shape", dst.partitions, permuted.partitions,
                "Give it the transposed shape.");
  require_equal(where, "the result has the permuted shape", dst.free_elements(), permuted.free_elements(),
                "Give it the transposed shape.");
  require_written(where, src);
  transfer(dst, permuted);
  count(dst, src);
}

template <class Move>
void Dma::indexed(std::string_view where, const View& rows, const View& tile, const View& index, bool skips, bool fills,
                  Move move) {
  require_memory(where, "rows are picked in HBM", rows, rows.memory == Memory::hbm, "Use local_gather on the chip.");
  require_memory(where, "indices lie in SBUF", index, index.memory == Memory::sbuf, "Load them by DMA first.");
  require_dtype(where, "indices are integers of 32 or 64 bits", index,
                is_integer(index.dtype) && target::itemsize(index.dtype) >= 4, "Cast them.");
  require_initialized(where, index);
  require_equal(where, "a partition has indices of its own", index.partitions, tile.partitions, "Give both one shape.");
  const std::int64_t n = index.free_elements(), e = rows.free_elements();
  require_equal(where, "the tile has a row per index", tile.free_elements(), n * e, "Give it this width.");
  for (std::int64_t p = 0; p < tile.partitions; ++p) {
    std::int64_t* picked = lanes_.integer_row(0, n);
    lanes_.read_row(index, p, picked);
    Walk walk(tile.only(p));
    for (std::int64_t i = 0; i < n; ++i) {
      const bool is_inside = picked[i] >= 0 && picked[i] < rows.partitions;
      if (!is_inside && !skips && !fills) {
        require_index(where, "an index names a row of the tensor", picked[i], rows.partitions,
                      "Check the indices, or skip them.");
      }
      View part = tile.only(p);
      part.data = walk.at();
      part.free = {{e, walk.stride() / target::itemsize(tile.dtype)}};
      if (walk.run() < e) {
        refuse(where, "a row lies in one run of the tile", std::to_string(walk.run()), "Use a dense tile.");
      }
      if (is_inside) {
        move(part, rows.only(picked[i]));
        mark_written(part);
      } else if (fills) {
        constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
        lanes_.run<float, 0>(part, {},
                             [&](auto, float* out, std::int64_t count) { std::fill(out, out + count, kNan); });
        mark_written(part);
      }
      walk.advance(e);
    }
  }
}

void Dma::gather(const View& dst, const View& src, const View& index, bool skips_out_of_bounds) {
  indexed("dma_gather", src, dst, index, skips_out_of_bounds, numerics_.out_of_bounds_is_nan,
          [&](const View& part, const View& row) { copy(part, row); });
}

void Dma::scatter(const View& dst, const View& src, const View& index, bool accumulates, bool skips_out_of_bounds) {
  require_written("dma_scatter", src);
  indexed("dma_scatter", dst, src, index, skips_out_of_bounds, false, [&](const View& part, const View& row) {
    if (accumulates) {
      accumulate(row, part);
    } else {
      copy(row, part);
    }
  });
}

}  // namespace trn::emu
