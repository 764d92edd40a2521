// Counting a Program without walking its loops, and the device time that follows from the counts.
#pragma once

#include <array>
#include <cstdint>
#include <map>

#include "program/program.h"
#include "target/target.h"

namespace trn::program {

struct Counts {
  std::array<std::int64_t, kNumEngines> instructions{};
  std::array<std::int64_t, kNumEngines> busy_cycles{};  // each engine's own clock; dma: 0
  std::map<Dtype, std::int64_t> hardware_flops;         // TensorE, by the moving operand's dtype, padding included
  std::int64_t transpose_flops = 0;                     // the part of hardware_flops that only moved data
  std::int64_t hbm_read_bytes = 0;
  std::int64_t hbm_write_bytes = 0;
  std::int64_t dma_transfers = 0;
  std::int64_t dma_descriptors = 0;  // contiguous runs
  std::int64_t sbuf_read_bytes = 0;
  std::int64_t sbuf_write_bytes = 0;
  std::int64_t psum_read_bytes = 0;
  std::int64_t psum_write_bytes = 0;

  Counts& operator+=(const Counts& other);
  bool operator==(const Counts& other) const = default;
};

// Exact integers. O(distinct instructions), never O(trips).
Counts count(const Program& program, const target::Core& core);

// Device time of one launch, from the slowest of engines and DMA in each nest, fill and drain added.
struct Duration {
  double seconds = 0;
  std::array<double, kNumEngines> busy_seconds{};  // summed over nests, per physical core
  Engine bound_by = Engine::dma;                   // dma stands for HBM traffic
};
Duration duration(const Program& program, const target::Target& target);
// The one of less duration; the first of equals.
Program faster(Program first, Program second, const target::Target& target);

}  // namespace trn::program
