// One loop per operation.
#include "emu/alu.h"

#include <cmath>

#include "target/error.h"

namespace trn::emu {
namespace {

template <class T, class Function>
void each(const T* a, const T* b, T* out, std::int64_t n, Function function) {
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = function(a[i], b[i]);
  }
}

// NaN wins, as it does in PyTorch.
float larger(float x, float y) {
  return x > y || std::isnan(x) ? x : y;
}
float smaller(float x, float y) {
  return x < y || std::isnan(x) ? x : y;
}

}  // namespace

bool is_bitwise(Alu alu) {
  return alu >= Alu::bitwise_and && alu <= Alu::shift_right;
}

void apply(Alu alu, const float* a, const float* b, float* out, std::int64_t n) {
  auto run = [&](auto function) { each(a, b, out, n, function); };
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
      return run([](float x, float y) { return std::pow(x, y); });
    case Alu::modulo:
      return run([](float x, float y) {
        const float rest = std::fmod(x, y);
        return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
      });
    case Alu::abs_max:
      return run([](float x, float y) { return larger(std::fabs(x), std::fabs(y)); });
    case Alu::logical_and:
      return run([](float x, float y) { return static_cast<float>(x != 0 && y != 0); });
    case Alu::logical_or:
      return run([](float x, float y) { return static_cast<float>(x != 0 || y != 0); });
    case Alu::logical_xor:
      return run([](float x, float y) { return static_cast<float>((x != 0) != (y != 0)); });
    case Alu::equal:
      return run([](float x, float y) { return static_cast<float>(x == y); });
    case Alu::not_equal:
      return run([](float x, float y) { return static_cast<float>(x != y); });
    case Alu::less:
      return run([](float x, float y) { return static_cast<float>(x < y); });
    case Alu::less_equal:
      return run([](float x, float y) { return static_cast<float>(x <= y); });
    case Alu::greater:
      return run([](float x, float y) { return static_cast<float>(x > y); });
    case Alu::greater_equal:
      return run([](float x, float y) { return static_cast<float>(x >= y); });
    default:
      throw Error(Category::internal, "[alu] bitwise operations take integers; got " + std::string(target::name(alu)) +
                                          " of float32. Use integer tiles.");
  }
}

void apply(Alu alu, const std::int64_t* a, const std::int64_t* b, std::int64_t* out, std::int64_t n) {
  auto run = [&](auto function) { each(a, b, out, n, function); };
  using Int = std::int64_t;
  switch (alu) {
    case Alu::bitwise_and:
      return run([](Int x, Int y) { return x & y; });
    case Alu::bitwise_or:
      return run([](Int x, Int y) { return x | y; });
    case Alu::bitwise_xor:
      return run([](Int x, Int y) { return x ^ y; });
    case Alu::bitwise_not:
      return run([](Int x, Int) { return ~x; });
    case Alu::shift_left:
      return run([](Int x, Int y) { return y < 0 || y > 31 ? Int{0} : x << y; });
    case Alu::shift_right:
      return run([](Int x, Int y) { return y < 0 || y > 31 ? (x < 0 ? Int{-1} : Int{0}) : x >> y; });
    default:
      throw Error(Category::internal, "[alu] arithmetic runs in float32; got " + std::string(target::name(alu)) +
                                          " of integers. Use the float form.");
  }
}

}  // namespace trn::emu
