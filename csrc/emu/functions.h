// Elementary functions of one fp32 value within 2 ULP, without branches or calls, so that loops over them vectorise.
// The coefficients are minimax fits of relative error (Lawson's iteration); fused steps are explicit, so that every
// host gives the same bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "emu/clones.h"

namespace trn::emu {

TRN_INLINE float fused(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}

// c[0] + c[1] x + ...
template <class... Rest>
TRN_INLINE float polynomial(float x, float first, Rest... rest) {
  if constexpr (sizeof...(rest) == 0) {
    return first;
  } else {
    return fused(x, polynomial(x, rest...), first);
  }
}

// Nearest integer of |x| < 2^22, to even.
TRN_INLINE float nearest(float x) {
  constexpr float kShift = 0x1.8p23F;
  return (x + kShift) - kShift;
}

TRN_INLINE float power_of_two(std::int32_t exponent) {  // -126 <= exponent <= 127
  return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
}

TRN_INLINE float fast_exp(float x) {
  constexpr float kLn2High = 0x1.62E4p-1F, kLn2Low = 0x1.7F7D1Cp-20F;
  const float bounded = x > 89.0F ? 89.0F : (x < -104.0F ? -104.0F : x);
  const float k = nearest(bounded * 1.44269504F);
  const float r = fused(k, -kLn2Low, fused(k, -kLn2High, bounded));
  const float p =
      polynomial(r, 4.999999404e-01F, 1.666651517e-01F, 4.166845605e-02F, 8.369418792e-03F, 1.381314243e-03F);
  const float value = fused(r * r, p, r) + 1.0F;
  // In two steps, for results past either end of the normal range.
  const auto exponent = static_cast<std::int32_t>(x == x ? k : 0.0F);
  const std::int32_t half = exponent >> 1;
  const float scaled = value * power_of_two(half) * power_of_two(exponent - half);
  return x == x ? scaled : x;
}

TRN_INLINE float fast_log(float x) {
  constexpr float kLn2High = 0x1.62E4p-1F, kLn2Low = 0x1.7F7D1Cp-20F;
  const bool is_denormal = x < 0x1p-126F;
  const auto bits = std::bit_cast<std::int32_t>(is_denormal ? x * 0x1p23F : x);
  // The exponent that leaves a mantissa in [sqrt(1/2), sqrt(2)).
  const std::int32_t exponent = (bits - 0x3F3504F3) >> 23;
  const float f = std::bit_cast<float>(bits - exponent * (1 << 23)) - 1.0F;
  const float e = static_cast<float>(exponent) - (is_denormal ? 23.0F : 0.0F);
  const float q =
      polynomial(f, 3.333331347e-01F, -2.500000894e-01F, 2.000211924e-01F, -1.666799635e-01F, 1.421955079e-01F,
                 -1.240559146e-01F, 1.188817471e-01F, -1.167564094e-01F, 6.746601313e-02F);
  const float square = f * f;
  const float tail = fused(e, kLn2Low, square * f * q);
  float value = fused(e, kLn2High, f + fused(-0.5F, square, tail));
  value = x == 0 ? -std::numeric_limits<float>::infinity() : value;
  value = x == std::numeric_limits<float>::infinity() ? x : value;
  return x >= 0 ? value : std::numeric_limits<float>::quiet_NaN();
}

// log(1 + y) of y >= 0, with what 1 + y loses put back.
TRN_INLINE float fast_log1p(float y) {
  const float sum = 1.0F + y;
  const float lost = y - (sum - 1.0F);
  return fast_log(sum) + lost / sum;
}

TRN_INLINE float fast_tanh(float x) {
  const float size = std::fabs(x);
  const float square = x * x;
  const float small = fused(x * square,
                            polynomial(square, -3.333333135e-01F, 1.333320588e-01F, -5.394676328e-02F, 2.170070074e-02F,
                                       -8.177394979e-03F, 2.142958809e-03F),
                            x);
  const float large = 1.0F - 2.0F / (fast_exp(2.0F * (size > 10.0F ? 10.0F : size)) + 1.0F);
  return x == x ? std::copysign(size < 0.625F ? small : large, x) : x;
}

TRN_INLINE float fast_sigmoid(float x) {
  return 1.0F / (1.0F + fast_exp(-x));
}

TRN_INLINE float fast_erf(float x) {
  const float size = std::fabs(x);
  const float square = x * x;
  const float small = fused(x,
                            polynomial(square, 1.283791661e-01F, -3.761263192e-01F, 1.128368750e-01F, -2.685894072e-02F,
                                       5.199906416e-03F, -8.130011847e-04F, 8.316772437e-05F),
                            x);
  // 1 - exp(-g), g = -log(erfc) fitted up to 4, where erf is 1.
  const float t = size > 4.0F ? 4.0F : size;
  const float g = polynomial(t, -1.692051301e-04F, 1.129488349e+00F, 6.334008574e-01F, 1.082203835e-01F,
                             -2.508061565e-02F, 4.156254698e-03F, -4.313935642e-04F, 2.082861829e-05F);
  const float large = 1.0F - fast_exp(-g);
  return size < 0.93F ? small : (x == x ? std::copysign(large, x) : x);
}

// Exact to 2 ULP of its own size below 2^15, growing past it.
TRN_INLINE float fast_sin(float x) {
  constexpr float kPi0 = 0x1.921FB6p1F, kPi1 = -0x1.777A5Cp-24F, kPi2 = -0x1.EE59DAp-49F;
  const float k = nearest(x * 0.318309886F);
  const float r = fused(k, -kPi2, fused(k, -kPi1, fused(k, -kPi0, x)));
  const float square = r * r;
  const float value = fused(
      r * square,
      polynomial(square, -1.666666716e-01F, 8.333330974e-03F, -1.984086848e-04F, 2.752538421e-06F, -2.388890685e-08F),
      r);
  const auto odd = static_cast<std::uint32_t>(static_cast<std::int32_t>(std::fabs(k) < 0x1p22F ? k : 0.0F)) & 1U;
  return x == 0 ? x : std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ odd << 31);
}

TRN_INLINE float fast_arctan(float x) {
  const float size = std::fabs(x);
  const bool is_large = size > 1.0F;
  const float t = is_large ? 1.0F / size : size;
  const float square = t * t;
  const float value =
      fused(t * square,
            polynomial(square, -3.333329856e-01F, 1.999854892e-01F, -1.426424086e-01F, 1.095218137e-01F,
                       -8.403436840e-02F, 5.795735866e-02F, -3.117761388e-02F, 1.091448124e-02F, -1.793593867e-03F),
            t);
  return std::copysign(is_large ? 1.57079633F - value : value, x);
}

}  // namespace trn::emu
