// Chooses the partitions' axis by what engines and DMA take for it, and walks the tiles.
#include "kernels/box_tiles.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace trn::kernels::box_tiles {

using tiling::ceil_div;
using tiling::Dim;

namespace {

// Neighbours that lie like one dimension become one.
std::vector<Dim> merged(const std::vector<Dim>& dims) {
  std::vector<Dim> result;
  for (const Dim& dim : dims) {
    if (dim.size == 1) {
      continue;
    }
    if (!result.empty() && result.back().stride == dim.stride * dim.size) {
      result.back() = {result.back().size * dim.size, dim.stride};
    } else {
      result.push_back(dim);
    }
  }
  if (result.empty()) {
    result.push_back({1, 1});
  }
  return result;
}

}  // namespace

std::int64_t BoxTile::free_elements() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : extents) {
    product *= extent;
  }
  return product;
}

BoxTiles::BoxTiles(const target::Target& target, std::vector<std::int64_t> sizes, std::int64_t free_elements,
                   std::int64_t itemsize)
    : target_(target), sizes_(std::move(sizes)) {
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (std::size_t axis = 0; axis < sizes_.size(); ++axis) {
    const auto extents = extents_on(axis, free_elements);
    const std::int64_t cost = this->cost(axis, extents, itemsize);
    if (cost < least) {
      least = cost;
      partition_axis_ = axis;
      extents_ = extents;
    }
  }
  order_by(std::vector<std::int64_t>(sizes_.size(), 0));
}

void BoxTiles::order_by(const std::vector<std::int64_t>& weights) {
  order_.clear();
  for (std::size_t axis = 0; axis < sizes_.size(); ++axis) {
    if (has_loop(axis)) {
      order_.push_back(axis);
    }
  }
  std::ranges::stable_sort(order_, {}, [&](std::size_t axis) { return weights[axis]; });
}

// Inner axes first, and of the partitions' axis no more than leaves every partition its share.
std::vector<std::int64_t> BoxTiles::extents_on(std::size_t partition_axis, std::int64_t free_elements) const {
  std::vector<std::int64_t> extents(sizes_.size(), 1);
  for (std::size_t axis = sizes_.size(); axis-- > 0;) {
    const bool on_partitions = axis == partition_axis;
    const std::int64_t most =
        on_partitions ? std::max<std::int64_t>(sizes_[axis] / target_.core.num_partitions, 1) : sizes_[axis];
    extents[axis] = std::clamp<std::int64_t>(free_elements, 1, most);
    free_elements /= extents[axis];
    if (extents[axis] * (on_partitions ? target_.core.num_partitions : 1) < sizes_[axis]) {
      break;
    }
  }
  return extents;
}

// Bytes that all partitions stream, and those that DMA takes as long as: a short run costs as half a saturating one.
std::int64_t BoxTiles::cost(std::size_t partition_axis, const std::vector<std::int64_t>& extents,
                            std::int64_t itemsize) const {
  const auto& core = target_.core;
  std::int64_t trips = 1, free = 1, elements = 1, run = 1;
  bool is_contiguous = true;
  for (std::size_t axis = sizes_.size(); axis-- > 0;) {
    const bool on_partitions = axis == partition_axis;
    trips *= ceil_div(sizes_[axis], extents[axis] * (on_partitions ? core.num_partitions : 1));
    free *= extents[axis];
    elements *= sizes_[axis];
    run *= is_contiguous ? extents[axis] : 1;
    is_contiguous = is_contiguous && extents[axis] == sizes_[axis];
  }
  const std::int64_t streamed = trips * std::max(free, core.min_instruction_cycles) * core.num_partitions * itemsize;
  const std::int64_t run_bytes = run * itemsize;
  return streamed + elements / run * std::max(run_bytes, (run_bytes + core.dma_saturating_bytes) / 2);
}

