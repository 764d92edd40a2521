// Copies from one layout or dtype to another: DMA alone, a cast on VectorE, or transposes.
#include <algorithm>
#include <numeric>

#include "kernels/build.h"
#include "kernels/side_by_side.h"

namespace trn::kernels {

using namespace tiling;

namespace {

// The dtype of a complex tensor's two planes; real dtypes as they are.
Dtype plane_dtype(Dtype dtype) {
  switch (dtype) {
    case Dtype::complex32:
      return Dtype::float16;
    case Dtype::complex64:
      return Dtype::float32;
    case Dtype::complex128:
      return Dtype::float64;
    default:
      return dtype;
  }
}

// What one copy needs to know, in elements of its SBUF dtypes.
struct Ends {
  std::int16_t src, dst;
  Dtype loaded, stored;  // in SBUF
  std::int64_t smallest_itemsize;
  Spacing from = {}, to = {};
};

// Where both ends of a dense copy are spaced, a tile holds whole runs of both.
std::int64_t unit_of(const Spacing& from, const Spacing& to) {
  return std::lcm(from.moves_span ? from.run : 1, to.moves_span ? to.run : 1);
}

// The DMA narrows 64-bit types on its way, so only what differs in SBUF takes VectorE. Both directions pass through
// SBUF, so that each side of HBM is charged.
void stream_copy(Builder& builder, const target::Target& target, std::int64_t elements, const Ends& ends) {
  const bool by_engine = ends.loaded != ends.stored || ends.from.moves_span || ends.to.moves_span;
  const std::int64_t unit = unit_of(ends.from, ends.to);
  const std::int64_t bytes = ceil_div(ends.from.span(unit), unit) * target::itemsize(ends.loaded) +
                             ceil_div(ends.to.span(unit), unit) * target::itemsize(ends.stored);
  const std::int64_t free = round_up(stream_free_elements(target, elements, ends.smallest_itemsize, 2 * bytes), unit);
  const std::int16_t loaded = builder.sbuf("loaded", ends.loaded, target.core.num_partitions, ends.from.span(free));
  const std::int16_t stored =
      by_engine ? builder.sbuf("stored", ends.stored, target.core.num_partitions, ends.to.span(free)) : loaded;
  stream(builder, target, elements / unit, free / unit, [&](const StreamTile& units) {
    const StreamTile tile{units.partitions, units.free * unit, units.first * unit};
    builder.dma(ends.from.loaded(loaded, tile), ends.from.hbm(ends.src, tile));
    if (ends.to.has_gaps()) {
      builder.dma(ends.to.loaded(stored, tile), ends.to.hbm(ends.dst, tile));
    }
    if (by_engine) {
      builder.tensor_copy(ends.to.picked(stored, tile), ends.from.picked(loaded, tile));
    }
    builder.dma(ends.to.hbm(ends.dst, tile), ends.to.loaded(stored, tile));
  });
}

// src holds fewer elements than dst: each is read and cast once, then written as often as it appears.
void stream_expand(Builder& builder, const target::Target& target, std::int64_t num_src, std::int64_t num_dst,
                   const Ends& ends) {
  const std::int64_t free = stream_free_elements(target, std::max(num_src, num_dst), ends.smallest_itemsize,
                                                 2 * (target::itemsize(ends.loaded) + target::itemsize(ends.stored)));
  const auto rounds = share(target, {num_src, num_dst}, free);
  const bool cast = ends.loaded != ends.stored;
  const std::int16_t loaded = builder.sbuf("loaded", ends.loaded, target.core.num_partitions, free);
  const std::int16_t stored = cast ? builder.sbuf("stored", ends.stored, target.core.num_partitions, free) : loaded;
  stream_together(builder, rounds, [&](const std::vector<StreamTile>& shares) {
    const StreamTile& in = shares[0];
    const StreamTile& out = shares[1];
    if (in.free > 0) {
      builder.dma(on_chip_tile(loaded, in.partitions, in.free), in.hbm(ends.src));
      if (cast) {
        builder.tensor_copy(on_chip_tile(stored, in.partitions, in.free), on_chip_tile(loaded, in.partitions, in.free));
      }
    }
    if (out.free > 0) {
      builder.dma(out.hbm(ends.dst), on_chip_tile(stored, out.partitions, out.free));
    }
  });
}

// Blocks of 128 x 128: transposed by the DMA where elements have two bytes, else by TensorE through PSUM, from where
// the copy back casts. One PSUM bank takes as many blocks as fit before it is emptied. TensorE takes one-byte elements
// as bfloat16, which holds them exactly.
void stream_transpose(Builder& builder, const target::Target& target, std::int64_t elements, const Ends& ends) {
  const std::int64_t num_partitions = target.core.num_partitions;
  const bool by_dma = target::itemsize(ends.loaded) == 2;
  const Dtype moved = target::itemsize(ends.loaded) == 1 ? Dtype::bfloat16 : ends.loaded;
  const std::int64_t loaded_bytes = target::itemsize(moved);
  const std::int64_t bank_elements = target.core.psum_bytes_per_partition / target.core.psum_num_banks / loaded_bytes;
  const std::int64_t group = std::max(bank_elements / num_partitions, std::int64_t{1}) * num_partitions;
  std::int64_t free = stream_free_elements(target, elements, ends.smallest_itemsize,
                                           2 * (loaded_bytes + target::itemsize(ends.stored)));
  free = free >= group ? free / group * group : round_up(free, num_partitions);
  const bool cast = ends.loaded != ends.stored;
  const std::int16_t loaded = builder.sbuf("loaded", moved, num_partitions, free);
  const std::int16_t stored = by_dma && !cast ? loaded : builder.sbuf("stored", ends.stored, num_partitions, free);
  const std::int16_t bank = by_dma ? loaded : builder.psum("transposed", moved, num_partitions, group);

  stream(builder, target, elements, free, [&](const StreamTile& tile) {
    const Tile in = on_chip_tile(loaded, tile.partitions, tile.free);
    const Tile out = on_chip_tile(stored, tile.partitions, tile.free);
    if (by_dma) {
      builder.emit({.opcode = Opcode::dma_transpose, .dst = in, .src = {tile.hbm(ends.src)}});
      if (cast) {
        builder.tensor_copy(out, in);
      }
    } else {
      builder.dma(in, tile.hbm(ends.src));
      builder.tiles(tile.free, group, [&](const Index& first, std::int64_t width) {
        const std::int64_t whole = width / num_partitions;
        const std::int64_t rest = width - whole * num_partitions;
        // [P, 128] -> [128, P]: block b of the bank holds the transpose of block b of the tile.
        builder.loop(whole, [&](const Index& b) {
          builder.transpose(on_chip_tile(bank, num_partitions, tile.partitions, b * tile.partitions),
                            on_chip_tile(loaded, tile.partitions, num_partitions, first + b * num_partitions));
        });
        if (whole > 0) {
          builder.tensor_copy(on_chip_tile(stored, num_partitions, whole * tile.partitions, first),
                              on_chip_tile(bank, num_partitions, whole * tile.partitions));
        }
        if (rest > 0) {
          const Index at = first + whole * num_partitions;
          builder.transpose(on_chip_tile(bank, rest, tile.partitions, Index(whole * tile.partitions)),
                            on_chip_tile(loaded, tile.partitions, rest, at));
          builder.tensor_copy(on_chip_tile(stored, rest, tile.partitions, at),
                              on_chip_tile(bank, rest, tile.partitions, Index(whole * tile.partitions)));
        }
      });
    }
    builder.dma(tile.hbm(ends.dst), out);
  });
}

}  // namespace

program::Program copy(const target::Target& target, const CopyShape& shape) {
  Builder builder("copy");
  const bool dense = shape.src.elements == shape.elements && shape.dst.elements == shape.elements;
  const Dtype src = shape.src.dtype;
  const Dtype dst = shape.dst.dtype;
  const std::int64_t src_planes = target::itemsize(src) / target::itemsize(plane_dtype(src));
  const std::int64_t dst_planes = target::itemsize(dst) / target::itemsize(plane_dtype(dst));
  if (shape.transpose && dense && src_planes == dst_planes) {
    // Both sides are walked in their own order, so both are dense.
    const Ends ends{.src = builder.hbm("src", plane_dtype(src), shape.elements * src_planes),
                    .dst = builder.hbm("dst", plane_dtype(dst), shape.elements * dst_planes, true),
                    .loaded = sbuf_dtype(plane_dtype(src)),
                    .stored = sbuf_dtype(plane_dtype(dst)),
                    .smallest_itemsize = std::min(target::itemsize(src), target::itemsize(dst))};
    stream_transpose(builder, target, shape.elements * src_planes, ends);
    return builder.take();
  }
  Spacing from = dense ? spacing(target, shape.src, false) : Spacing{};
  Spacing to = dense ? spacing(target, shape.dst, true) : Spacing{};
  if (shape.elements % unit_of(from, to) != 0 || unit_of(from, to) > target.core.dma_saturating_bytes) {
    (from.moves_span ? to : from) = {};
  }
  const Ends ends{.src = builder.hbm("src", shape.src, from, false),
                  .dst = builder.hbm("dst", shape.dst, to, true),
                  .loaded = src == dst ? src : sbuf_dtype(src),
                  .stored = src == dst ? dst : sbuf_dtype(dst),
                  .smallest_itemsize = std::min(target::itemsize(src), target::itemsize(dst)),
                  .from = from,
                  .to = to};
  if (dense) {
    stream_copy(builder, target, shape.elements, ends);
  } else {
    stream_expand(builder, target, shape.src.elements, shape.dst.elements, ends);
  }
  return builder.take();
}

}  // namespace trn::kernels
