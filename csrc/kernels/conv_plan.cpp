// Plans a convolution's blocks so that windows, weights and results fit in SBUF.
#include "kernels/conv_plan.h"

#include <algorithm>

#include "target/error.h"

namespace trn::kernels {

using tiling::ceil_div;
using tiling::Index;

namespace {

std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  return a >= 0 ? a / b : -ceil_div(-a, b);
}

// TensorE multiplies floats: integers are converted to fp32 by the DMA.
Dtype tensor_dtype(Dtype dtype) {
  switch (dtype) {
    case Dtype::bfloat16:
    case Dtype::float16:
    case Dtype::float8_e4m3:
    case Dtype::float8_e4m3fn:
    case Dtype::float8_e5m2:
      return dtype;
    default:
      return Dtype::float32;
  }
}

// The range of the other side, before it is clamped, that produced positions [first, first + size) touch.
struct Range {
  std::int64_t start = 0, length = 0;
};
Range touched(const ConvShape& s, std::size_t axis, std::int64_t first, std::int64_t size) {
  const std::int64_t reach = (s.kernel[axis] - 1) * s.dilation[axis];
  const std::int64_t stride = s.stride[axis], padding = s.padding[axis];
  if (s.direction == ConvDirection::input_gradient) {
    const std::int64_t start = floor_div(first + padding - reach, stride);
    return {start, floor_div(first + size - 1 + padding, stride) - start + 1};
  }
  return {first * stride - padding, (size - 1) * stride + reach + 1};
}

// The same, but up to the end of the axis for a block that has all of it: a stride leaves a few positions over, and
// without them the rows in HBM would be a descriptor each.
Range loaded(const ConvShape& s, std::size_t axis, std::int64_t first, std::int64_t size, std::int64_t from,
             std::int64_t to) {
  Range range = touched(s, axis, first, size);
  if (axis > 0 && first == 0 && size == to && range.start <= 0) {
    range.length = std::max(range.length, from - range.start);
  }
  return range;
}

std::vector<AxisBlocks> axis_blocks(const ConvShape& s, std::size_t axis, std::int64_t from, std::int64_t to,
                                    std::int64_t block) {
  std::vector<AxisBlocks> result;
  for (std::int64_t start = 0; start < to; start += block) {
    AxisBlocks next{.start = start, .trips = 1, .size = std::min(block, to - start)};
    const Range range = loaded(s, axis, start, next.size, from, to);
    const std::int64_t low = std::clamp<std::int64_t>(range.start, 0, from);
    next.window_start = low;
    next.window = std::max<std::int64_t>(std::min(range.start + range.length, from) - low, 0);
    next.pad_before = low - range.start;
    next.extent = range.length;
    if (next.window == 0) {
      next.window_start = 0;
      next.pad_before = next.extent;
    }
    if (!result.empty()) {
      auto& back = result.back();
      if (back.size == next.size && back.window == next.window && back.pad_before == next.pad_before &&
          back.extent == next.extent) {
        back.window_step = next.window_start - back.window_start - (back.trips - 1) * back.window_step;
        back.trips += 1;
        continue;
      }
    }
    result.push_back(next);
  }
  return result;
}

}  // namespace

std::vector<std::int64_t> dense_strides(const std::vector<std::int64_t>& sizes) {
  std::vector<std::int64_t> strides(sizes.size(), 1);
  for (std::size_t i = sizes.size(); i > 1; --i) {
    strides[i - 2] = strides[i - 1] * sizes[i - 1];
  }
  return strides;
}

std::vector<tiling::Dim> dims(const std::vector<std::int64_t>& sizes, const std::vector<std::int64_t>& strides,
                              const std::vector<std::int64_t>& steps) {
  std::vector<tiling::Dim> result;
  for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
    result.push_back({sizes[axis], strides[axis] * (steps.empty() ? 1 : steps[axis])});
  }
  return result;
}

Index at(const std::vector<Index>& start, const std::vector<std::int64_t>& strides) {
  Index result;
  for (std::size_t axis = 0; axis < start.size(); ++axis) {
    result = result + start[axis] * strides[axis];
  }
  return result;
}

