// Gather, scatter and scatter_add: rows by DMA with a descriptor each, single elements by a 32-bit index on GpSimdE.
#include <algorithm>

#include "kernels/build.h"
#include "kernels/side_by_side.h"

namespace trn::kernels {

using namespace tiling;

namespace {

// Rows lie on partitions, `rows_per_partition` of them side by side, and pass in chunks of `chunk` elements.
struct Plan {
  std::int64_t rows_per_partition = 1, chunk = 1;
};

Plan plan(const target::Target& target, const IndexShape& shape, std::int64_t num_row_tiles) {
  const std::int64_t itemsize = target::itemsize(sbuf_dtype(shape.dtype));
  // An index tile is at most as wide as a row tile.
  const std::int64_t bytes_per_element =
      2 * (num_row_tiles * itemsize + target::itemsize(shape.index_dtype)) + (shape.base_elements > 0 ? itemsize : 0);
  const std::int64_t free = stream_free_elements(target, shape.num_rows * shape.row_elements,
                                                 target::itemsize(shape.dtype), bytes_per_element);
  return {.rows_per_partition = std::max(free / shape.row_elements, std::int64_t{1}),
          .chunk = std::min(free, shape.row_elements)};
}

// One chunk of columns of a tile of rows, in HBM and in SBUF.
struct RowChunk {
  const StreamTile& rows;
  std::int64_t row_elements, width;
  Index column;

  Tile hbm(std::int16_t buffer) const {
    if (width == row_elements) {
      return rows.hbm(buffer, row_elements);
    }
    return hbm_tile(buffer, rows.partitions, rows.free * row_elements, {{rows.free, row_elements}, {width, 1}},
                    rows.first * row_elements + column);
  }
  Tile sbuf(std::int16_t buffer) const { return on_chip_tile(buffer, rows.partitions, rows.free * width); }
};

// Rows that meet in one place must add up, so the tiles of an accumulation are not independent. The nests before it,
// named "base_..." and "indices_...", stay parallel.
void run_in_order(program::Program& program) {
  for (auto& nest : program.nests) {
    for (auto& item : nest.body) {
      if (auto* loop = std::get_if<std::unique_ptr<program::Loop>>(&item);
          loop != nullptr && nest.name.find('_') == std::string::npos) {
        (*loop)->parallel = false;
      }
    }
  }
}

}  // namespace

program::Program index(const target::Target& target, const IndexShape& shape) {
  Builder builder("index");
  const std::int64_t elements = shape.num_rows * shape.row_elements;
  const bool is_gather = shape.kind == IndexKind::gather;
  const bool is_add = shape.kind == IndexKind::scatter_add;
  // Single elements by a 32-bit index are picked within SBUF; a 64-bit index has only the DMA's descriptors.
  const bool on_chip = shape.row_elements == 1 && target::itemsize(shape.index_dtype) < 8;

  // The rows picked, of whatever larger tensor: one contiguous run each.
  const std::int64_t run = on_chip ? 0 : shape.row_elements;
  const std::int16_t base = builder.hbm("base", shape.dtype, shape.base_elements);
  const std::int16_t index = builder.hbm("index", shape.index_dtype, shape.num_indices);
  const std::int16_t source = builder.hbm("source", shape.dtype, elements, false, is_gather ? run : 0);
  const std::int16_t target_rows =
      is_add ? builder.hbm("target_rows", shape.dtype, elements, false, run) : std::int16_t{-1};
  const std::int16_t out_base = builder.hbm("out_base", shape.dtype, shape.base_elements, true);
  const std::int16_t out = builder.hbm("out", shape.dtype, elements, true, is_gather ? 0 : run);
  const std::int64_t itemsize = target::itemsize(shape.dtype);
  const std::int64_t num_partitions = target.core.num_partitions;
  if (shape.base_elements > 0) {
    const std::int64_t free = stream_free_elements(target, shape.base_elements, itemsize, 4 * itemsize);
    const std::int16_t copied = builder.sbuf("copied", shape.dtype, num_partitions, free);
    stream(
        builder, target, shape.base_elements, free,
        [&](const StreamTile& tile) {
          builder.dma(on_chip_tile(copied, tile.partitions, tile.free), tile.hbm(base));
          builder.dma(tile.hbm(out_base), on_chip_tile(copied, tile.partitions, tile.free));
        },
        1, "base_");
  }
  if (elements == 0) {
    return builder.take();
  }

  const Dtype dtype = sbuf_dtype(shape.dtype);
  const Plan rows = plan(target, shape, is_add ? 2 : 1 + (on_chip ? 1 : 0));
  const std::int64_t width = rows.rows_per_partition * rows.chunk;
  const std::int16_t indices = builder.sbuf("indices", shape.index_dtype, num_partitions, rows.rows_per_partition);
  const std::int16_t values = builder.sbuf("values", dtype, num_partitions, width);
  // Two rows may go to the same place, so a tile's rows are fetched only after the last tile's were written.
  const std::int16_t others =
      is_add || on_chip ? builder.sbuf("others", dtype, num_partitions, width, is_add ? 1 : 2) : values;

  const bool index_per_row = shape.num_indices == shape.num_rows;
  if (!index_per_row) {
    stream(
        builder, target, shape.num_indices, rows.rows_per_partition,
        [&](const StreamTile& tile) {
          builder.dma(on_chip_tile(indices, tile.partitions, tile.free), tile.hbm(index));
        },
        1, "indices_");
  }

  stream(builder, target, shape.num_rows, rows.rows_per_partition, [&](const StreamTile& tile) {
    const Tile picks = on_chip_tile(indices, tile.partitions, tile.free);
    if (index_per_row) {
      builder.dma(picks, tile.hbm(index));
    }
    builder.tiles(shape.row_elements, rows.chunk, [&](const Index& column, std::int64_t chunk) {
      const RowChunk part{tile, shape.row_elements, chunk, column};
      const Tile value = part.sbuf(values);
      const Tile other = part.sbuf(others);
      auto pick = [&](Opcode opcode, const Tile& dst, const Tile& src) {
        builder.emit({.opcode = opcode, .dst = dst, .src = {src, picks}});
      };
      if (on_chip) {
        builder.dma(value, part.hbm(source));
        pick(Opcode::local_gather, other, value);
        if (is_add) {
          builder.dma(value, part.hbm(target_rows));
          builder.tensor_tensor(other, other, value, Alu::add);
        }
        builder.dma(part.hbm(out), other);
      } else if (is_gather) {
        pick(Opcode::dma_gather, value, part.hbm(source));
        builder.dma(part.hbm(out), value);
      } else {
        builder.dma(value, part.hbm(source));
        if (is_add) {
          pick(Opcode::dma_gather, other, part.hbm(target_rows));
          builder.tensor_tensor(value, value, other, Alu::add);
        }
        pick(Opcode::dma_scatter, part.hbm(out), value);
      }
    });
  });
  auto program = builder.take();
  if (is_add) {
    run_in_order(program);
  }
  return program;
}

}  // namespace trn::kernels
