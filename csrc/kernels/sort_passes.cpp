// Searches, puts the least value where it found the largest, and searches again.
#include "kernels/sort_passes.h"

#include <algorithm>

namespace trn::kernels {

using namespace tiling;

namespace {

constexpr std::int64_t kMostPlaces = std::int64_t{1} << 24;  // positions are added in fp32

}  // namespace

SortPasses::SortPasses(const target::Target& target, const SortShape& shape, Dtype key)
    : target_(target), shape_(shape), key_(key) {
  if (fits_in_sbuf(shape.cols)) {
    chunk_ = shape.cols;
    return;
  }
  // The fewest chunks; their results together are fewer than the row.
  for (std::int64_t chunk = kMostSearched; chunk >= 2 * width() && shape.cols < kMostPlaces; chunk /= 2) {
    if (chunk < shape.cols && fits_in_sbuf(chunk)) {
      chunk_ = chunk;
      return;
    }
  }
}

bool SortPasses::fits_in_sbuf(std::int64_t chunk) const {
  const std::int64_t key_bytes = target::itemsize(key_), results = width() * (key_bytes + 4);
  const std::int64_t candidates = chunk < shape_.cols ? ceil_div(shape_.cols, chunk) * width() : 0;
  const std::int64_t merging = candidates > 0 ? candidates * (key_bytes + 4) + 2 * width() * 4 : 0;
  return chunk <= kMostSearched && candidates <= kMostSearched &&
         2 * chunk * key_bytes + 2 * results + merging <= target_.core.sbuf_bytes_per_partition;
}

double SortPasses::cost() const {
  const std::int64_t tiles = ceil_div(shape_.rows, target_.core.num_partitions);
  const std::int64_t least = target_.core.min_instruction_cycles;
  const std::int64_t candidates = chunk_ < shape_.cols ? num_chunks() * width() : 0;
  return static_cast<double>(tiles) * 3.0 * static_cast<double>(num_passes()) *
         static_cast<double>(std::max(shape_.cols, least) + candidates);
}

void take_largest(Builder& builder, const Tile& keys, std::int16_t values, std::int16_t positions, std::int64_t passes,
                  const Index& first) {
  builder.loop(passes, [&](const Index& pass) {
    const Index at = pass * kPass + first;
    const Tile best = on_chip_tile(values, keys.partitions, kPass, at);
    builder.emit({.opcode = Opcode::max8, .dst = best, .src = {keys}});
    builder.emit({.opcode = Opcode::nc_find_index8,
                  .dst = on_chip_tile(positions, keys.partitions, kPass, at),
                  .src = {keys, best}});
    builder.emit({.opcode = Opcode::nc_match_replace8, .dst = keys, .src = {keys, best}, .scalar0 = -kInfinity});
  });
}

void SortPasses::build(Builder& builder, const Load& load, const Store& store) const {
  const std::int64_t num_partitions = target_.core.num_partitions;
  const std::int16_t keys = builder.sbuf("keys", key_, num_partitions, std::max(chunk_, kPass));
  const std::int16_t values = builder.sbuf("values", key_, num_partitions, width());
  const std::int16_t positions = builder.sbuf("positions", Dtype::uint32, num_partitions, width());
  const float least = shape_.ascending ? kInfinity : -kInfinity;
  auto read = [&](const Index& row, std::int64_t partitions, const Index& column, std::int64_t columns) {
    const Tile tile = on_chip_tile(keys, partitions, std::max(columns, kPass));
    if (columns < kPass) {
      builder.memset(tile, least);
    }
    load(on_chip_tile(keys, partitions, columns), row, column, columns);
    turn_around(builder, tile, shape_.ascending);
    return tile;
  };
  auto write = [&](const Index& row, std::int64_t partitions) {
    turn_around(builder, on_chip_tile(values, partitions, shape_.k), shape_.ascending);
    store(on_chip_tile(values, partitions, shape_.k), on_chip_tile(positions, partitions, shape_.k), row);
  };
  const std::int64_t candidates = chunk_ < shape_.cols ? num_chunks() * width() : 0;
  std::int16_t best = -1, places = -1, found = -1, offsets = -1;
  if (candidates > 0) {
    best = builder.sbuf("candidates", key_, num_partitions, candidates, 1);
    places = builder.sbuf("places", Dtype::uint32, num_partitions, candidates, 1);
    found = builder.sbuf("found", Dtype::uint32, num_partitions, width(), 1);
    offsets = builder.sbuf("offsets", Dtype::int32, num_partitions, width(), 1);
  }
  for (const Segment& rows : split(shape_.rows, num_partitions)) {
    builder.nest(rows.start == 0 ? "body" : "remainder");
    builder.parallel_loop(rows.trips, [&](const Index& i) {
      const Index row = i * rows.size + Index(rows.start);
      if (candidates == 0) {
        take_largest(builder, read(row, rows.size, {}, shape_.cols), values, positions, num_passes());
        write(row, rows.size);
        return;
      }
      for (const Segment& columns : split(shape_.cols, chunk_)) {
        builder.loop(columns.trips, [&](const Index& c) {
          const Index column = c * columns.size + Index(columns.start);
          const Index at = c * width() + Index(columns.start / chunk_ * width());
          take_largest(builder, read(row, rows.size, column, columns.size), best, places, num_passes(), at);
          const Tile offset = on_chip_tile(offsets, rows.size, width());
          const Tile place = on_chip_tile(places, rows.size, width(), at);
          builder.emit(
              {.opcode = Opcode::iota, .dst = offset, .src = {hbm_tile(-1, rows.size, 0, {{width(), 0}}, column)}});
          builder.tensor_tensor(place, place, offset, Alu::add);
        });
      }
      take_largest(builder, on_chip_tile(best, rows.size, candidates), values, found, num_passes());
      builder.emit({.opcode = Opcode::nc_n_gather,
                    .dst = on_chip_tile(positions, rows.size, width()),
                    .src = {on_chip_tile(places, rows.size, candidates), on_chip_tile(found, rows.size, width())}});
      write(row, rows.size);
    });
  }
}

}  // namespace trn::kernels
