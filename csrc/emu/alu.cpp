// One loop per operation and kind of operand.
#include "emu/alu.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "emu/clones.h"
#include "target/error.h"

namespace trn::emu {
namespace {

// An operand of a loop: n elements, or one for all.
template <class T>
struct Each {
  const T* at;
  TRN_INLINE T operator[](std::int64_t i) const { return at[i]; }
};
template <class T>
struct Same {
  T value;
  TRN_INLINE T operator[](std::int64_t) const { return value; }
};

// NaN wins, as it does in PyTorch.
TRN_INLINE float larger(float x, float y) {
  return x > y || x != x ? x : y;
}
TRN_INLINE float smaller(float x, float y) {
  return x < y || x != x ? x : y;
}
TRN_INLINE float larger_size(float x, float y) {
  return std::fabs(x) > std::fabs(y) ? x : y;
}
TRN_INLINE float smaller_size(float x, float y) {
  return std::fabs(x) < std::fabs(y) ? x : y;
}
TRN_INLINE float truth(bool value) {
  return value ? 1.0F : 0.0F;
}

float modulo(float x, float y) {
  const float rest = std::fmod(x, y);
  return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
}

template <class A, class B>
void power(A a, B b, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = std::pow(a[i], b[i]);
  }
}

[[noreturn]] void refuse(const char* rule, Alu alu, const char* of, const char* fix) {
  throw Error(Category::internal,
              std::string("[alu] ") + rule + "; got " + std::string(target::name(alu)) + " of " + of + ". " + fix);
}

template <class A, class B>
TRN_INLINE void arithmetic(Alu alu, A a, B b, float* out, std::int64_t n) {
  auto run = [&](auto function) __attribute__((always_inline)) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) {
      out[i] = function(a[i], b[i]);
    }
  };
  switch (alu) {
    case Alu::none:
      return run([](float x, float) { return x; });
    case Alu::add:
      return run([](float x, float y) { return x + y; });
    case Alu::subtract:
      return run([](float x, float y) { return x - y; });
    case Alu::multiply:
      return run([](float x, float y) { return x * y; });
    case Alu::divide:
      return run([](float x, float y) { return x / y; });
    case Alu::maximum:
      return run(larger);
    case Alu::minimum:
      return run(smaller);
    case Alu::power:
      return power(a, b, out, n);
    case Alu::modulo:
      return run(modulo);
    case Alu::abs_max:
      return run(larger_size);
    case Alu::abs_min:
      return run(smaller_size);
    case Alu::logical_and:
      return run([](float x, float y) { return truth(x != 0 && y != 0); });
    case Alu::logical_or:
      return run([](float x, float y) { return truth(x != 0 || y != 0); });
    case Alu::logical_xor:
      return run([](float x, float y) { return truth((x != 0) != (y != 0)); });
    case Alu::equal:
      return run([](float x, float y) { return truth(x == y); });
    case Alu::not_equal:
      return run([](float x, float y) { return truth(x != y); });
    case Alu::less:
      return run([](float x, float y) { return truth(x < y); });
    case Alu::less_equal:
      return run([](float x, float y) { return truth(x <= y); });
    case Alu::greater:
      return run([](float x, float y) { return truth(x > y); });
    case Alu::greater_equal:
      return run([](float x, float y) { return truth(x >= y); });
    case Alu::abs:
      return run([](float x, float) { return std::fabs(x); });
    case Alu::reciprocal:
      return run([](float x, float) { return 1.0F / x; });
    case Alu::rsqrt:
      return run([](float x, float) { return 1.0F / std::sqrt(x); });
    case Alu::square:
      return run([](float x, float) { return x * x; });
    case Alu::relu:
      return run([](float x, float) { return larger(x, 0.0F); });
    default:
      refuse("bitwise operations take integers", alu, "float32", "Use integer tiles.");
  }
}

template <class A, class B>
TRN_INLINE void integer(Alu alu, A a, B b, std::int64_t* out, std::int64_t n) {
  using Int = std::int64_t;
  using Bits = std::uint64_t;
  auto run = [&](auto function) __attribute__((always_inline)) {
#pragma GCC ivdep
    for (Int i = 0; i < n; ++i) {
      out[i] = function(a[i], b[i]);
    }
  };
  switch (alu) {
    case Alu::bitwise_and:
      return run([](Int x, Int y) { return x & y; });
    case Alu::bitwise_or:
      return run([](Int x, Int y) { return x | y; });
    case Alu::bitwise_xor:
      return run([](Int x, Int y) { return x ^ y; });
    case Alu::invert:
      return run([](Int x, Int) { return ~x; });
    case Alu::left_shift:
      return run([](Int x, Int y) { return y < 0 || y > 31 ? Int{0} : x << y; });
    case Alu::right_shift:
      return run([](Int x, Int y) { return y < 0 || y > 31 ? (x < 0 ? Int{-1} : Int{0}) : x >> y; });
    case Alu::none:
      return run([](Int x, Int) { return x; });
    case Alu::add:
      return run([](Int x, Int y) { return static_cast<Int>(static_cast<Bits>(x) + static_cast<Bits>(y)); });
    case Alu::subtract:
      return run([](Int x, Int y) { return static_cast<Int>(static_cast<Bits>(x) - static_cast<Bits>(y)); });
    case Alu::multiply:
      return run([](Int x, Int y) { return static_cast<Int>(static_cast<Bits>(x) * static_cast<Bits>(y)); });
    case Alu::maximum:
      return run([](Int x, Int y) { return x > y ? x : y; });
    case Alu::minimum:
      return run([](Int x, Int y) { return x < y ? x : y; });
    case Alu::logical_and:
      return run([](Int x, Int y) { return Int{x != 0 && y != 0}; });
    case Alu::logical_or:
      return run([](Int x, Int y) { return Int{x != 0 || y != 0}; });
    case Alu::logical_xor:
      return run([](Int x, Int y) { return Int{(x != 0) != (y != 0)}; });
    case Alu::equal:
      return run([](Int x, Int y) { return Int{x == y}; });
    case Alu::not_equal:
      return run([](Int x, Int y) { return Int{x != y}; });
    case Alu::less:
      return run([](Int x, Int y) { return Int{x < y}; });
    case Alu::less_equal:
      return run([](Int x, Int y) { return Int{x <= y}; });
    case Alu::greater:
      return run([](Int x, Int y) { return Int{x > y}; });
    case Alu::greater_equal:
      return run([](Int x, Int y) { return Int{x >= y}; });
    case Alu::abs:
      return run([](Int x, Int) { return x < 0 ? static_cast<Int>(-static_cast<Bits>(x)) : x; });
    default:
      refuse("this operation runs in float32", alu, "integers", "Use the float form.");
  }
}

