// On-chip tiles of a convolution: windows with their padding, and masks of groups side by side.
#include <algorithm>

#include "kernels/conv_plan.h"
#include "kernels/rows.h"

namespace trn::kernels {

using tiling::Builder;
using tiling::Dim;
using tiling::hbm_tile;
using tiling::Index;
using tiling::on_chip_tile;
using tiling::Tile;

namespace {

// Zeros around what is loaded, an axis at a time: a strip lies within what the axes before it load. Copies of a window
// for folded taps begin later and end earlier, so that the last of them sets where the zeros behind them start.
void clear_padding(Builder& builder, const ConvPlan& plan, const ConvBlock& block, std::int16_t buffer,
                   std::int64_t partitions, const Index& base) {
  const auto strides = dense_strides(plan.extent);
  std::vector<std::int64_t> sizes = block.extent;
  std::int64_t inside = 0;
  for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
    auto clear = [&](std::int64_t begin, std::int64_t end) {
      if (begin < end) {
        sizes[axis] = end - begin;
        builder.memset(on_chip_tile(buffer, partitions, dims(sizes, strides), base + (inside + begin * strides[axis])),
                       0);
      }
    };
    const std::int64_t begin = block.pad_before[axis], end = begin + block.window[axis];
    const bool is_last = axis + 1 == sizes.size();
    clear(0, begin);
    if (end < block.extent[axis]) {
      clear(std::max(is_last ? end - (plan.fold - 1) * plan.fold_step : end, begin), block.extent[axis]);
    }
    if (block.window[axis] == 0) {
      return;
    }
    sizes[axis] = block.window[axis];
    inside += begin * strides[axis];
  }
}

}  // namespace

void load_window(Builder& builder, const ConvPlan& plan, const ConvBlock& block, std::int16_t window, std::int16_t hbm,
                 const Index& channel, std::int64_t count, const Index& first) {
  const auto from = dense_strides(plan.from), strides = dense_strides(plan.extent);
  const std::int64_t size = product(plan.from);
  each_tile(builder, count, plan.depth, [&](const Index& k, const Index& number, std::int64_t depth) {
    const Index base = first + number * plan.window_elements();
    clear_padding(builder, plan, block, window, depth * plan.fold, base);
    for (std::int64_t copy = 0; copy < plan.fold; ++copy) {
      // Position j of a copy is position j + shift of the window.
      const std::int64_t shift = copy * plan.fold_step;
      const std::int64_t skipped = std::max<std::int64_t>(shift - block.pad_before.back(), 0);
      std::vector<std::int64_t> sizes = block.window, before = block.pad_before;
      sizes.back() -= skipped;
      before.back() += skipped - shift;
      if (sizes.back() <= 0 || product(sizes) == 0) {
        continue;
      }
      if (plan.is_gapless && plan.fold > 1) {
        // One run: what wraps from one row to the one before it lies where no tap looks.
        const std::int64_t run = product(block.window) - shift;
        Tile into = on_chip_tile(window, depth, run, base + block.pad_before.front() * strides.front());
        into.start_partition = copy * depth;
        builder.dma(
            into, hbm_tile(hbm, depth, size, {{run, 1}}, (channel + k) * size + at(block.window_start, from) + shift));
        continue;
      }
      Index inside;
      for (std::size_t axis = 0; axis < before.size(); ++axis) {
        inside = inside + before[axis] * strides[axis];
      }
      Tile into = on_chip_tile(window, depth, dims(sizes, strides), base + inside);
      into.start_partition = copy * depth;
      builder.dma(into, hbm_tile(hbm, depth, size, dims(sizes, from),
                                 (channel + k) * size + at(block.window_start, from) + skipped));
    }
  });
}

}  // namespace trn::kernels
