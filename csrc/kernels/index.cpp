// Gather, scatter and scatter_add: rows by DMA with a descriptor each, single elements by a 32-bit index on GpSimdE.
#include <algorithm>
#include <limits>
#include <string>

#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/tiling.h"
#include "target/error.h"

namespace trn::kernels {

using namespace tiling;

namespace {

// Index arithmetic runs in fp32, which holds integers up to here.
constexpr std::int64_t kMostExact = std::int64_t{1} << 24;

// One list of indices, or the first of several.
std::int64_t num_picks(const IndexShape& shape) {
  return shape.axes.empty() ? shape.num_indices : shape.num_indices / static_cast<std::int64_t>(shape.axes.size());
}

class IndexKernel {
 public:
  IndexKernel(const target::Target& target, const IndexShape& shape)
      : target_(target),
        shape_(shape),
        num_partitions_(target.core.num_partitions),
        adds_(shape.kind == IndexKind::scatter_add),
        gathers_(shape.kind == IndexKind::gather) {}

  program::Program build() {
    declare();
    copy_base();
    if (shape_.num_rows * shape_.row_elements > 0) {
      emit();
    }
    auto program = builder_.take();
    if (adds_) {
      run_in_order(program);
    }
    return program;
  }

 private:
  // ---- Buffers

  std::int64_t num_elements() const { return shape_.num_rows * shape_.row_elements; }
  // A table of unknown size has the rows that are picked.
  std::int64_t table_rows() const { return shape_.table_rows > 0 ? shape_.table_rows : shape_.num_rows; }
  std::int64_t table_elements() const {
    return shape_.table_rows > 0
               ? shape_.num_tables * table_rows() * std::max(shape_.columns, std::int64_t{1}) * shape_.row_elements
               : std::max(num_elements(), shape_.base_elements);
  }

  void declare() {
    if (!gathers_ && shape_.base_elements > 0) {
      base_ = builder_.hbm("base", shape_.dtype, shape_.base_elements);
    }
    if (gathers_) {
      table_ = builder_.hbm("table", shape_.dtype, table_elements());
    }
    index_ = builder_.hbm("index", shape_.index_dtype, shape_.num_indices);
    rows_ = builder_.hbm(gathers_ ? "out" : "source", shape_.dtype, num_elements(), gathers_);
    if (!gathers_) {
      table_ = builder_.hbm("out", shape_.dtype, table_elements(), true);
    }
  }

  void copy_base() {
    if (gathers_ || shape_.base_elements == 0) {
      return;
    }
    const std::int64_t itemsize = target::itemsize(shape_.dtype);
    const std::int64_t free = stream_free_elements(target_, shape_.base_elements, itemsize, 4 * itemsize);
    const std::int16_t copied = builder_.sbuf("copied", shape_.dtype, num_partitions_, free);
    stream(
        builder_, target_, shape_.base_elements, free,
        [&](const StreamTile& tile) {
          builder_.dma(on_chip_tile(copied, tile.partitions, tile.free), tile.hbm(base_));
          builder_.dma(tile.hbm(table_), on_chip_tile(copied, tile.partitions, tile.free));
        },
        1, "base_");
  }

  // What is only moved keeps its bits; what is added is narrowed to 32 bits.
  Dtype value_dtype() const { return adds_ ? sbuf_dtype(shape_.dtype) : shape_.dtype; }

  std::int64_t stream_width() const {
    const std::int64_t itemsize = target::itemsize(value_dtype());
    const std::int64_t index_tiles = 1 + (computes_places() ? 1 : 0) + (shape_.axes.empty() ? 0 : 1);
    const std::int64_t index_bytes = target::itemsize(shape_.index_dtype) * index_tiles;
    return stream_free_elements(target_, num_elements(), target::itemsize(shape_.dtype), 2 * (itemsize + index_bytes));
  }
  bool computes_places() const { return shape_.wraps || shape_.columns > 0 || !shape_.axes.empty(); }

