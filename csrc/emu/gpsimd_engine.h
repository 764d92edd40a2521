// GpSimdE: what has no element-wise source, indices and random numbers.
#pragma once

#include <cstdint>
#include <string_view>

#include "emu/lanes.h"
#include "emu/view.h"
#include "target/target.h"

namespace trn::emu {

// Element (p, f) of a tile stands for index offset + p * partition_stride + sum(free strides * f).
struct IndexPattern {
  std::int64_t offset = 0, partition_stride = 0;
  Extents free;
};

class GpSimdEngine {
 public:
  explicit GpSimdEngine(const target::Core& core, std::uint64_t seed = 0, const Numerics& numerics = {})
      : core_(core), seed_(seed), lanes_(numerics) {}

  // start + index
  void iota(const View& dst, const IndexPattern& pattern, float start);
  // Uniform in [0, 1), a function of the seed and the index alone: tiling does not change the numbers.
  void rng(const View& dst, const IndexPattern& pattern);

  StochasticBits& bits() { return lanes_.bits(); }

 private:
  // function(indices, n, p) per partition.
  template <class Function>
  void fill(std::string_view where, const View& dst, const IndexPattern& pattern, Function function);

  target::Core core_;
  std::uint64_t seed_;
  Lanes lanes_;
};

}  // namespace trn::emu
