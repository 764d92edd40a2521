// ScalarE's functions.
#include "emu/scalar_engine.h"

#include <cmath>
#include <numbers>

#include "emu/limits.h"

namespace trn::emu {
namespace {

constexpr auto kInverseSqrt2 = static_cast<float>(1 / std::numbers::sqrt2);
constexpr auto kInverseSqrt2Pi = static_cast<float>(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
constexpr auto kSqrt2OverPi = static_cast<float>(std::numbers::sqrt2 * std::numbers::inv_sqrtpi);

float sigmoid(float x) {
  return 1 / (1 + std::exp(-x));
}
float softplus(float x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}
float normal_cdf(float x) {
  return 0.5F * (1 + std::erf(x * kInverseSqrt2));
}

}  // namespace

float evaluate(Activation function, float x) {
  switch (function) {
    case Activation::copy:
      return x;
    case Activation::square:
      return x * x;
    case Activation::sqrt:
      return std::sqrt(x);
    case Activation::rsqrt:
      return 1 / std::sqrt(x);
    case Activation::reciprocal:
      return 1 / x;
    case Activation::exp:
      return std::exp(x);
    case Activation::log:
      return std::log(x);
    case Activation::sin:
      return std::sin(x);
    case Activation::arctan:
      return std::atan(x);
    case Activation::tanh:
      return std::tanh(x);
    case Activation::sigmoid:
      return sigmoid(x);
    case Activation::erf:
      return std::erf(x);
    case Activation::gelu:
      return x * normal_cdf(x);
    case Activation::gelu_tanh:
      return 0.5F * x * (1 + std::tanh(kSqrt2OverPi * (x + 0.044715F * x * x * x)));
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::softplus:
      return softplus(x);
    case Activation::mish:
      return x * std::tanh(softplus(x));
    case Activation::relu:
      return x > 0 || std::isnan(x) ? x : 0;
    case Activation::abs:
      return std::fabs(x);
    case Activation::sign:
      return x > 0 ? 1 : x < 0 ? -1 : x;
    case Activation::gelu_grad:
      return normal_cdf(x) + x * kInverseSqrt2Pi * std::exp(-0.5F * x * x);
    case Activation::silu_grad: {
      const float s = sigmoid(x);
      return s * (1 + x * (1 - s));
    }
    case Activation::tanh_grad: {
      const float t = std::tanh(x);
      return 1 - t * t;
    }
  }
  return x;
}

void ScalarEngine::activation(const View& dst, const View& x, Activation function, float scale, float bias) {
  require_operand("activation", core_, dst, dst);
  require_operand("activation", core_, x, dst);
  row_.resize(static_cast<std::size_t>(dst.free_elements()));
  const bool is_plain = function == Activation::copy && scale == 1 && bias == 0;
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    read_row(x, p, row_.data());
    if (!is_plain) {
      for (float& value : row_) {
        value = evaluate(function, scale * value + bias);
      }
    }
    write_row(dst, p, row_.data());
  }
}

}  // namespace trn::emu
