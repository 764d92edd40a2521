// Block-scaled formats: groups of 8 partitions x 4 values share a power of two (OCP microscaling, NeuronCore-v4).
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "emu/convert.h"
#include "emu/view.h"

namespace trn::emu {

inline constexpr std::int64_t kScaledPartitions = 8, kPacked = 4, kQuadrant = 32;

inline bool is_block_scaled(Dtype dtype) {
  return dtype >= Dtype::float8_e5m2_x4 && dtype <= Dtype::float4_e2m1fn_x4;
}

// e8m0: 2^(code - 127), 255 is NaN.
inline float decode_scale(std::uint8_t code) {
  return code == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0F, code - 127);
}

// Where the scales of a tile's partitions lie: four partitions of each quadrant's beginning, from the scale tile's own
// first partition on.
inline std::int64_t scale_row(std::int64_t partition) {
  return partition / kQuadrant * kQuadrant + partition % kQuadrant / kScaledPartitions;
}

// The four values of one packed element.
inline std::array<float, kPacked> unpack(Dtype dtype, const std::byte* from) {
  constexpr float kFloat4[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  std::array<float, kPacked> values;
  for (std::size_t i = 0; i < kPacked; ++i) {
    if (dtype == Dtype::float4_e2m1fn_x4) {
      const int code = load_as<std::uint16_t>(from) >> (4 * i) & 15;
      values[i] = code & 8 ? -kFloat4[code & 7] : kFloat4[code & 7];
    } else {
      const auto code = load_as<std::uint8_t>(from + i);
      values[i] = dtype == Dtype::float8_e5m2_x4 ? Float8E5M2::decode(code) : Float8E4M3FN::decode(code);
    }
  }
  return values;
}

}  // namespace trn::emu
