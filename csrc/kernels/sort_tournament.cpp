// Rounds of max8, nc_find_index8 and nc_match_replace8 on fewer and fewer partitions.
#include "kernels/sort_tournament.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kernels/rows.h"
#include "kernels/sort_passes.h"

namespace trn::kernels {

using namespace tiling;

SortTournament::SortTournament(const target::Target& target, const SortShape& shape, Dtype key)
    : target_(target),
      shape_(shape),
      key_(key),
      partitions_(target.core.num_partitions),
      chunk_(ceil_div(shape.cols, partitions_)) {
  const auto& core = target.core;
  const std::int64_t pair = itemsize(key_) + itemsize(Dtype::uint32);
  if (!rows::may_spread(target, shape.rows, shape.cols) || 2 * width() > chunk_ || chunk_ > kMostSearched) {
    return;
  }
  // Long searches or many transfers: the fewer seconds.
  double least = std::numeric_limits<double>::infinity();
  for (const auto& joined : {std::vector<std::int64_t>{partitions_}, {partitions_ / 8, 8}, {partitions_ / 16, 4, 4}}) {
    double cycles = 0;
    bool fits = true;
    std::int64_t bytes = 2 * chunk_ * itemsize(key_) + 2 * width() * pair;
    for (const std::int64_t lanes : joined) {
      cycles += 3.0 * static_cast<double>(num_passes() * std::max(lanes * width(), core.min_instruction_cycles));
      bytes += 2 * (lanes + 2) * width() * pair;
      fits = fits && lanes * width() <= kMostSearched;
    }
    const double seconds = cycles / core.vector_clock_hz + static_cast<double>(joined.size()) * core.dma_fixed_seconds;
    if (fits && bytes <= core.sbuf_bytes_per_partition && seconds < least) {
      least = seconds;
      joined_ = joined;
    }
  }
}

void SortTournament::build(Builder& builder, std::int16_t in, const Store& store) const {
  // What won a round on each of its partitions; of later ones, what met, and which of these won.
  struct Round {
    std::int64_t lanes = 1;
    std::int16_t values = -1, places = -1, keys = -1, candidates = -1, found = -1;
  };
  const std::int16_t keys = builder.sbuf("keys", key_, partitions_, chunk_);
  const std::int16_t offsets = builder.sbuf("offsets", Dtype::int32, partitions_, width(), 1);
  const Round first{.lanes = partitions_,
                    .values = builder.sbuf("values", key_, partitions_, width()),
                    .places = builder.sbuf("places", Dtype::uint32, partitions_, width())};
  std::vector<Round> rounds;
  for (std::int64_t lanes = partitions_; const std::int64_t joined : joined_) {
    lanes /= joined;
    const auto tile = [&](const std::string& name, Dtype dtype, std::int64_t elements) {
      return builder.sbuf(name + std::to_string(rounds.size()), dtype, lanes, elements);
    };
    rounds.push_back({.lanes = lanes,
                      .values = tile("values", key_, width()),
                      .places = tile("places", Dtype::uint32, width()),
                      .keys = tile("keys", key_, joined * width()),
                      .candidates = tile("candidates", Dtype::uint32, joined * width()),
                      .found = tile("found", Dtype::uint32, width())});
  }
  const std::int64_t full = shape_.cols / chunk_, rest = shape_.cols % chunk_;
  const auto winners = [&](const Round& round, std::int16_t of) { return on_chip_tile(of, round.lanes, width()); };

  builder.nest("offsets");
  builder.emit({.opcode = Opcode::iota,
                .dst = on_chip_tile(offsets, partitions_, width()),
                .src = {hbm_tile(-1, partitions_, chunk_, {{width(), 0}})}});
  builder.nest("rows");
  builder.parallel_loop(shape_.rows, [&](const Index& row) {
    const Tile all = on_chip_tile(keys, partitions_, chunk_);
    if (full < partitions_) {
      builder.memset(all, shape_.ascending ? kInfinity : -kInfinity);
    }
    builder.dma(on_chip_tile(keys, full, chunk_), hbm_tile(in, full, chunk_, {{chunk_, 1}}, row * shape_.cols));
    if (rest > 0) {
      Tile last = on_chip_tile(keys, 1, rest);
      last.start_partition = full;
      builder.dma(last, hbm_tile(in, 1, 0, {{rest, 1}}, row * shape_.cols + Index(full * chunk_)));
    }
    turn_around(builder, all, shape_.ascending);
    take_largest(builder, all, first.values, first.places, num_passes());
    const Tile places = winners(first, first.places);
    builder.tensor_tensor(places, places, on_chip_tile(offsets, partitions_, width()), Alu::add);
    const Round* before = &first;
    for (const Round& next : rounds) {
      const std::int64_t met = before->lanes / next.lanes * width();
      const Tile values = on_chip_tile(next.keys, next.lanes, met);
      const Tile candidates = on_chip_tile(next.candidates, next.lanes, met);
      builder.dma(values, winners(*before, before->values));
      builder.dma(candidates, winners(*before, before->places));
      take_largest(builder, values, next.values, next.found, num_passes());
      builder.emit({.opcode = Opcode::nc_n_gather,
                    .dst = winners(next, next.places),
                    .src = {candidates, winners(next, next.found)}});
      before = &next;
    }
    const Tile best = on_chip_tile(before->values, 1, shape_.k);
    turn_around(builder, best, shape_.ascending);
    store(best, on_chip_tile(before->places, 1, shape_.k), row);
  });
}

}  // namespace trn::kernels
