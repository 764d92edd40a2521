// Conversions of single values between stored element types and fp32, without branches, so that loops over them
// vectorise.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "emu/clones.h"
#include "target/dtype.h"

namespace trn::emu {

using target::Dtype;

// A binary float of 1 + Exponent + Mantissa bits. Finite: no infinity, only the last code is NaN
// (OCP e4m3fn), and what is too large saturates, as in PyTorch.
template <int Exponent, int Mantissa, bool Finite = false>
struct SmallFloat {
  using Bits = std::conditional_t<(Exponent + Mantissa > 7), std::uint16_t, std::uint8_t>;
  static constexpr int kBias = (1 << (Exponent - 1)) - 1;
  static constexpr int kShift = 23 - Mantissa;
  static constexpr std::uint32_t kMantissaMask = (1U << Mantissa) - 1;
  static constexpr std::uint32_t kInfinity = ((1U << Exponent) - 1) << Mantissa;
  static constexpr std::uint32_t kNan = Finite ? kInfinity | kMantissaMask : kInfinity | (1U << (Mantissa - 1));
  static constexpr std::uint32_t kLargest = Finite ? kNan - 1 : kInfinity - 1;
  static constexpr std::uint32_t kOverflow = Finite ? kLargest : kInfinity;
  static constexpr std::uint32_t kRebias = static_cast<std::uint32_t>(127 - kBias);
  static constexpr std::uint32_t kLeastNormal = (kRebias + 1) << 23;  // as fp32
  // In fp32, the last place of this value is the last place of our denormals.
  static constexpr std::uint32_t kDenormalUnit = (kRebias + 1 + 23 - Mantissa) << 23;

  static TRN_INLINE float decode(std::uint32_t bits) {
    const std::uint32_t sign = (bits >> (Exponent + Mantissa) & 1) << 31;
    const std::uint32_t magnitude = bits & (kInfinity | kMantissaMask);
    const std::uint32_t shifted = magnitude << kShift;
    const std::uint32_t normal = shifted + (kRebias << 23);
    const std::uint32_t denormal =
        std::bit_cast<std::uint32_t>(std::bit_cast<float>(shifted | kLeastNormal) - std::bit_cast<float>(kLeastNormal));
    std::uint32_t value = magnitude <= kMantissaMask ? denormal : normal;
    if constexpr (Finite) {
      value = magnitude == kNan ? 0x7FC00000U : value;
    } else {
      value = magnitude >= kInfinity ? 0x7F800000U | shifted : value;
    }
    return std::bit_cast<float>(value | sign);
  }

  static TRN_INLINE Bits finish(std::uint32_t code, std::uint32_t magnitude, std::uint32_t bits) {
    code = code > kLargest ? kOverflow : code;
    code = magnitude > 0x7F800000U ? kNan : code;
    return static_cast<Bits>(code | (bits >> 31) << (Exponent + Mantissa));
  }

  // To nearest even.
  static TRN_INLINE Bits encode(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
    const std::uint32_t half = (1U << (kShift - 1)) - 1 + (magnitude >> kShift & 1);
    const std::uint32_t normal = ((magnitude + half) >> kShift) - (kRebias << Mantissa);
    const float unit = std::bit_cast<float>(kDenormalUnit);
    const std::uint32_t denormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + unit) - kDenormalUnit;
    return finish(magnitude < kLeastNormal ? denormal : normal, magnitude, bits);
  }

  // Up with a probability of the distance, by 23 random bits.
  static TRN_INLINE Bits encode(float value, std::uint32_t random) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
    const std::uint32_t normal = ((magnitude + (random & ((1U << kShift) - 1))) >> kShift) - (kRebias << Mantissa);
    const bool is_denormal = magnitude < kLeastNormal;
    const float steps = (is_denormal ? std::bit_cast<float>(magnitude) : 0.0F) *
                        std::bit_cast<float>(static_cast<std::uint32_t>(127 + kBias - 1 + Mantissa) << 23);
    const auto denormal =
        static_cast<std::uint32_t>(static_cast<std::int32_t>(steps + static_cast<float>(random >> 9) * 0x1p-23F));
    return finish(is_denormal ? denormal : normal, magnitude, bits);
  }
};

using Float16 = SmallFloat<5, 10>;
using Float8E4M3 = SmallFloat<4, 3>;
using Float8E4M3FN = SmallFloat<4, 3, true>;
using Float8E5M2 = SmallFloat<5, 2>;
using Float8E3M4 = SmallFloat<3, 4>;

struct BFloat16 {
  using Bits = std::uint16_t;
  static TRN_INLINE float decode(std::uint32_t bits) { return std::bit_cast<float>(bits << 16); }
  static TRN_INLINE Bits quieted(std::uint32_t rounded, std::uint32_t bits) {
    return static_cast<Bits>((bits & 0x7FFFFFFFU) > 0x7F800000U ? (bits >> 16) | 0x40 : rounded >> 16);
  }
  static TRN_INLINE Bits encode(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return quieted(bits + 0x7FFF + (bits >> 16 & 1), bits);
  }
  static TRN_INLINE Bits encode(float value, std::uint32_t random) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const bool is_infinite = (bits & 0x7FFFFFFFU) == 0x7F800000U;
    return quieted(bits + (is_infinite ? 0 : random & 0xFFFF), bits);
  }
};

// fp32 whose last 13 bits are zero.
struct TFloat32 {
  using Bits = std::uint32_t;
  static TRN_INLINE float decode(std::uint32_t bits) { return std::bit_cast<float>(bits); }
  static TRN_INLINE Bits encode(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFFU;
    return (bits & 0x7FFFFFFFU) > 0x7F800000U ? bits | 0x400000 : rounded;
  }
};

// Towards zero; what does not fit, and NaN, becomes the lowest value of a signed 32-bit integer (TorchNeuron's tests:
// ceil and trunc of infinity). Of any other type it becomes the nearest bound, and NaN the lower one.
template <class Integer>
TRN_INLINE Integer float_to_integer(float value) {
  using Limits = std::numeric_limits<Integer>;
  constexpr float kBelow = static_cast<float>(Limits::min());
  constexpr float kAbove = static_cast<float>(Limits::max() / 2 + 1) * 2;
  const bool fits = value >= kBelow && value < kAbove;
  const bool too_high = value >= kAbove && !std::is_same_v<Integer, std::int32_t>;
  const float safe = fits ? value : 0.0F;
  const auto whole = [&] {
    if constexpr (sizeof(Integer) < 4) {
      return static_cast<Integer>(static_cast<std::int32_t>(safe));
    } else {
      return static_cast<Integer>(safe);
    }
  }();
  return fits ? whole : (too_high ? Limits::max() : Limits::min());
}

template <class T>
TRN_INLINE T load_as(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
TRN_INLINE void store_as(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

inline bool is_integer(Dtype dtype) {
  return (dtype >= Dtype::int8 && dtype <= Dtype::uint64) || dtype == Dtype::boolean;
}

}  // namespace trn::emu