  void emit() {
    const std::int64_t width = stream_width();
    const std::int64_t rows_per_partition = std::max(width / shape_.row_elements, std::int64_t{1});
    const std::int64_t chunk = std::min(width, shape_.row_elements);
    values_ = builder_.sbuf("values", value_dtype(), num_partitions_, rows_per_partition * chunk);
    picks_ = builder_.sbuf("indices", shape_.index_dtype, num_partitions_, rows_per_partition);
    if (computes_places()) {
      places_ = builder_.sbuf("places", shape_.index_dtype, num_partitions_, rows_per_partition);
    }
    if (!shape_.axes.empty()) {
      list_ = builder_.sbuf("list", shape_.index_dtype, num_partitions_, rows_per_partition);
    }
    if (is_picked_on_chip()) {
      emit_on_chip(rows_per_partition);
    } else if (shape_.columns > 0) {
      emit_elements(rows_per_partition);
    } else {
      emit_rows(rows_per_partition, chunk);
    }
  }

  // ---- Rows

  bool has_index_per_row() const { return num_picks(shape_) * shape_.num_tables == shape_.num_rows; }

  void emit_rows(std::int64_t rows_per_partition, std::int64_t chunk) {
    if (!has_index_per_row()) {  // positions of another operator: read, and not one for each row
      load_other_indices(rows_per_partition);
    }
    const std::int64_t num_rows = shape_.num_rows / shape_.num_tables;
    stream(builder_, target_, num_rows, rows_per_partition, [&](const StreamTile& tile) {
      if (has_index_per_row()) {
        load_indices(tile);
      }
      // An index picks short rows of several tables at a time.
      const std::int64_t together = chunk < shape_.row_elements ? 1 : rows_per_partition / tile.free;
      each_table(together, [&](const Index& table, std::int64_t count) {
        builder_.tiles(shape_.row_elements, chunk, [&](const Index& column, std::int64_t width) {
          const std::int64_t table_elements = table_rows() * shape_.row_elements;
          const Tile rows = hbm_tile(table_, table_rows(), shape_.row_elements,
                                     with_tables(count, table_elements, {{width, 1}}), table * table_elements + column);
          move(rows, hbm_rows(tile, table, count, column, width),
               on_chip_tile(values_, tile.partitions, tile.free * count * width),
               on_chip_tile(picks_, tile.partitions, tile.free));
        });
      });
    });
  }

  // body(first table, tables)
  template <class Body>
  void each_table(std::int64_t together, Body body) {
    if (shape_.num_tables == 1) {
      body(Index(0), 1);
    } else {
      builder_.tiles(shape_.num_tables, std::clamp<std::int64_t>(together, 1, shape_.num_tables), body, true);
    }
  }
  static std::vector<Dim> with_tables(std::int64_t count, std::int64_t pitch, std::vector<Dim> row) {
    if (count > 1) {
      row.insert(row.end() - 1, {count, pitch});
    }
    return row;
  }

  void load_other_indices(std::int64_t rows_per_partition) {
    stream(
        builder_, target_, shape_.num_indices, rows_per_partition,
        [&](const StreamTile& tile) {
          builder_.dma(on_chip_tile(picks_, tile.partitions, tile.free), tile.hbm(index_));
        },
        1, "indices_");
  }

  void load_indices(const StreamTile& tile) {
    const Tile picks = on_chip_tile(picks_, tile.partitions, tile.free);
    if (shape_.axes.empty()) {
      builder_.dma(picks, tile.hbm(index_));
      wrap(picks, table_rows());
      return;
    }
    const Tile list = on_chip_tile(list_, tile.partitions, tile.free);
    for (std::size_t a = 0; a < shape_.axes.size(); ++a) {
      const Tile& into = a == 0 ? picks : list;
      const auto first = static_cast<std::int64_t>(a) * num_picks(shape_);
      builder_.dma(into, StreamTile{tile.partitions, tile.free, tile.first + first}.hbm(index_));
      wrap(into, shape_.axes[a]);
      if (a > 0) {
        builder_.emit({.opcode = Opcode::scalar_tensor_tensor,
                       .dst = picks,
                       .src = {picks, list},
                       .alu0 = Alu::multiply,
                       .alu1 = Alu::add,
                       .scalar0 = static_cast<float>(shape_.axes[a])});
      }
    }
  }

