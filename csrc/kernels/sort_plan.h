// How a sort is laid out: its keys, and the network that a row passes through.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/tiling.h"

namespace trn::kernels {

inline constexpr std::int64_t kPass = 8;              // max8 and its companions work on eight values
inline constexpr std::int64_t kMostSearched = 16384;  // elements of a partition, by these
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The least finite value. TensorE before NeuronCore-v3 turns others' columns into NaN when it moves an infinity.
inline float lowest(Dtype dtype) {
  switch (dtype) {
    case Dtype::bfloat16:
      return -0x1.FEp127F;
    case Dtype::float16:
      return -65504.0F;
    default:
      return std::numeric_limits<float>::lowest();
  }
}

// Keys of whole numbers, and of one byte, are searched and compared in fp32.
inline Dtype key_dtype(Dtype dtype) {
  const bool is_wide = dtype < Dtype::int8 && target::itemsize(dtype) > 1;
  return is_wide ? tiling::sbuf_dtype(dtype) : Dtype::float32;
}

// The kernels sort in descending order: ascending keys change their sign before and after.
inline void turn_around(tiling::Builder& builder, const tiling::Tile& keys, bool ascending) {
  if (ascending) {
    builder.tensor_scalar(keys, keys, target::Alu::multiply, -1);
  }
}

// A row padded to a power of two, and where it lies. `spread`: over all partitions, one row at a time; else a row per
// partition. `chunks`: parts of a row that pass through SBUF one after the other, 1 when it fits.
struct Network {
  std::int64_t padded = 1, width = 1, chunks = 1;  // width: elements per partition
  int levels = 0;                                  // log2(padded)
  bool spread = false;

  std::int64_t num_steps() const { return std::int64_t{levels} * (levels + 1) / 2; }
};

inline int log2_of(std::int64_t power) {
  int log = 0;
  while ((std::int64_t{1} << log) < power) {
    ++log;
  }
  return log;
}

}  // namespace trn::kernels
