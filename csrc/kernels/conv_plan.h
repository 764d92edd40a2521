// How a convolution is cut up: groups packed into the array, spatial blocks with their windows, passes over channels.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/tiling.h"

namespace trn::kernels {

// Blocks of one spatial axis that do the same: `trips` blocks of `size` produced positions from `start`. Each reads
// `window` positions of the other side from window_start (+ window_step per block); in the SBUF window these follow
// `pad_before` zeros. `extent` is the window with its padding.
struct AxisBlocks {
  std::int64_t start = 0, trips = 0, size = 0;
  std::int64_t window_start = 0, window_step = 0, window = 0, pad_before = 0, extent = 0;
};

// One block: a position per axis.
struct ConvBlock {
  std::vector<tiling::Index> start, window_start;
  std::vector<std::int64_t> size, window, pad_before, extent;
};

// Positions of a block that one instruction takes, and their number among those of the block.
struct ConvRectangle {
  std::vector<tiling::Index> start;
  std::vector<std::int64_t> size;
  tiling::Index number;
};

// Positions of the produced side that share their taps along one axis: all of them, or those of one phase of a stride.
struct AxisPhase {
  std::int64_t first = 0, step = 1;   // within a block
  std::vector<std::int64_t> taps;     // of the kernel
  std::vector<std::int64_t> offsets;  // of `first` in the window, per tap
  std::int64_t count(std::int64_t size) const { return size > first ? (size - first + step - 1) / step : 0; }
};

// The matmul view: forward and weight_gradient read windows of `in`, input_gradient windows of grad_out.
struct ConvPlan {
  std::int64_t partitions = 128, moving = 512;
  std::int64_t pack = 1;             // groups side by side in the array, off-diagonal blocks zero
  std::int64_t contracted = 0;       // window channels of one group
  std::int64_t produced = 0;         // channels of one group on the other side
  std::int64_t depth = 128;          // window channels per tile: fewer than partitions under very large kernels
  std::int64_t fold = 1;             // taps of the last axis on partitions beside the channels
  std::int64_t fold_step = 1;        // positions of the window between them
  bool is_gapless = false;           // a window has no zeros within, and whole rows: it is one run of HBM
  std::int64_t pass = 0;             // produced channels of a pass; the window is read once per pass
  std::int64_t contracted_pass = 0;  // weight_gradient: window channels of a pass; grad_out is read once per pass
  std::int64_t num_taps = 1;
  std::vector<std::int64_t> from, to;       // spatial sizes of the window side and of the blocked side
  std::vector<std::int64_t> block, extent;  // positions of a block, and of its window
  std::vector<std::vector<AxisBlocks>> axes;
  Dtype dtype = Dtype::float32;  // in SBUF

  ConvPlan(const target::Target& target, const ConvShape& shape, std::int64_t most_fold);

  std::int64_t block_elements() const;
  std::int64_t window_elements() const;
  // Every block of positions.
  void each_block(tiling::Builder& builder, bool parallel, const std::function<void(const ConvBlock&)>& body) const;
  std::vector<AxisPhase> phases(const ConvShape& shape, std::size_t axis) const;
};

// Rectangles of at most `limit` positions within counts, in one loop per axis.
void each_rectangle(tiling::Builder& builder, const std::vector<std::int64_t>& counts, std::int64_t limit,
                    const std::function<void(const ConvRectangle&)>& body);
std::int64_t num_rectangles(const std::vector<std::int64_t>& counts, std::int64_t limit);

// Strides of a dense array, last axis fastest.
std::vector<std::int64_t> dense_strides(const std::vector<std::int64_t>& sizes);
// Free dimensions of a tile: sizes[i], strides[i] * steps[i] apart (no steps: 1 each).
std::vector<tiling::Dim> dims(const std::vector<std::int64_t>& sizes, const std::vector<std::int64_t>& strides,
                              const std::vector<std::int64_t>& steps = {});
// sum(start[i] * strides[i])
tiling::Index at(const std::vector<tiling::Index>& start, const std::vector<std::int64_t>& strides);

// Channels in tiles of the number of partitions: body(first, tile number, width).
template <class Body>
void each_tile(tiling::Builder& builder, std::int64_t count, std::int64_t partitions, Body body) {
  for (const auto& segment : tiling::split(count, partitions)) {
    builder.loop(segment.trips, [&](const tiling::Index& i) {
      body(i * partitions + segment.start, i + segment.start / partitions, segment.size);
    });
  }
}

// Loads `count` channels of a block's window from channel `channel` of `hbm` on, `plan.depth` a tile. Folded taps find
// copies of it, each shifted by fold_step, on the partitions behind the channels. It lies from element `first` on.
void load_window(tiling::Builder& builder, const ConvPlan& plan, const ConvBlock& block, std::int16_t window,
                 std::int16_t hbm, const tiling::Index& channel, std::int64_t count, const tiling::Index& first = {});
program::Program conv_weight_gradient(const target::Target& target, const ConvShape& shape, std::int64_t most_fold);

}  // namespace trn::kernels