  void wrap(const Tile& picks, std::int64_t size) {
    if (shape_.wraps) {
      const Tile turns = on_chip_tile(places_, picks.partitions, picks.free_elements());
      builder_.tensor_scalar(turns, picks, Alu::less, 0, Alu::multiply, static_cast<float>(size));
      builder_.tensor_tensor(picks, picks, turns, Alu::add);
    }
  }

  // The rows of a tile in the tensor that has one for each index.
  Tile hbm_rows(const StreamTile& tile, const Index& table, std::int64_t count, const Index& column,
                std::int64_t width) const {
    const std::int64_t row = shape_.row_elements, of_table = shape_.num_rows / shape_.num_tables * row;
    const Index at = table * of_table + tile.first * row + column;
    if (width == row && count == 1) {
      return hbm_tile(rows_, tile.partitions, tile.free * row, {{tile.free * row, 1}}, at);
    }
    return hbm_tile(rows_, tile.partitions, tile.free * row,
                    with_tables(count, of_table, {{tile.free, row}, {width, 1}}), at);
  }

  void move(const Tile& table, const Tile& rows, const Tile& values, const Tile& picks) {
    if (gathers_) {
      builder_.emit({.opcode = Opcode::dma_gather, .dst = values, .src = {table, picks}});
      builder_.dma(rows, values);
      return;
    }
    builder_.dma(values, rows);
    builder_.emit(
        {.opcode = Opcode::dma_scatter, .dst = table, .src = {values, picks}, .alu0 = adds_ ? Alu::add : Alu::none});
  }

  // ---- Single elements, each from its own column of its own table

  std::int64_t picks_per_column() const { return shape_.num_rows / (shape_.num_tables * shape_.columns); }
  std::int64_t table_size() const { return table_rows() * shape_.columns; }

  // Of three ways to lay the picks out the one with the fewest trips.
  void emit_elements(std::int64_t width) {
    const std::int64_t of_table = picks_per_column() * shape_.columns, num_tables = shape_.num_tables;
    const std::int64_t most_tables = std::max(kMostExact / table_size(), std::int64_t{1});
    const std::int64_t partitions = std::min(num_partitions_, most_tables);
    const std::int64_t per_partition = std::min(most_tables / partitions, width / of_table);
    const std::int64_t rows_per_partition = width / shape_.columns;
    constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
    const std::int64_t by_tables = per_partition > 0 ? ceil_div(num_tables, partitions * per_partition) : kNever;
    const std::int64_t by_rows = rows_per_partition > 0
                                     ? num_tables * ceil_div(picks_per_column(), num_partitions_ * rows_per_partition)
                                     : kNever;
    const std::int64_t by_columns = num_tables * picks_per_column() * ceil_div(shape_.columns, num_partitions_ * width);
    if (by_tables <= std::min(by_rows, by_columns)) {
      emit_tables(partitions, per_partition);
    } else if (by_rows <= by_columns) {
      emit_table_rows(rows_per_partition);
    } else {
      emit_columns(width);
    }
  }

  // Partitions hold whole tables' picks.
  void emit_tables(std::int64_t partitions, std::int64_t per_partition) {
    const std::int64_t of_table = picks_per_column() * shape_.columns;
    auto tables = [&](const char* name, const Index& first, std::int64_t p, std::int64_t g) {
      builder_.nest(name);
      const std::int64_t trip = p * g;
      builder_.parallel_loop((shape_.num_tables - first.offset) / trip, [&](const Index& i) {
        const Index table = first + i * trip;
        const Tile pattern =
            hbm_tile(-1, p, g * table_size(), {{g, table_size()}, {picks_per_column(), 0}, {shape_.columns, 1}});
        elements(pattern, table * table_size(), trip * table_size(), table * of_table, p, g * of_table);
      });
    };
    std::int64_t done = 0;
    auto cover = [&](const char* name, std::int64_t p, std::int64_t g) {
      const std::int64_t trips = p * g > 0 ? (shape_.num_tables - done) / (p * g) : 0;
      if (trips > 0) {
        tables(name, Index(done), p, g);
        done += trips * p * g;
      }
    };
    cover("body", partitions, per_partition);
    cover("remainder", partitions, (shape_.num_tables - done) / partitions);
    cover("tail", shape_.num_tables - done, 1);
  }

