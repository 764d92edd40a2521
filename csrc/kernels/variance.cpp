// Variances and means of rows by bn_stats and bn_aggr: along the free axis, or of few long rows over all partitions.
#include <algorithm>
#include <string>

#include "kernels/reduction.h"
#include "kernels/rows.h"

namespace trn::kernels {

using rows::Index;
using rows::kStatistics;
using rows::kTriple;
using rows::Opcode;
using rows::RowKernel;
using rows::Tile;
using tiling::Builder;
using tiling::ceil_div;
using tiling::hbm_tile;
using tiling::on_chip_tile;

namespace {

class Variance {
 public:
  Variance(const target::Target& target, const ReductionShape& shape)
      : s_(shape),
        target_(target),
        piece_(target.core.moving_free_max_elements),
        k_(target, "reduction", shape.rows, shape.cols, shape.across_partitions),
        b_(k_.builder) {
    in_.hbm = b_.hbm("in0", s_.inputs.front());
    for (std::size_t i = 0; i < s_.outputs.size(); ++i) {
      outputs_.push_back(b_.hbm("out" + std::to_string(i), s_.outputs[i], true));
    }
  }

  program::Program emit(rows::Layout layout) {
    if (layout == rows::Layout::spread) {
      spread();
    } else {
      along_rows();
    }
    return b_.take();
  }

 private:
  std::int64_t itemsize() const { return target::itemsize(tiling::sbuf_dtype(s_.inputs.front().dtype)); }
  std::int64_t pitch(std::int64_t width) const { return kTriple + kStatistics * ceil_div(width, piece_); }

  // `width` elements, `stride` apart, from `first` of the tile join what stands at `at` of the statistics: a triple,
  // then room for pieces.
  void measure(std::int64_t p, const Index& at, const Index& first, std::int64_t width, std::int64_t stride = 1) {
    for (const auto& segment : tiling::split(width, piece_)) {
      b_.loop(segment.trips, [&](const Index& i) {
        const Index where = at + i * kStatistics + (kTriple + kStatistics * segment.start / piece_);
        rows::op(b_, Opcode::bn_stats, on_chip_tile(stats_, p, kStatistics, where),
                 {on_chip_tile(in_.tile, p, {{segment.size, stride}},
                               first + i * (piece_ * stride) + segment.start * stride)});
      });
    }
    rows::join_statistics(b_, stats_, p, at, pitch(width), width);
  }

  // From squared deviations: their mean over what is free, and the epilogue.
  void finish(const Tile& variance, const Tile& deviations) {
    const float free = std::max(static_cast<float>(s_.cols) - s_.correction, 0.0F);
    b_.tensor_scalar(variance, deviations, Alu::divide, free);
    if (!s_.epilogue.empty()) {
      tiling::apply_steps(b_, s_.epilogue, {variance}, {variance}, {variance});
    }
  }

  void along_rows() {
    const std::int64_t most = target_.core.sbuf_bytes_per_partition / (2 * itemsize());
    const std::int64_t reserved = 4 * pitch(std::min(s_.cols, most));
    k_.plan(2 * itemsize() + 1, itemsize(), std::min(reserved, target_.core.sbuf_bytes_per_partition / 4));
    k_.give_tile(in_);
    const std::int64_t each = pitch(k_.chunk());
    stats_ = b_.sbuf("stats", Dtype::float32, k_.partitions(), k_.group() * each, 1);
    const auto variances = k_.column("variance"), means = k_.column("mean");
    k_.row_groups([&](const Index& row, std::int64_t p, std::int64_t g) {
      b_.memset(on_chip_tile(stats_, p, {{g, each}, {kTriple, 1}}), 0);
      k_.chunks([&](const Index& col, std::int64_t width) {
        k_.load(in_, row, p, g, col, width);
        k_.members(g, [&](const Index& j) { measure(p, j * each, j * k_.chunk(), width); });
      });
      finish(on_chip_tile(variances, p, g), on_chip_tile(stats_, p, {{g, each}}, Index(2)));
      k_.store_column(outputs_[0], variances, row, p, g);
      if (outputs_.size() > 1) {
        b_.tensor_copy(on_chip_tile(means, p, g), on_chip_tile(stats_, p, {{g, each}}, Index(1)));
        k_.store_column(outputs_[1], means, row, p, g);
      }
    });
  }

