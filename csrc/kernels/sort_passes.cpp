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

std::int64_t SortPasses::rows_together() const {
  const std::int64_t cores = std::max<std::int64_t>(target_.device.num_cores, 1), key_bytes = target::itemsize(key_);
  if (chunk_ < shape_.cols) {
    return 1;
  }
  const std::int64_t of_a_row = 2 * (std::max(shape_.cols, kPass) * key_bytes + width() * (key_bytes + 4));
  const std::int64_t spare = shape_.rows / (4 * cores * target_.core.num_partitions);
  const std::int64_t run = std::min(shape_.cols, shape_.k) * key_bytes;
  return std::max<std::int64_t>(
      std::min({rows_per_descriptor(target_, run), target_.core.sbuf_bytes_per_partition / of_a_row, spare}), 1);
}

void SortPasses::build(Builder& builder, const Load& load, const Store& store) const {
  if (chunk_ < shape_.cols) {
    build_chunks(builder, load, store);
    return;
  }
  const std::int64_t num_partitions = target_.core.num_partitions, together = rows_together();
  const std::int64_t pitch = std::max(shape_.cols, kPass);  // of a row's keys
  const std::int16_t keys = builder.sbuf("keys", key_, num_partitions, together * pitch);
  const std::int16_t values = builder.sbuf("values", key_, num_partitions, together * width());
  const std::int16_t positions = builder.sbuf("positions", Dtype::uint32, num_partitions, together * width());
  builder.nest("rows");
  builder.groups(
      row_groups(shape_.rows, num_partitions, together),
      [&](const Index& row, const RowGroup& group) {
        const auto tile = [&](std::int16_t buffer, std::int64_t stride, std::int64_t elements) {
          return on_chip_tile(buffer, group.lanes, {{group.tiles, stride}, {elements, 1}});
        };
        const Tile all = on_chip_tile(keys, group.lanes, group.tiles * pitch);
        if (shape_.cols < kPass) {
          builder.memset(all, shape_.ascending ? kInfinity : -kInfinity);
        }
        load(tile(keys, pitch, shape_.cols), row, {}, shape_.cols);
        turn_around(builder, all, shape_.ascending);
        builder.loop(group.tiles, [&](const Index& member) {
          take_largest(builder, on_chip_tile(keys, group.lanes, pitch, member * pitch), values, positions, num_passes(),
                       member * width());
        });
        const Tile best = tile(values, width(), shape_.k);
        turn_around(builder, best, shape_.ascending);
        store(best, tile(positions, width(), shape_.k), row);
      },
      true);
}

void SortPasses::build_chunks(Builder& builder, const Load& load, const Store& store) const {
  const std::int64_t num_partitions = target_.core.num_partitions, candidates = num_chunks() * width();
  const std::int16_t keys = builder.sbuf("keys", key_, num_partitions, chunk_);
  const std::int16_t values = builder.sbuf("values", key_, num_partitions, width());
  const std::int16_t positions = builder.sbuf("positions", Dtype::uint32, num_partitions, width());
  const std::int16_t best = builder.sbuf("candidates", key_, num_partitions, candidates, 1);
  const std::int16_t places = builder.sbuf("places", Dtype::uint32, num_partitions, candidates, 1);
  const std::int16_t found = builder.sbuf("found", Dtype::uint32, num_partitions, width(), 1);
  const std::int16_t offsets = builder.sbuf("offsets", Dtype::int32, num_partitions, width(), 1);
  for (const Segment& rows : split(shape_.rows, num_partitions)) {
    builder.nest(rows.start == 0 ? "body" : "remainder");
    builder.parallel_loop(rows.trips, [&](const Index& i) {
      const Index row = i * rows.size + Index(rows.start);
      for (const Segment& columns : split(shape_.cols, chunk_)) {
        builder.loop(columns.trips, [&](const Index& c) {
          const Index column = c * columns.size + Index(columns.start);
          const Index at = c * width() + Index(columns.start / chunk_ * width());
          const std::int64_t searched = std::max(columns.size, kPass);
          const Tile tile = on_chip_tile(keys, rows.size, searched);
          if (columns.size < kPass) {
            builder.memset(tile, shape_.ascending ? kInfinity : -kInfinity);
          }
          load(on_chip_tile(keys, rows.size, columns.size), row, column, columns.size);
          turn_around(builder, tile, shape_.ascending);
          take_largest(builder, tile, best, places, num_passes(), at);
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
      const Tile result = on_chip_tile(values, rows.size, shape_.k);
      turn_around(builder, result, shape_.ascending);
      store(result, on_chip_tile(positions, rows.size, shape_.k), row);
    });
  }
}

}  // namespace trn::kernels