std::vector<BoxTiles::Piece> BoxTiles::pieces(std::size_t axis) const {
  const std::int64_t size = sizes_[axis], extent = extents_[axis];
  std::vector<Piece> result;
  auto add = [&](std::int64_t start, std::int64_t trips, std::int64_t partitions, std::int64_t one) {
    if (trips > 0 && partitions > 0 && one > 0) {
      result.push_back({start, trips, partitions, one});
    }
  };
  if (axis != partition_axis_) {
    for (const auto& segment : tiling::split(size, extent)) {
      add(segment.start, segment.trips, 1, segment.size);
    }
    return result;
  }
  const std::int64_t partitions = target_.core.num_partitions, full = size / (partitions * extent);
  const std::int64_t rest = size - full * partitions * extent;
  add(0, full, partitions, extent);
  add(size - rest, 1, partitions, rest / partitions);
  add(size - rest % partitions, 1, rest % partitions, 1);
  return result;
}

bool BoxTiles::has_loop(std::size_t axis) const {
  const auto all = pieces(axis);
  return all.size() > 1 || all.front().trips > 1;
}

std::int64_t BoxTiles::most_partitions() const {
  return std::min(sizes_[partition_axis_], target_.core.num_partitions);
}

void BoxTiles::walk(Builder& builder, const std::function<void(std::size_t, const BoxTile&)>& enter,
                    const std::function<void(const BoxTile&)>& body) const {
  BoxTile tile{.partitions = 1, .extents = extents_, .at = std::vector<Index>(sizes_.size())};
  tile.partitions = pieces(partition_axis_).front().partitions;
  if (order_.empty()) {
    builder.nest("body");
    body(tile);
  } else {
    walk_level(builder, 0, tile, enter, body);
  }
}

void BoxTiles::walk_level(Builder& builder, std::size_t level, BoxTile& tile,
                          const std::function<void(std::size_t, const BoxTile&)>& enter,
                          const std::function<void(const BoxTile&)>& body) const {
  if (level == order_.size()) {
    body(tile);
    return;
  }
  const std::size_t axis = order_[level];
  bool is_first = true;
  for (const Piece& piece : pieces(axis)) {
    if (level == 0) {
      builder.nest(is_first ? "body" : piece.partitions == 1 || piece.extent == 1 ? "tail" : "remainder");
    }
    is_first = false;
    const std::int64_t step = piece.partitions * piece.extent;
    builder.parallel_loop(piece.trips, [&](const Index& i) {
      tile.at[axis] = i * step + piece.start;
      tile.extents[axis] = piece.extent;
      tile.partitions = axis == partition_axis_ ? piece.partitions : tile.partitions;
      enter(level, tile);
      walk_level(builder, level + 1, tile, enter, body);
    });
  }
}

Tile BoxTiles::hbm(std::int16_t buffer, const BoxTile& tile, const std::vector<std::int64_t>& strides,
                   std::int64_t offset) const {
  Index address(offset);
  std::vector<Dim> dims;
  for (std::size_t axis = 0; axis < sizes_.size(); ++axis) {
    const std::int64_t stride = strides[axis];
    if (stride != 0) {
      address = address + tile.at[axis] * stride + (stride < 0 ? -stride * (sizes_[axis] - 1) : 0);
      dims.push_back({tile.extents[axis], stride});
    }
  }
  const std::int64_t partition_stride = strides[partition_axis_] * tile.extents[partition_axis_];
  const std::int64_t partitions = partition_stride == 0 ? most_partitions() : tile.partitions;
  return tiling::hbm_tile(buffer, partitions, partition_stride, merged(dims), address);
}

Tile BoxTiles::on_chip(std::int16_t buffer, const BoxTile& tile, const std::vector<std::int64_t>& strides) const {
  std::vector<Dim> dims(sizes_.size());
  std::int64_t stride = 1;
  for (std::size_t axis = sizes_.size(); axis-- > 0;) {
    dims[axis] = {tile.extents[axis], strides[axis] == 0 ? 0 : stride};
    stride *= strides[axis] == 0 ? 1 : tile.extents[axis];
  }
  return tiling::on_chip_tile(buffer, tile.partitions, merged(dims));
}

std::int64_t BoxTiles::loaded_elements(const std::vector<std::int64_t>& extents,
                                       const std::vector<std::int64_t>& strides) const {
  std::int64_t elements = 1;
  for (std::size_t axis = 0; axis < sizes_.size(); ++axis) {
    elements *= strides[axis] == 0 ? 1 : extents[axis];
  }
  return elements;
}

}  // namespace trn::kernels::box_tiles