  // Each partition has the statistics of its share; their transposes lie side by side for one more bn_aggr. Rows that
  // are stored as columns pass together, others one by one.
  void spread() {
    const std::int64_t partitions = target_.core.num_partitions, together = s_.across_partitions ? s_.rows : 1;
    const std::int64_t elements = together * s_.cols;
    const std::int64_t free = std::max<std::int64_t>(
        tiling::stream_free_elements(target_, elements, itemsize(), 2 * itemsize() + 1) / together, 1);
    const std::int64_t each = pitch(free);
    in_.tile = b_.sbuf("tile", tiling::sbuf_dtype(s_.inputs.front().dtype), partitions, free * together);
    stats_ = b_.sbuf("stats", Dtype::float32, partitions, together * each, 1);
    const auto turned = b_.psum("turned", Dtype::float32, 1, partitions);
    const auto line = b_.sbuf("line", Dtype::float32, 1, kTriple * partitions, 1);
    const auto result = b_.sbuf("result", Dtype::float32, 1, 2 * together);
    b_.nest("body");
    b_.parallel_loop(s_.rows / together, [&](const Index& row) {
      b_.memset(on_chip_tile(stats_, partitions, {{together, each}, {kTriple, 1}}), 0);
      auto tiles = [&](std::int64_t start, std::int64_t trips, std::int64_t p, std::int64_t n) {
        const std::int64_t count = n * together;
        b_.loop(p * n > 0 ? trips : 0, [&](const Index& i) {
          b_.dma(on_chip_tile(in_.tile, p, count),
                 hbm_tile(in_.hbm, p, count, {{count, 1}}, row * elements + i * (p * count) + start * together));
          b_.loop(together, [&](const Index& r) { measure(p, r * each, r, n, together); });
        });
      };
      const std::int64_t full = s_.cols / (partitions * free), rest = s_.cols - full * partitions * free;
      tiles(0, full, partitions, free);
      tiles(s_.cols - rest, 1, partitions, rest / partitions);
      tiles(s_.cols - rest % partitions, 1, rest % partitions, 1);
      b_.loop(together, [&](const Index& r) {
        for (std::int64_t i = 0; i < kTriple; ++i) {
          b_.transpose(on_chip_tile(turned, 1, partitions), on_chip_tile(stats_, partitions, 1, r * each + Index(i)));
          b_.tensor_copy(on_chip_tile(line, 1, {{partitions, kTriple}}, Index(i)), on_chip_tile(turned, 1, partitions));
        }
        rows::op(b_, Opcode::bn_aggr, on_chip_tile(result, 1, 2, r * 2), {on_chip_tile(line, 1, kTriple * partitions)});
      });
      const std::vector<tiling::Dim> one_of_two = {{together, 2}};
      const Tile mean = on_chip_tile(result, 1, one_of_two), variance = on_chip_tile(result, 1, one_of_two, Index(1));
      b_.tensor_scalar(variance, variance, Alu::multiply, static_cast<float>(s_.cols));
      finish(variance, variance);
      b_.dma(hbm_tile(outputs_[0], 1, 0, {{together, 1}}, row * together), variance);
      if (outputs_.size() > 1) {
        b_.dma(hbm_tile(outputs_[1], 1, 0, {{together, 1}}, row * together), mean);
      }
    });
  }

  const ReductionShape& s_;
  const target::Target& target_;
  const std::int64_t piece_;  // elements that bn_stats takes
  RowKernel k_;
  Builder& b_;
  rows::RowTensor in_;
  std::vector<std::int16_t> outputs_;
  std::int16_t stats_ = -1;
};

}  // namespace

program::Program variance(const target::Target& target, const ReductionShape& shape, rows::Layout layout) {
  return Variance(target, shape).emit(layout);
}

}  // namespace trn::kernels
