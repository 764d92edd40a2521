// The choice of lanes, and what moves between lanes, their owners and HBM.
#include "kernels/norm_planes.h"

#include <algorithm>
#include <utility>

namespace trn::kernels::planes {

namespace {

std::int64_t largest_divisor(std::int64_t of, std::int64_t most, std::int64_t multiple_of = 1) {
  for (std::int64_t divisor = std::min(of, most) / multiple_of * multiple_of; divisor > 0; divisor -= multiple_of) {
    if (of % divisor == 0) {
      return divisor;
    }
  }
  return 0;
}

// An engine's pass over the tiles, DMA beside it, and what each tile costs besides; seconds, up to a factor.
double estimate(const target::Target& target, const NormShape& shape, const Lanes& lanes) {
  constexpr double kPasses = 1.5, kCyclesOfTile = 1500, kCyclesOfChannel = 600;
  const auto& core = target.core;
  const double row_bytes = static_cast<double>(lanes.width * itemsize(shape.dtype));
  const double moved = static_cast<double>(lanes.count) *
                       std::max(row_bytes, std::min(row_bytes * 8, static_cast<double>(core.dma_saturating_bytes)));
  const double cycles = kPasses * static_cast<double>(lanes.width) + kCyclesOfTile +
                        kCyclesOfChannel * static_cast<double>(lanes.channels_per_lane);
  const double seconds = std::max(cycles / core.vector_clock_hz, 2 * moved / core.dma_bytes_per_second);
  return seconds * static_cast<double>(lanes.steps() * lanes.tiles_per_sample);
}

// False where no tile is whole.
bool place(Lanes& lanes, const NormShape& shape, std::int64_t partitions) {
  const std::int64_t all = lanes.channels / lanes.channels_per_lane * lanes.lanes_per_channel;
  std::int64_t unit = lanes.lanes_per_channel;
  if (shape.kind == NormKind::group) {
    const std::int64_t group_channels = shape.cols / lanes.positions;
    unit = group_channels / lanes.channels_per_lane * lanes.lanes_per_channel;
    lanes.lanes_per_group = unit;
  }
  lanes.width = lanes.channels_per_lane * (lanes.positions / lanes.lanes_per_channel);
  if (all <= partitions) {
    lanes.samples_per_tile = largest_divisor(lanes.samples, partitions / all);
    lanes.count = lanes.samples_per_tile * all;
  } else {
    lanes.count = largest_divisor(all, partitions, unit);
    lanes.tiles_per_sample = lanes.count > 0 ? all / lanes.count : 0;
  }
  return lanes.count > 0;
}

// Of at most `most_width` elements each.
std::optional<Lanes> fastest(const target::Target& target, const NormShape& shape, std::int64_t most_width) {
  constexpr std::int64_t kFewPositions = 16, kMostChannels = 16;
  const NormGeometry geometry(shape);
  const bool is_group = shape.kind == NormKind::group;
  if ((!is_group && shape.kind != NormKind::batch) || shape.rows <= 0 || geometry.spatial < kFewPositions ||
      shape.cols % geometry.spatial != 0) {
    return std::nullopt;
  }
  Lanes base;
  base.positions = geometry.spatial;
  base.channels = geometry.num_parameters;
  base.samples = is_group ? shape.rows / geometry.rows_per_sample : shape.cols / geometry.spatial;
  const std::int64_t together = is_group ? geometry.channels_per_row : base.channels;
  const std::int64_t partitions = target.core.num_partitions;
  std::optional<Lanes> best;
  double least = 0;
  const auto consider = [&](std::int64_t channels_per_lane, std::int64_t lanes_per_channel) {
    Lanes lanes = base;
    lanes.channels_per_lane = channels_per_lane;
    lanes.lanes_per_channel = lanes_per_channel;
    if (!place(lanes, shape, partitions) || lanes.width > most_width) {
      return;
    }
    const double seconds = estimate(target, shape, lanes);
    if (!best || seconds < least) {
      best = lanes;
      least = seconds;
    }
  };
  for (std::int64_t n = 1; n <= std::min(together, kMostChannels); ++n) {
    if (together % n == 0) {
      consider(n, 1);
    }
  }
  for (std::int64_t n = 2; n <= std::min(base.positions / kFewPositions, partitions); ++n) {
    if (base.positions % n == 0) {
      consider(1, n);
    }
  }
  return best;
}

}  // namespace

std::optional<Lanes> lanes_of(const target::Target& target, const NormShape& shape, std::int64_t bytes,
                              std::int64_t work_bytes) {
  const std::int64_t sbuf = target.core.sbuf_bytes_per_partition * 9 / 10;
  auto lanes = fastest(target, shape, sbuf / (2 * bytes + work_bytes));
  if (!lanes) {
    lanes = fastest(target, shape, sbuf / (bytes + work_bytes));
    if (lanes) {
      lanes->copies = 1;
    }
  }
  return lanes;
}

Planes::Planes(const target::Target& target, const NormShape& shape, const Lanes& lanes, std::string name)
    : s_(shape),
      target_(target),
      at_(lanes),
      partitions_(target.core.num_partitions),
      piece_(target.core.moving_free_max_elements),
      dtype_(tiling::sbuf_dtype(shape.dtype)),
      b_(std::move(name)) {
  const std::int64_t cores = std::max<std::int64_t>(target.device.num_cores, 1);
  num_shares_ = at_.tiles_per_sample % cores == 0 ? 1 : cores;
}

void Planes::move(std::int16_t on_chip, std::int16_t hbm, const Index& tile, bool is_load, const Index& base) {
  const Tile in_sbuf = lanes(on_chip, at_.width, base);
  const Tile in_hbm = hbm_tile(hbm, at_.count, at_.width, {{at_.width, 1}}, tile * (at_.count * at_.width));
  b_.dma(is_load ? in_sbuf : in_hbm, is_load ? in_hbm : in_sbuf);
}

void Planes::to_lanes(const Index& into, std::int16_t lane_buffer, std::int16_t owner_buffer, std::int64_t n,
                      const Index& from) {
  for (std::int64_t sample = 0; sample < at_.samples_per_tile; ++sample) {
    Tile dst = on_chip_tile(lane_buffer, at_.per_sample(), n, into);
    dst.start_partition = sample * at_.per_sample();
    b_.dma(dst, on_chip_tile(owner_buffer, at_.owners(), {{at_.lanes_per_channel, 0}, {n, 1}}, from));
  }
}

void Planes::to_owners(const Index& into, std::int16_t owner_buffer, const Tile& of_lanes) {
  const std::int64_t n = at_.lanes_per_channel * of_lanes.free_elements();
  for (std::int64_t sample = 0; sample < at_.samples_per_tile; ++sample) {
    Tile src = of_lanes;
    src.partitions = at_.per_sample();
    src.start_partition = sample * at_.per_sample();
    b_.dma(owners(owner_buffer, n, into + sample * n), src);
  }
}

void Planes::groups_to_lanes(std::int16_t lane_buffer, std::int16_t owner_buffer, std::int64_t n) {
  b_.dma(lanes(lane_buffer, n), on_chip_tile(owner_buffer, at_.groups(), {{at_.lanes_per_group, 0}, {n, 1}}));
}

void Planes::lanes_to_groups(std::int16_t owner_buffer, std::int16_t lane_buffer, std::int64_t n) {
  b_.dma(group_owners(owner_buffer, at_.lanes_per_group * n), lanes(lane_buffer, n));
}

}  // namespace trn::kernels::planes