// Folds side by side, enough to hide their latency, then those.
template <class Function>
TRN_INLINE float fold_with(const float* values, std::int64_t n, Function function) {
  constexpr std::int64_t kLanes = 64;
  float lanes[kLanes] = {};
  const std::int64_t head = std::min(n, kLanes);
  for (std::int64_t i = 0; i < head; ++i) {
    lanes[i] = values[i];
  }
  std::int64_t i = kLanes;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = function(lanes[lane], values[i + lane]);
    }
  }
  for (std::int64_t lane = 0; i + lane < n; ++lane) {
    lanes[lane] = function(lanes[lane], values[i + lane]);
  }
  if (head == kLanes) {
    for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC ivdep
      for (std::int64_t lane = 0; lane < half; ++lane) {
        lanes[lane] = function(lanes[lane], lanes[lane + half]);
      }
    }
    return lanes[0];
  }
  float result = lanes[0];
  for (std::int64_t lane = 1; lane < head; ++lane) {
    result = function(result, lanes[lane]);
  }
  return result;
}

}  // namespace

bool is_bitwise(Alu alu) {
  return alu >= Alu::bitwise_and && alu <= Alu::right_shift;
}

bool has_integer_form(Alu alu) {
  return alu != Alu::divide && alu != Alu::power && alu != Alu::modulo && alu != Alu::abs_max && alu != Alu::abs_min &&
         (!target::is_unary(alu) || alu == Alu::invert || alu == Alu::abs);
}

TRN_CLONES void apply(Alu alu, const float* a, const float* b, float* out, std::int64_t n) {
  arithmetic(alu, Each<float>{a}, Each<float>{b}, out, n);
}

TRN_CLONES void apply(Alu alu, const float* a, float b, float* out, std::int64_t n) {
  // The powers that have an instruction of their own on any host, and the same value.
  if (alu == Alu::power && (b == 2.0F || b == -1.0F)) {
    if (b == 2.0F) {
      return arithmetic(Alu::multiply, Each<float>{a}, Each<float>{a}, out, n);
    }
    return arithmetic(Alu::divide, Same<float>{1.0F}, Each<float>{a}, out, n);
  }
  if (alu == Alu::power && (b == 0.5F || b == -0.5F)) {
    for (std::int64_t i = 0; i < n; ++i) {
      // pow(-0, 1/2) is +0 and pow(-inf, 1/2) is +inf.
      const float root = a[i] == -std::numeric_limits<float>::infinity() ? -a[i] : std::sqrt(a[i] + 0.0F);
      out[i] = b < 0 ? 1.0F / root : root;
    }
    return;
  }
  arithmetic(alu, Each<float>{a}, Same<float>{b}, out, n);
}

TRN_CLONES void apply(Alu alu, float a, const float* b, float* out, std::int64_t n) {
  arithmetic(alu, Same<float>{a}, Each<float>{b}, out, n);
}

TRN_CLONES void apply(Alu alu, const std::int64_t* a, const std::int64_t* b, std::int64_t* out, std::int64_t n) {
  integer(alu, Each<std::int64_t>{a}, Each<std::int64_t>{b}, out, n);
}

TRN_CLONES void apply(Alu alu, const std::int64_t* a, std::int64_t b, std::int64_t* out, std::int64_t n) {
  integer(alu, Each<std::int64_t>{a}, Same<std::int64_t>{b}, out, n);
}

TRN_CLONES float fold(Alu alu, const float* values, std::int64_t n) {
  switch (alu) {
    case Alu::add:
      return fold_with(values, n, [](float x, float y) { return x + y; });
    case Alu::multiply:
      return fold_with(values, n, [](float x, float y) { return x * y; });
    case Alu::maximum:
      return fold_with(values, n, larger);
    case Alu::minimum:
      return fold_with(values, n, smaller);
    default: {
      float result = values[0];
      for (std::int64_t i = 1; i < n; ++i) {
        apply(alu, &result, values + i, &result, 1);
      }
      return result;
    }
  }
}

}  // namespace trn::emu
