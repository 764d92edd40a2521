// A box of axes in tiles: one axis on partitions, the inner ones along the free dimension, loops over the others.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/tiling.h"

namespace trn::kernels::box_tiles {

using tiling::Builder;
using tiling::Index;
using tiling::Tile;

// One tile, or what is known of it within the loops that are open.
struct BoxTile {
  std::int64_t partitions = 1;
  std::vector<std::int64_t> extents;  // of each axis within a partition
  std::vector<Index> at;              // each axis' first element
  std::int64_t free_elements() const;
};

class BoxTiles {
 public:
  // `sizes` from the outermost axis in. `free_elements` fit into a partition; elements of `itemsize` bytes. Loops over
  // axes of larger `weights` go inside.
  BoxTiles(const target::Target& target, std::vector<std::int64_t> sizes, std::int64_t free_elements,
           std::int64_t itemsize);
  void order_by(const std::vector<std::int64_t>& weights);

  std::size_t num_axes() const { return sizes_.size(); }
  std::size_t partition_axis() const { return partition_axis_; }
  const std::vector<std::int64_t>& sizes() const { return sizes_; }
  // Of the largest tile.
  const std::vector<std::int64_t>& extents() const { return extents_; }
  std::int64_t most_partitions() const;
  // Axes with loops, outermost first.
  const std::vector<std::size_t>& order() const { return order_; }

  // A nest for each kind of tile. enter(level, tile) at the start of each loop of order()[level], then body(tile).
  void walk(Builder& builder, const std::function<void(std::size_t, const BoxTile&)>& enter,
            const std::function<void(const BoxTile&)>& body) const;

  // A tile of an HBM buffer with these strides along the axes, 0 where it repeats; negative ones are counted from
  // the axis' last element.
  Tile hbm(std::int16_t buffer, const BoxTile& tile, const std::vector<std::int64_t>& strides,
           std::int64_t offset = 0) const;
  // What has been loaded of it, densely, seen with its repetitions.
  Tile on_chip(std::int16_t buffer, const BoxTile& tile, const std::vector<std::int64_t>& strides) const;
  // Elements of each partition that are loaded.
  std::int64_t loaded_elements(const std::vector<std::int64_t>& extents,
                               const std::vector<std::int64_t>& strides) const;

 private:
  struct Piece {
    std::int64_t start = 0, trips = 0, partitions = 1, extent = 1;
  };
  std::vector<Piece> pieces(std::size_t axis) const;
  bool has_loop(std::size_t axis) const;
  std::vector<std::int64_t> extents_on(std::size_t partition_axis, std::int64_t free_elements) const;
  std::int64_t cost(std::size_t partition_axis, const std::vector<std::int64_t>& extents, std::int64_t itemsize) const;
  void walk_level(Builder& builder, std::size_t level, BoxTile& tile,
                  const std::function<void(std::size_t, const BoxTile&)>& enter,
                  const std::function<void(const BoxTile&)>& body) const;

  const target::Target& target_;
  std::vector<std::int64_t> sizes_, extents_;
  std::size_t partition_axis_ = 0;
  std::vector<std::size_t> order_;
};

}  // namespace trn::kernels::box_tiles