  // Partitions hold some of a table's picks in every column.
  void emit_table_rows(std::int64_t rows_per_partition) {
    stream(builder_, target_, picks_per_column(), rows_per_partition, [&](const StreamTile& tile) {
      each_table(1, [&](const Index& table, std::int64_t) {
        const Tile pattern = hbm_tile(-1, tile.partitions, 0, {{tile.free, 0}, {shape_.columns, 1}});
        elements(pattern, table * table_size(), table_size(),
                 (table * picks_per_column() + tile.first) * shape_.columns, tile.partitions,
                 tile.free * shape_.columns);
      });
    });
  }

  // Partitions hold some of the columns, for one pick of each after the other.
  void emit_columns(std::int64_t width) {
    stream(builder_, target_, shape_.columns, width, [&](const StreamTile& tile) {
      builder_.loop(shape_.num_tables, [&](const Index& table) {
        builder_.loop(picks_per_column(), [&](const Index& pick) {
          elements(tile.position(), table * table_size(), table_size(),
                   (table * picks_per_column() + pick) * shape_.columns + tile.first, tile.partitions, tile.free);
        });
      });
    });
  }

  // Element places: index * columns + pattern, counted from `origin`, `reach` elements of the tables from there on.
  void elements(const Tile& pattern, const Index& origin, std::int64_t reach, const Index& first,
                std::int64_t partitions, std::int64_t width) {
    const Tile picks = on_chip_tile(picks_, partitions, width);
    const Tile places = on_chip_tile(places_, partitions, width);
    builder_.dma(picks, hbm_tile(index_, partitions, width, {{width, 1}}, first));
    builder_.emit({.opcode = Opcode::iota, .dst = places, .src = {pattern}});
    builder_.emit({.opcode = Opcode::scalar_tensor_tensor,
                   .dst = picks,
                   .src = {picks, places},
                   .alu0 = Alu::multiply,
                   .alu1 = Alu::add,
                   .scalar0 = static_cast<float>(shape_.columns)});
    move(hbm_tile(table_, reach, 1, {{1, 1}}, origin), hbm_tile(rows_, partitions, width, {{width, 1}}, first),
         on_chip_tile(values_, partitions, width), picks);
  }

  // ---- Single elements within SBUF

  // Picked within SBUF by a 32-bit index; a 64-bit index has only the DMA's descriptors.
  bool is_picked_on_chip() const {
    return shape_.row_elements == 1 && shape_.columns == 0 && shape_.axes.empty() &&
           target::itemsize(shape_.index_dtype) < 8;
  }

  void emit_on_chip(std::int64_t rows_per_partition) {
    const std::int16_t others = builder_.sbuf("others", value_dtype(), num_partitions_, rows_per_partition);
    if (!has_index_per_row()) {
      load_other_indices(rows_per_partition);
    }
    stream(builder_, target_, shape_.num_rows, rows_per_partition, [&](const StreamTile& tile) {
      const Tile value = on_chip_tile(values_, tile.partitions, tile.free);
      const Tile other = on_chip_tile(others, tile.partitions, tile.free);
      if (has_index_per_row()) {
        builder_.dma(on_chip_tile(picks_, tile.partitions, tile.free), tile.hbm(index_));
      }
      builder_.dma(value, tile.hbm(gathers_ ? table_ : rows_));
      builder_.emit({.opcode = Opcode::local_gather,
                     .dst = other,
                     .src = {value, on_chip_tile(picks_, tile.partitions, tile.free)}});
      if (adds_) {
        builder_.dma(value, tile.hbm(table_));
        builder_.tensor_tensor(other, other, value, Alu::add);
      }
      builder_.dma(tile.hbm(gathers_ ? rows_ : table_), other);
    });
  }

