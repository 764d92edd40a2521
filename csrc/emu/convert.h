// Conversions between stored element types and fp32, rounding to nearest even.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "target/dtype.h"

namespace trn::emu {

using target::Dtype;

// A binary float of 1 + Exponent + Mantissa bits. Finite: no infinity, only the last code is NaN
// (OCP e4m3fn), and what is too large saturates, as in PyTorch.
template <int Exponent, int Mantissa, bool Finite = false>
struct SmallFloat {
  static constexpr int kBias = (1 << (Exponent - 1)) - 1;
  static constexpr std::uint32_t kExponentMask = (1U << Exponent) - 1;
  static constexpr std::uint32_t kMantissaMask = (1U << Mantissa) - 1;
  static constexpr std::uint32_t kInfinity = kExponentMask << Mantissa;
  static constexpr std::uint32_t kNan = Finite ? kInfinity | kMantissaMask : kInfinity | (1U << (Mantissa - 1));
  static constexpr std::uint32_t kLargest = Finite ? kNan - 1 : kInfinity - 1;

  static float decode(std::uint32_t bits) {
    const float sign = (bits >> (Exponent + Mantissa)) & 1 ? -1.0F : 1.0F;
    const std::uint32_t magnitude = bits & (kInfinity | kMantissaMask);
    const std::uint32_t exponent = magnitude >> Mantissa;
    const auto mantissa = static_cast<float>(magnitude & kMantissaMask);
    if (Finite ? magnitude == kNan : magnitude > kInfinity) {
      return std::numeric_limits<float>::quiet_NaN();
    }
    if (!Finite && magnitude == kInfinity) {
      return sign * std::numeric_limits<float>::infinity();
    }
    if (exponent == 0) {
      return sign * std::ldexp(mantissa, 1 - kBias - Mantissa);
    }
    return sign *
           std::ldexp(mantissa + static_cast<float>(1 << Mantissa), static_cast<int>(exponent) - kBias - Mantissa);
  }

  static std::uint32_t encode(float value) {
    const std::uint32_t sign = (std::signbit(value) ? 1U : 0U) << (Exponent + Mantissa);
    if (std::isnan(value)) {
      return sign | kNan;
    }
    const float magnitude = std::fabs(value);
    if (std::isinf(magnitude)) {
      return sign | (Finite ? kLargest : kInfinity);
    }
    if (magnitude == 0) {
      return sign;
    }
    // In units of the last place, one code is one step: nearbyint rounds ties to even, and carries into the exponent.
    const int exponent = std::max(std::ilogb(magnitude), 1 - kBias);
    const auto steps = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(magnitude, Mantissa - exponent)));
    const std::uint32_t code = (static_cast<std::uint32_t>(exponent + kBias - 1) << Mantissa) + steps;
    return sign | (code > kLargest ? (Finite ? kLargest : kInfinity) : code);
  }
};

using Float16 = SmallFloat<5, 10>;
using Float8E4M3 = SmallFloat<4, 3>;
using Float8E4M3FN = SmallFloat<4, 3, true>;
using Float8E5M2 = SmallFloat<5, 2>;

inline float bfloat16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

inline std::uint16_t float_to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) {
    return static_cast<std::uint16_t>((bits >> 16) | 0x40);
  }
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// Towards zero; what does not fit, and NaN, becomes the lowest value of a signed 32-bit integer (facts 2, ceil and
// trunc of infinity) and the nearest bound of any other type.
template <class Integer>
Integer float_to_integer(float value) {
  using Limits = std::numeric_limits<Integer>;
  const bool too_low = std::isnan(value) || value < static_cast<float>(Limits::min());
  const bool too_high = value >= std::ldexp(1.0F, Limits::digits);
  if (too_low || (too_high && std::is_same_v<Integer, std::int32_t>)) {
    return Limits::min();
  }
  return too_high ? Limits::max() : static_cast<Integer>(value);
}

