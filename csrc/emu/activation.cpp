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
constexpr auto k2OverSqrtPi = static_cast<float>(2 * std::numbers::inv_sqrtpi);
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TRN_INLINE float softplus(float x) {
  return (x > 0 ? x : 0.0F) + fast_log1p(fast_exp(-std::fabs(x))) + (x != x ? x : 0.0F);
}

TRN_INLINE float normal_cdf(float x) {
  return 0.5F * (1 + fast_erf(x * kInverseSqrt2));
}

// Past the ends of the domain the cubic of the last piece, around pi, goes on: sin(9) = 27.65 (nki.language).
TRN_INLINE float sin_piece(float x) {
  const float beyond = x > 0 ? x - kPi : x + kPi;
  const float cubic = fused(beyond * beyond * beyond, 1.0F / 6.0F, -beyond);
  return std::fabs(x) <= kPi ? fast_sin(x) : cubic;
}

// x^3 + ... of the tanh form, and its derivative.
TRN_INLINE float gelu_tanh(float x) {
  return 0.5F * x * (1 + fast_tanh(kSqrt2OverPi * (x + 0.044715F * x * x * x)));
}

// The documented domain of a function, of the argument's size where it is symmetric.
struct Domain {
  float low = 0, high = std::numeric_limits<float>::infinity();
  bool is_symmetric = false;
};

bool has_domain(Activation function, Domain& domain) {
  switch (function) {
    case Activation::log:
      domain = {0x1p-64F, 0x1p64F};
      return true;
    case Activation::sqrt:
      domain = {0x1p-116F, 0x1p118F};
      return true;
    case Activation::rsqrt:
      domain = {0x1p-87F, 0x1p97F};
      return true;
    case Activation::reciprocal:
      domain = {0x1p-42F, 0x1p42F, true};
      return true;
    case Activation::arctan:
      domain = {0, kPi / 2, true};
      return true;
    default:
      return false;
  }
}

// Arguments past the ends of a domain; a negative one of a function that has none stays what it is, as NaN does.
void bound(const Domain& domain, OutsideDomain outside, float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float size = domain.is_symmetric ? std::fabs(x[i]) : x[i];
    if (!(size < domain.low || size > domain.high) || size < 0) {
      continue;
    }
    const float end = std::copysign(size < domain.low ? domain.low : domain.high, x[i]);
    x[i] = outside == OutsideDomain::clamp ? (domain.is_symmetric ? end : std::fabs(end)) : kNan;
  }
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
    case Activation::gelu_apprx_tanh:
      return run(gelu_tanh);
    case Activation::gelu_apprx_sigmoid:
      return run([](float v) __attribute__((always_inline)) { return v * fast_sigmoid(1.702F * v); });
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
    case Activation::gelu_dx:
      return run([](float v) __attribute__((always_inline)) {
        return normal_cdf(v) + v * kInverseSqrt2Pi * fast_exp(-0.5F * v * v);
      });
    case Activation::gelu_apprx_sigmoid_dx:
      return run([](float v) __attribute__((always_inline)) {
        const float s = fast_sigmoid(1.702F * v);
        return s * (1 + 1.702F * v * (1 - s));
      });
    case Activation::silu_dx:
      return run([](float v) __attribute__((always_inline)) {
        const float s = fast_sigmoid(v);
        return s * (1 + v * (1 - s));
      });
    case Activation::tanh_dx:
      return run([](float v) __attribute__((always_inline)) {
        const float t = fast_tanh(v);
        return 1 - t * t;
      });
    case Activation::erf_dx:
      return run([](float v) __attribute__((always_inline)) { return k2OverSqrtPi * fast_exp(-v * v); });
    case Activation::prelu:
      break;  // has a slope: the engine's own
  }
}

// The same with the arguments brought into the function's domain first.
template <class Input>
bool bounded(Activation function, const Numerics& numerics, const float* x, Input input, float* out, std::int64_t n) {
  Domain domain;
  if (numerics.outside_domains == OutsideDomain::exact || !has_domain(function, domain)) {
    return false;
  }
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = input(x[i], i);
  }
  bound(domain, numerics.outside_domains, out, n);
  loops(function, numerics, out, Plain{}, out, n);
  return true;
}

}  // namespace

TRN_CLONES void evaluate(Activation function, const Numerics& numerics, const float* x, float scale, float bias,
                         float* out, std::int64_t n) {
  if (bounded(function, numerics, x, ScaleBias{scale, bias}, out, n)) {
    return;
  }
  if (scale == 1 && bias == 0) {
    loops(function, numerics, x, Plain{}, out, n);
  } else {
    loops(function, numerics, x, ScaleBias{scale, bias}, out, n);
  }
}

TRN_CLONES void evaluate(Activation function, const Numerics& numerics, const float* x, const float* scale,
                         const float* bias, float* out, std::int64_t n) {
  if (!bounded(function, numerics, x, EachScaleBias{scale, bias}, out, n)) {
    loops(function, numerics, x, EachScaleBias{scale, bias}, out, n);
  }
}

}  // namespace trn::emu
