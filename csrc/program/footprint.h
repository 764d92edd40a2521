// The bytes of a buffer that a tile covers at one place of its loops.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "program/program.h"

namespace trn::program {

// On the chip: bytes of each partition's row. In HBM: bytes of the buffer, with no partitions of their own.
struct Footprint {
  std::int64_t first_partition = 0, num_partitions = 1;
  std::int64_t begin = 0, end = 0;  // bytes, end exclusive
  std::int64_t run_bytes = 0;       // contiguous ones
  std::vector<Dim> dims = {};       // of runs, strides in bytes, outermost first; empty: one run

  bool operator==(const Footprint& other) const = default;
};
inline bool operator==(const Dim& a, const Dim& b) {
  return a.size == b.size && a.stride == b.stride;
}

Footprint footprint(const Program& program, const Tile& tile, std::span<const std::int64_t> indices);

// Whether they share a byte. Exact, but for HBM footprints that interleave over more than 64 MiB: those do.
bool overlaps(const Footprint& a, const Footprint& b);

}  // namespace trn::program