template <class T>
T load_as(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
void store_as(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

inline bool is_integer(Dtype dtype) {
  return (dtype >= Dtype::int8 && dtype <= Dtype::uint64) || dtype == Dtype::boolean;
}

inline float load_float(const std::byte* from, Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return load_as<float>(from);
    case Dtype::float64:
      return static_cast<float>(load_as<double>(from));
    case Dtype::bfloat16:
      return bfloat16_to_float(load_as<std::uint16_t>(from));
    case Dtype::float16:
      return Float16::decode(load_as<std::uint16_t>(from));
    case Dtype::float8_e4m3:
      return Float8E4M3::decode(load_as<std::uint8_t>(from));
    case Dtype::float8_e4m3fn:
      return Float8E4M3FN::decode(load_as<std::uint8_t>(from));
    case Dtype::float8_e5m2:
      return Float8E5M2::decode(load_as<std::uint8_t>(from));
    case Dtype::int8:
      return load_as<std::int8_t>(from);
    case Dtype::int16:
      return load_as<std::int16_t>(from);
    case Dtype::int32:
      return static_cast<float>(load_as<std::int32_t>(from));
    case Dtype::int64:
      return static_cast<float>(load_as<std::int64_t>(from));
    case Dtype::uint8:
    case Dtype::boolean:
      return load_as<std::uint8_t>(from);
    case Dtype::uint16:
      return load_as<std::uint16_t>(from);
    case Dtype::uint32:
      return static_cast<float>(load_as<std::uint32_t>(from));
    case Dtype::uint64:
      return static_cast<float>(load_as<std::uint64_t>(from));
    default:
      return std::numeric_limits<float>::quiet_NaN();
  }
}

inline void store_float(std::byte* to, Dtype dtype, float value) {
  switch (dtype) {
    case Dtype::float32:
      return store_as(to, value);
    case Dtype::float64:
      return store_as(to, static_cast<double>(value));
    case Dtype::bfloat16:
      return store_as(to, float_to_bfloat16(value));
    case Dtype::float16:
      return store_as(to, static_cast<std::uint16_t>(Float16::encode(value)));
    case Dtype::float8_e4m3:
      return store_as(to, static_cast<std::uint8_t>(Float8E4M3::encode(value)));
    case Dtype::float8_e4m3fn:
      return store_as(to, static_cast<std::uint8_t>(Float8E4M3FN::encode(value)));
    case Dtype::float8_e5m2:
      return store_as(to, static_cast<std::uint8_t>(Float8E5M2::encode(value)));
    case Dtype::int8:
      return store_as(to, float_to_integer<std::int8_t>(value));
    case Dtype::int16:
      return store_as(to, float_to_integer<std::int16_t>(value));
    case Dtype::int32:
      return store_as(to, float_to_integer<std::int32_t>(value));
    case Dtype::int64:
      return store_as(to, float_to_integer<std::int64_t>(value));
    case Dtype::uint8:
      return store_as(to, float_to_integer<std::uint8_t>(value));
    case Dtype::uint16:
      return store_as(to, float_to_integer<std::uint16_t>(value));
    case Dtype::uint32:
      return store_as(to, float_to_integer<std::uint32_t>(value));
    case Dtype::uint64:
      return store_as(to, float_to_integer<std::uint64_t>(value));
    case Dtype::boolean:
      return store_as(to, static_cast<std::uint8_t>(value != 0));
    default:
      return;
  }
}

// Integers as integers: what DMA and the bitwise operations see. Narrowing keeps the low bits.
inline std::int64_t load_integer(const std::byte* from, Dtype dtype) {
  switch (dtype) {
    case Dtype::int8:
      return load_as<std::int8_t>(from);
    case Dtype::int16:
      return load_as<std::int16_t>(from);
    case Dtype::int32:
      return load_as<std::int32_t>(from);
    case Dtype::int64:
    case Dtype::uint64:
      return load_as<std::int64_t>(from);
    case Dtype::uint8:
    case Dtype::boolean:
      return load_as<std::uint8_t>(from);
    case Dtype::uint16:
      return load_as<std::uint16_t>(from);
    case Dtype::uint32:
      return load_as<std::uint32_t>(from);
    default:
      return static_cast<std::int64_t>(load_float(from, dtype));
  }
}

inline void store_integer(std::byte* to, Dtype dtype, std::int64_t value) {
  switch (dtype) {
    case Dtype::boolean:
      return store_as(to, static_cast<std::uint8_t>(value != 0));
    case Dtype::int8:
    case Dtype::uint8:
      return store_as(to, static_cast<std::uint8_t>(value));
    case Dtype::int16:
    case Dtype::uint16:
      return store_as(to, static_cast<std::uint16_t>(value));
    case Dtype::int32:
    case Dtype::uint32:
      return store_as(to, static_cast<std::uint32_t>(value));
    case Dtype::int64:
    case Dtype::uint64:
      return store_as(to, value);
    default:
      return store_float(to, dtype, static_cast<float>(value));
  }
}

}  // namespace trn::emu