  // Rows that meet in one place must add up, so the tiles of an accumulation are not independent. The nests before it,
  // named "base_..." and "indices_...", stay parallel.
  static void run_in_order(program::Program& program) {
    for (auto& nest : program.nests) {
      for (auto& item : nest.body) {
        if (auto* loop = std::get_if<std::unique_ptr<program::Loop>>(&item);
            loop != nullptr && nest.name.find('_') == std::string::npos) {
          (*loop)->parallel = false;
        }
      }
    }
  }

  const target::Target& target_;
  const IndexShape& shape_;
  std::int64_t num_partitions_;
  bool adds_, gathers_;
  Builder builder_{"index"};
  std::int16_t base_ = -1, table_ = -1, index_ = -1, rows_ = -1;  // rows_: one for each index
  std::int16_t values_ = -1, picks_ = -1, places_ = -1, list_ = -1;
};

[[noreturn]] void only_counts(const std::string& rule, const std::string& got) {
  throw Error(Category::unimplemented, "[index] " + rule + " counted, not executed; got " + got + ".");
}

}  // namespace

program::Program index(const target::Target& target, const IndexShape& shape) {
  const std::int64_t shares = shape.num_tables * std::max<std::int64_t>(shape.columns, 1);
  if (shares < 1 || (shape.columns > 0 && shape.num_rows % shares != 0)) {
    throw Error(Category::invalid_argument, "[index] tables and columns share the rows evenly; got " +
                                                std::to_string(shape.num_rows) + " rows, limit a multiple of " +
                                                std::to_string(shares) + ". Check num_tables and columns.");
  }
  return IndexKernel(target, shape).build();
}

void require_executable(const IndexShape& shape) {
  if (shape.table_rows == 0) {
    only_counts("picks from a tensor of unknown size are", "no table_rows");
  }
  const std::int64_t size = target::itemsize(shape.index_dtype);
  if (shape.index_dtype != Dtype::int64 && shape.index_dtype != Dtype::int32) {
    only_counts("indices of other types than int32 and int64 are", std::string(target::name(shape.index_dtype)));
  }
  if (shape.row_elements == 1 && shape.columns == 0 && shape.axes.empty() && size < 8) {
    only_counts("single elements by a 32-bit index are", std::string(target::name(shape.index_dtype)));
  }
  if (is_complex(shape.dtype) && shape.kind == IndexKind::scatter_add) {
    only_counts("sums of complex elements are", std::string(target::name(shape.dtype)));
  }
  const bool computes = shape.wraps || !shape.axes.empty();
  const std::int64_t reach = shape.table_rows * std::max<std::int64_t>(shape.columns, computes ? 1 : 0);
  if (reach > kMostExact) {
    only_counts("places that fp32 does not hold exactly are", std::to_string(reach));
  }
  const std::int64_t table =
      shape.num_tables * shape.table_rows * std::max<std::int64_t>(shape.columns, 1) * shape.row_elements;
  if (shape.base_elements != 0 && shape.base_elements != table) {
    only_counts("copies of another size than what is written to are", std::to_string(shape.base_elements));
  }
  std::int64_t rows_of_axes = 1;
  for (const std::int64_t size : shape.axes) {
    rows_of_axes *= size;
  }
  if (!shape.axes.empty() && (shape.columns > 0 || rows_of_axes != shape.table_rows)) {
    only_counts("lists of indices for axes that are not the table's are", std::to_string(rows_of_axes));
  }
  const std::int64_t picks = shape.columns > 0 ? shape.num_indices : num_picks(shape) * shape.num_tables;
  if (picks != shape.num_rows) {
    only_counts("rows without an index of their own are", std::to_string(shape.num_rows));
  }
}

}  // namespace trn::kernels
