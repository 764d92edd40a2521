// Streams flat tensors of different sizes in step: each trip takes the same share of every one.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/tiling.h"

namespace trn::kernels::tiling {

// One nest: `trips` tiles of [partitions, free[i]] of tensor i, from element first[i]. A share may be 0 elements.
struct Round {
  std::string name;
  std::int64_t trips = 0, partitions = 0;
  std::vector<std::int64_t> first, free;
};

// Covers every tensor exactly: rounds of full partitions until each has less than one element per partition left, then
// a tail on one partition. No share of a full round is wider than `free_elements`.
std::vector<Round> share(const target::Target& target, const std::vector<std::int64_t>& sizes,
                         std::int64_t free_elements);

// The widest share of tensor i.
std::int64_t widest(const std::vector<Round>& rounds, std::size_t i);

// body(const std::vector<StreamTile>&) emits the instructions of one trip.
template <std::invocable<const std::vector<StreamTile>&> Body>
void stream_together(Builder& builder, const std::vector<Round>& rounds, Body body) {
  for (const Round& round : rounds) {
    builder.nest(round.name);
    builder.parallel_loop(round.trips, [&](const Index& trip) {
      std::vector<StreamTile> tiles;
      for (std::size_t i = 0; i < round.free.size(); ++i) {
        tiles.push_back(
            {round.partitions, round.free[i], trip * (round.partitions * round.free[i]) + Index(round.first[i])});
      }
      body(tiles);
    });
  }
}

}  // namespace trn::kernels::tiling
