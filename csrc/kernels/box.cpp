// Boxes of elements: loaded in one layout and stored in another, a descriptor for each contiguous run.
//
//   HBM bytes read    = elements of the box * size(src), those that repeat along an axis once for each tile along it
//   HBM bytes written = elements of the box * size(dst)
#include <algorithm>
#include <string>
#include <vector>

#include "kernels/box_tiles.h"
#include "kernels/build.h"
#include "kernels/executable.h"
#include "target/error.h"

namespace trn::kernels {

using box_tiles::BoxTile;
using box_tiles::BoxTiles;
using tiling::Builder;
using tiling::on_chip_tile;

namespace {

std::int64_t elements_of(const BoxShape& shape) {
  std::int64_t elements = 1;
  for (const BoxAxis& axis : shape.axes) {
    elements *= axis.size;
  }
  return elements;
}

void require_within(const char* side, std::int64_t end, std::int64_t elements) {
  if (end > elements) {
    throw Error(Category::invalid_argument, "[box] a box lies within its tensor, " + std::string(side) + "; got " +
                                                std::to_string(end) + ", limit " + std::to_string(elements) +
                                                ". Check its offset and strides.");
  }
}

void check(const BoxShape& shape) {
  std::int64_t from = shape.src_offset + 1, to = shape.dst_offset + 1;
  for (const BoxAxis& axis : shape.axes) {
    from += (axis.size - 1) * axis.from;
    to += (axis.size - 1) * axis.to;
  }
  require_within("src", from, shape.src_elements);
  require_within("dst", to, shape.dst_elements);
}

}  // namespace

program::Program box(const target::Target& target, const BoxShape& shape) {
  Builder builder("box");
  const auto src = builder.hbm("src", shape.src_dtype, shape.src_elements);
  const auto dst = builder.hbm("dst", shape.dst_dtype, shape.dst_elements, true);
  const std::int64_t elements = elements_of(shape);
  if (elements == 0) {
    return builder.take();
  }
  check(shape);
  const bool casts = shape.src_dtype != shape.dst_dtype;
  const Dtype loaded = casts ? tiling::sbuf_dtype(shape.src_dtype) : shape.src_dtype;
  const Dtype stored = casts ? tiling::sbuf_dtype(shape.dst_dtype) : shape.dst_dtype;
  const std::int64_t itemsize = std::min(target::itemsize(shape.src_dtype), target::itemsize(shape.dst_dtype));
  const std::int64_t bytes = 2 * (target::itemsize(loaded) + (loaded == stored ? 0 : target::itemsize(stored)));
  std::vector<std::int64_t> sizes, from, to, kept;
  for (const BoxAxis& axis : shape.axes) {
    sizes.push_back(axis.size);
    from.push_back(axis.reversed ? -axis.from : axis.from);
    to.push_back(axis.to);
    kept.push_back(axis.from == 0 ? 0 : 1);
  }
  if (sizes.empty()) {
    sizes = from = to = kept = {1};
  }
  BoxTiles tiles(target, sizes, tiling::stream_free_elements(target, elements, itemsize, bytes), itemsize);
  const BoxTile largest{.partitions = 1, .extents = tiles.extents(), .at = {}};
  const std::int64_t partitions = target.core.num_partitions;
  const auto in = builder.sbuf("loaded", loaded, partitions, tiles.loaded_elements(tiles.extents(), kept));
  const auto out = loaded == stored ? in : builder.sbuf("stored", stored, partitions, largest.free_elements());
  tiles.walk(
      builder, [](std::size_t, const BoxTile&) {},
      [&](const BoxTile& tile) {
        const auto hbm = tiles.hbm(src, tile, from, shape.src_offset);
        builder.dma(on_chip_tile(in, hbm.partitions, tiles.loaded_elements(tile.extents, kept)), hbm);
        auto result = tiles.on_chip(in, tile, kept);
        if (out != in) {
          const auto cast = on_chip_tile(out, tile.partitions, tile.free_elements());
          builder.tensor_copy(cast, result);
          result = cast;
        }
        builder.dma(tiles.hbm(dst, tile, to, shape.dst_offset), result);
      });
  return builder.take();
}

void require_executable(const BoxShape& shape) {
  if (shape.src_dtype != shape.dst_dtype && (is_complex(shape.src_dtype) || is_complex(shape.dst_dtype))) {
    throw Error(Category::unimplemented, "[box] casts of complex elements are counted, not executed; got " +
                                             std::string(target::name(shape.src_dtype)) + " to " +
                                             std::string(target::name(shape.dst_dtype)) + ".");
  }
}

}  // namespace trn::kernels