ConvPlan::ConvPlan(const target::Target& target, const ConvShape& s, std::int64_t most_fold) {
  const std::size_t axes_given = s.in.size();
  const auto is_positive = [](const std::vector<std::int64_t>& sizes) {
    return std::all_of(sizes.begin(), sizes.end(), [](auto size) { return size > 0; });
  };
  if (axes_given == 0 || s.out.size() != axes_given || s.kernel.size() != axes_given || s.stride.size() != axes_given ||
      s.padding.size() != axes_given || s.dilation.size() != axes_given || s.groups < 1 || !is_positive(s.kernel) ||
      !is_positive(s.stride) || !is_positive(s.dilation)) {
    throw Error(Category::invalid_argument,
                "[conv] in, out, kernel, stride, padding and dilation have one entry per spatial axis, and groups, "
                "kernels, strides and dilations are at least 1; got " +
                    std::to_string(axes_given) + " axes and " + std::to_string(s.groups) +
                    " groups. Complete the shape.");
  }
  const auto& core = target.core;
  partitions = core.num_partitions;
  moving = core.moving_free_max_elements;
  dtype = tensor_dtype(s.dtype);
  const bool reversed = s.direction == ConvDirection::input_gradient;
  contracted = (reversed ? s.out_channels : s.in_channels) / s.groups;
  produced = (reversed ? s.in_channels : s.out_channels) / s.groups;
  from = reversed ? s.out : s.in;
  to = reversed ? s.in : s.out;
  num_taps = product(s.kernel);
  const std::int64_t widest = std::max<std::int64_t>({contracted, produced, 1});
  // A tile's weights are loaded as [rows, channels * taps], in a fifth of SBUF for two copies.
  const std::int64_t bytes = itemsize(dtype);
  const std::int64_t staged = core.sbuf_bytes_per_partition / 5 / (2 * bytes * std::max<std::int64_t>(num_taps, 1));
  pack = widest <= std::min(partitions / 2, staged) ? std::min(s.groups, partitions / widest) : 1;
  // Of SBUF: 30 % for weights (35 % for sums of their gradients), 40 % for blocks, the rest for what is staged.
  const std::int64_t budget =
      core.sbuf_bytes_per_partition * (s.direction == ConvDirection::weight_gradient ? 7 : 6) / 20;
  const std::int64_t block_budget = core.sbuf_bytes_per_partition * 4 / 10;
  const std::int64_t cores = std::max<std::int64_t>(target.device.num_cores, 1);
  const std::int64_t row_of_sums = num_taps * itemsize(Dtype::float32) * cores;
  const std::int64_t kept_per_group =
      s.direction == ConvDirection::weight_gradient ? contracted * row_of_sums : produced * num_taps * bytes;
  pack = std::clamp<std::int64_t>(budget / std::max<std::int64_t>(kept_per_group, 1), 1, pack);
  depth = pack > 1 ? partitions : std::clamp<std::int64_t>(staged, 1, partitions);
  const std::int64_t channels = std::max<std::int64_t>(pack * contracted, 1);
  if (!reversed && channels <= std::min(partitions / 2, depth)) {
    fold = std::max<std::int64_t>(std::min({s.kernel.back(), partitions / channels, most_fold}), 1);
    fold_step = s.dilation.back();
  }

  const std::int64_t tiles = ceil_div(channels, depth), all = pack * produced;
  contracted_pass = channels;
  if (s.direction == ConvDirection::weight_gradient) {
    const std::int64_t row = row_of_sums * channels;
    pass = std::max<std::int64_t>(budget / std::max<std::int64_t>(row, 1), 1) * partitions;
    if (row > budget && pack == 1) {
      contracted_pass = std::max<std::int64_t>(channels * budget / row, 1);
      contracted_pass = contracted_pass > depth ? contracted_pass / depth * depth : contracted_pass;
    }
  } else {
    const std::int64_t groups_of_taps = num_taps / s.kernel.back() * ceil_div(s.kernel.back(), fold);
    pass = std::max<std::int64_t>(budget / std::max<std::int64_t>(tiles * groups_of_taps * bytes, 1), 1);
    pass = pass > partitions ? pass / partitions * partitions : pass;
  }
  pass = pack > 1 ? all : std::min(pass, std::max<std::int64_t>(all, 1));

  block = to;
  extent.resize(axes_given);
  const std::int64_t window_tiles = ceil_div(std::min(contracted_pass, channels), depth);
  auto fits = [&] {
    for (std::size_t axis = 0; axis < axes_given; ++axis) {
      const std::int64_t size = std::max<std::int64_t>(block[axis], 1);
      extent[axis] = loaded(s, axis, 0, size, from[axis], to[axis]).length + (reversed ? 1 : 0);
    }
    // weight_gradient holds grad_out twice, as loaded and with positions on partitions.
    const std::int64_t result = s.direction == ConvDirection::weight_gradient
                                    ? 2 * product(block) + num_rectangles(block, partitions) * 2 * std::min(pass, all)
                                    : 2 * product(block);
    return bytes * (2 * window_tiles * product(extent) + result) <= block_budget;
  };
  for (std::size_t axis = 0; axis < axes_given && !fits(); ++axis) {
    const std::int64_t unit = reversed ? s.stride[axis] : 1;
    std::int64_t low = 1, high = std::max<std::int64_t>(ceil_div(to[axis], unit), 1);
    while (low < high) {
      const std::int64_t middle = (low + high + 1) / 2;
      block[axis] = middle * unit;
      if (fits()) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    block[axis] = std::max<std::int64_t>(std::min(low * unit, to[axis]), 1);
  }
  fits();
  is_gapless = !reversed && s.padding.back() == 0;
  for (std::size_t axis = 1; axis < axes_given; ++axis) {
    is_gapless = is_gapless && block[axis] == to[axis] && s.padding[axis] == 0;
  }
  for (std::size_t axis = 0; axis < axes_given; ++axis) {
    axes.push_back(axis_blocks(s, axis, from[axis], to[axis], std::max<std::int64_t>(block[axis], 1)));
  }
}

std::int64_t ConvPlan::block_elements() const {
  return product(block);
}
std::int64_t ConvPlan::window_elements() const {
  return product(extent);
}

void ConvPlan::each_block(tiling::Builder& builder, bool parallel,
                          const std::function<void(const ConvBlock&)>& body) const {
  ConvBlock block_now;
  block_now.start.resize(axes.size());
  block_now.window_start.resize(axes.size());
  block_now.size.resize(axes.size());
  block_now.window.resize(axes.size());
  block_now.pad_before.resize(axes.size());
  block_now.extent.resize(axes.size());
  std::function<void(std::size_t)> descend = [&](std::size_t axis) {
    if (axis == axes.size()) {
      body(block_now);
      return;
    }
    for (const auto& run : axes[axis]) {
      const auto emit = [&](const Index& i) {
        block_now.start[axis] = i * run.size + run.start;
        block_now.window_start[axis] = i * run.window_step + run.window_start;
        block_now.size[axis] = run.size;
        block_now.window[axis] = run.window;
        block_now.pad_before[axis] = run.pad_before;
        block_now.extent[axis] = run.extent;
        descend(axis + 1);
      };
      builder.loop(run.trips, emit, parallel);
    }
  };
  descend(0);
}

namespace {

// Whole rows first, as many positions as the limit leaves room for.
std::vector<std::int64_t> rectangle(const std::vector<std::int64_t>& counts, std::int64_t limit) {
  std::vector<std::int64_t> tile(counts.size(), 1);
  for (std::size_t axis = counts.size(); axis-- > 0;) {
    tile[axis] = std::max<std::int64_t>(std::min(counts[axis], limit), 1);
    limit /= tile[axis];
  }
  return tile;
}

}  // namespace

void each_rectangle(tiling::Builder& builder, const std::vector<std::int64_t>& counts, std::int64_t limit,
                    const std::function<void(const ConvRectangle&)>& body) {
  const std::vector<std::int64_t> tile = rectangle(counts, limit);
  ConvRectangle now{.start = std::vector<Index>(counts.size()), .size = tile, .number = {}};
  std::function<void(std::size_t, const Index&)> descend = [&](std::size_t axis, const Index& number) {
    if (axis == counts.size()) {
      now.number = number;
      body(now);
      return;
    }
    each_tile(builder, counts[axis], tile[axis], [&](const Index& start, const Index& which, std::int64_t size) {
      now.start[axis] = start;
      now.size[axis] = size;
      descend(axis + 1, number * ceil_div(counts[axis], tile[axis]) + which);
    });
  };
  descend(0, Index(0));
}

std::int64_t num_rectangles(const std::vector<std::int64_t>& counts, std::int64_t limit) {
  const std::vector<std::int64_t> tile = rectangle(counts, limit);
  std::int64_t result = 1;
  for (std::size_t axis = 0; axis < counts.size(); ++axis) {
    result *= ceil_div(counts[axis], tile[axis]);
  }
  return result;
}

std::vector<AxisPhase> ConvPlan::phases(const ConvShape& s, std::size_t axis) const {
  std::vector<AxisPhase> result;
  const std::int64_t stride = s.stride[axis], dilation = s.dilation[axis], kernel = s.kernel[axis];
  if (s.direction != ConvDirection::input_gradient) {
    AxisPhase all;
    for (std::int64_t tap = 0; tap < kernel; ++tap) {
      all.taps.push_back(tap);
      all.offsets.push_back(tap * dilation);
    }
    return {all};
  }
  // Position i receives taps t with i + padding - t * dilation a multiple of the stride.
  const std::int64_t origin = touched(s, axis, 0, 1).start;
  for (std::int64_t first = 0; first < stride; ++first) {
    AxisPhase phase{.first = first, .step = stride, .taps = {}, .offsets = {}};
    for (std::int64_t tap = 0; tap < kernel; ++tap) {
      const std::int64_t numerator = first + s.padding[axis] - tap * dilation;
      if (floor_div(numerator, stride) * stride == numerator) {
        phase.taps.push_back(tap);
        phase.offsets.push_back(floor_div(numerator, stride) - origin);
      }
    }
    result.push_back(std::move(phase));
  }
  return result;
}

}  // namespace trn::kernels
