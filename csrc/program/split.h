// How the work of a program is split over the physical cores of a device.
#pragma once

#include <cstdint>
#include <vector>

#include "program/program.h"
#include "target/target.h"

namespace trn::program {

// The outermost parallel loop on the way to an instruction is split. Loops of one trip are no loops.
inline bool is_split_here(const Loop& loop) {
  return loop.parallel && loop.trips > 1;
}

// Perfectly nested parallel loops are one: the loops, outermost first.
std::vector<const Loop*> perfectly_nested(const Loop& outer);

struct Split {
  std::int64_t trips = 1;
  std::int64_t rounds = 1;  // trips of the busiest core

  // Cores that are busy on average.
  double speed_up() const { return static_cast<double>(trips) / static_cast<double>(rounds); }
};
Split split(const std::vector<const Loop*>& loops, const target::Device& device);

// Cores that the best split of these items keeps busy on average.
double most_cores(const std::vector<Item>& items, const target::Device& device);

// Whether all on-chip tiles with all their copies fit together: only then do loads run ahead.
bool copies_fit(const Program& program, const target::Core& core);

}  // namespace trn::program
