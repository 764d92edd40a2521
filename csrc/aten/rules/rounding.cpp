// Rounding by the remainder of a division by one.
#include "aten/rules/rounding.h"

#include "aten/numerics.h"

namespace trn::aten::rules {

namespace {

constexpr float kIntegersFrom = 8388608;        // 2^23: every float from here on is an integer
constexpr float kLowestInt32 = -2147483648.0F;  // what a cast to int32 makes of what is not finite

Value is_integer(Expression& e, Value x) {
  return e.apply(Alu::abs, x, 0, Alu::greater_equal, kIntegersFrom);
}

// 0 x is 0, or NaN.
Value where_finite(Expression& e, Value x, Value finite) {
  const Value is_finite = e.apply(Alu::multiply, x, 0, Alu::equal, 0);
  return e.select(is_finite, finite, departures().rounding_through_int32 ? Value(kLowestInt32) : x);
}

}  // namespace

Value floor(Expression& e, Value x) {
  return e.subtract(x, e.apply(Alu::modulo, x, 1));
}

// |x| and its sign apart, rounded towards zero.
Value trunc(Expression& e, Value x) {
  return e.multiply(floor(e, e.activation(Activation::abs, x)), e.activation(Activation::sign, x));
}

// Adding 2^23 leaves no room for a fraction.
Value round(Expression& e, Value x) {
  const Value size = e.activation(Activation::abs, x);
  const Value rounded = e.apply(Alu::add, size, kIntegersFrom, Alu::subtract, kIntegersFrom);
  const Value is_whole = e.apply(Alu::greater_equal, size, kIntegersFrom);
  return e.multiply(e.select(is_whole, size, rounded), e.activation(Activation::sign, x));
}

// With a remainder of 0 a division by zero gives an infinity as on the CPU, with NaN it stays NaN.
Value floor_quotient(Expression& e, Value a, Value b) {
  const Value by_zero = departures().floor_divide_zero_is_nan ? kNan : 0.0F;
  const Value remainder = e.apply(Alu::modulo, a, b);
  const bool is_zero = b.is_constant() && b.constant == 0;
  const Value rest = b.is_constant() ? (is_zero ? by_zero : remainder) : e.select(b, remainder, by_zero);
  const Value shifted = e.add(e.divide(e.subtract(a, rest), b), 0.5F);
  return e.select(is_integer(e, shifted), shifted, floor(e, shifted));
}

void write_ceil(Expression& e) {
  const Value x = e.input(0);
  e.output(0, where_finite(e, x, e.add(x, e.apply(Alu::multiply, x, -1, Alu::modulo, 1))));
}

void write_floor(Expression& e) {
  const Value x = e.input(0);
  e.output(0, e.select(is_integer(e, x), x, floor(e, x)));
}

void write_trunc(Expression& e) {
  const Value x = e.input(0);
  e.output(0, where_finite(e, x, trunc(e, x)));
}

}  // namespace trn::aten::rules
