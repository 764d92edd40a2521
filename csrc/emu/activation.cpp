// One loop per function.
#include "emu/activation.h"

#include <cmath>
#include <limits>
#include <numbers>

#include "emu/clones.h"
#include "emu/functions.h"

namespace trn::emu {
namespace {

constexpr auto kPi = static_cast<float>(std::numbers::pi);
constexpr auto kInverseSqrt2 = static_cast<float>(1 / std::numbers::sqrt2);
constexpr auto kInverseSqrt2Pi = static_cast<float>(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
constexpr auto kSqrt2OverPi = static_cast<float>(std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TRN_INLINE float softplus(float x) {
  return (x > 0 ? x : 0.0F) + fast_log1p(fast_exp(-std::fabs(x))) + (x != x ? x : 0.0F);
}

TRN_INLINE float normal_cdf(float x) {
  return 0.5F * (1 + fast_erf(x * kInverseSqrt2));
}

// Past the ends of the domain the cubic of the last piece, around pi, goes on: sin(9) = 27.65 (facts 2).
TRN_INLINE float sin_piece(float x) {
  const float beyond = x > 0 ? x - kPi : x + kPi;
  const float cubic = fused(beyond * beyond * beyond, 1.0F / 6.0F, -beyond);
  return std::fabs(x) <= kPi ? fast_sin(x) : cubic;
}

// x^3 + ... of the tanh form, and its derivative.
TRN_INLINE float gelu_tanh(float x) {
  return 0.5F * x * (1 + fast_tanh(kSqrt2OverPi * (x + 0.044715F * x * x * x)));
}

struct ScaleBias {
  float scale, bias;
  TRN_INLINE float operator()(float x, std::int64_t) const { return scale * x + bias; }
};
struct Plain {
  TRN_INLINE float operator()(float x, std::int64_t) const { return x; }
};
struct EachScaleBias {
  const float *scale, *bias;
  TRN_INLINE float operator()(float x, std::int64_t i) const { return scale[i] * x + bias[i]; }
};

template <class Input>
TRN_INLINE void loops(Activation function, const Numerics& numerics, const float* x, Input input, float* out,
                      std::int64_t n) {
  auto run = [&](auto value) __attribute__((always_inline)) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) {
      out[i] = value(input(x[i], i));
    }
  };
  switch (function) {
    case Activation::copy:
      return run([](float v) __attribute__((always_inline)) { return v; });
    case Activation::square:
      return run([](float v) __attribute__((always_inline)) { return v * v; });
    case Activation::sqrt:
      return run([](float v) __attribute__((always_inline)) { return std::sqrt(v); });
    case Activation::rsqrt:
      if (numerics.rsqrt_zero_is_nan) {
        return run([](float v) __attribute__((always_inline)) { return v == 0 ? kNan : 1 / std::sqrt(v); });
      }
      return run([](float v) __attribute__((always_inline)) { return 1 / std::sqrt(v); });
    case Activation::reciprocal:
      return run([](float v) __attribute__((always_inline)) { return 1 / v; });
    case Activation::exp:
      return run(fast_exp);
    case Activation::log:
      return run(fast_log);
    case Activation::sin:
      if (numerics.activation_domains) {
        return run(sin_piece);
      }
      return run(fast_sin);
    case Activation::arctan:
      return run(fast_arctan);
    case Activation::tanh:
      return run(fast_tanh);
    case Activation::sigmoid:
      return run(fast_sigmoid);
    case Activation::erf:
      return run(fast_erf);
    case Activation::gelu:
      return run([](float v) __attribute__((always_inline)) { return v * normal_cdf(v); });
    case Activation::gelu_tanh:
      return run(gelu_tanh);
    case Activation::silu:
      return run([](float v) __attribute__((always_inline)) { return v * fast_sigmoid(v); });
    case Activation::softplus:
      return run(softplus);
    case Activation::mish:
      return run([](float v) __attribute__((always_inline)) { return v * fast_tanh(softplus(v)); });
    case Activation::relu:
      if (numerics.relu_nan_is_zero) {
        return run([](float v) __attribute__((always_inline)) { return v > 0 ? v : 0.0F; });
      }
      return run([](float v) __attribute__((always_inline)) { return v < 0 ? 0.0F : v; });
    case Activation::abs:
      return run([](float v) __attribute__((always_inline)) { return std::fabs(v); });
    case Activation::sign:
      if (numerics.sign_nan_is_nan) {
        return run([](float v) __attribute__((always_inline)) { return v > 0 ? 1.0F : (v < 0 ? -1.0F : v); });
      }
      return run([](float v) __attribute__((always_inline)) { return v > 0 ? 1.0F : (v < 0 ? -1.0F : 0.0F); });
    case Activation::gelu_grad:
      return run([](float v) __attribute__((always_inline)) {
        return normal_cdf(v) + v * kInverseSqrt2Pi * fast_exp(-0.5F * v * v);
      });
    case Activation::silu_grad:
      return run([](float v) __attribute__((always_inline)) {
        const float s = fast_sigmoid(v);
        return s * (1 + v * (1 - s));
      });
    case Activation::tanh_grad:
      return run([](float v) __attribute__((always_inline)) {
        const float t = fast_tanh(v);
        return 1 - t * t;
      });
  }
}

}  // namespace

TRN_CLONES void evaluate(Activation function, const Numerics& numerics, const float* x, float scale, float bias,
                         float* out, std::int64_t n) {
  if (scale == 1 && bias == 0) {
    loops(function, numerics, x, Plain{}, out, n);
  } else {
    loops(function, numerics, x, ScaleBias{scale, bias}, out, n);
  }
}

TRN_CLONES void evaluate(Activation function, const Numerics& numerics, const float* x, const float* scale,
                         const float* bias, float* out, std::int64_t n) {
  loops(function, numerics, x, EachScaleBias{scale, bias}, out, n);
}

}  // namespace trn::emu
