// Circular and hyperbolic functions, and erf's inverse, on engines whose sin and arctan take an interval around 0 only.
#include <cmath>
#include <initializer_list>
#include <numbers>

#include "aten/rules/functions.h"
#include "aten/rules/rounding.h"

namespace trn::aten::rules {

namespace {

Value signed_as(Expression& e, Value size, Value x) {
  return e.multiply(size, e.activation(Activation::sign, x));
}

// A three-part reduction to [-pi, pi]: two pi in parts of few bits, so that their multiples are exact.
Value reduced_angle(Expression& e, Value x, float quarter_turns) {
  constexpr double kTurn = 2 * std::numbers::pi;
  const Value turns = round(e, e.apply(Alu::multiply, x, static_cast<float>(1 / kTurn), Alu::add, quarter_turns / 4));
  constexpr float kHigh = 6.28125F, kMiddle = 1.9340515e-03F;
  constexpr auto kLow = static_cast<float>(kTurn - 6.28125 - static_cast<double>(kMiddle));
  Value rest = e.apply(Alu::multiply, turns, -kHigh, Alu::add, x);
  rest = e.apply(Alu::multiply, turns, -kMiddle, Alu::add, rest);
  return e.apply(Alu::multiply, turns, -kLow, Alu::add, rest);
}

}  // namespace

Value polynomial(Expression& e, Value x, std::initializer_list<float> coefficients) {
  const float* c = coefficients.begin();
  Value sum = e.multiply(x, *c++);
  for (; c + 1 != coefficients.end(); ++c) {
    sum = e.apply(Alu::add, sum, *c, Alu::multiply, x);
  }
  return e.add(sum, *c);
}

// The bounds are for angles whose reduction has left [-pi, pi], where ScalarE's polynomial goes on.
Value sine(Expression& e, Value x, float quarter_turns) {
  const Value wave = e.activation(Activation::sin, reduced_angle(e, x, quarter_turns), 1, quarter_turns * kPi / 2);
  return e.apply(Alu::minimum, wave, 1, Alu::maximum, -1);
}

namespace {

void sin(Expression& e) {
  e.output(0, sine(e, e.input(0), 0));
}

void cos(Expression& e) {
  e.output(0, sine(e, e.input(0), 1));
}

void tan(Expression& e) {
  e.output(0, e.divide(sine(e, e.input(0), 0), sine(e, e.input(0), 1)));
}

// sin(pi x) / (pi x), reduced before it is scaled
void sinc(Expression& e) {
  const Value x = e.input(0);
  const Value turns = round(e, e.multiply(x, 0.5F));
  const Value sine = e.activation(Activation::sin, e.apply(Alu::multiply, turns, -2, Alu::add, x), kPi);
  const Value ratio = e.divide(sine, e.multiply(x, kPi));
  e.output(0, e.where_not(e.apply(Alu::equal, x, 0), ratio, 1));
}

// of a size, which may be infinite
Value arctangent(Expression& e, Value size) {
  const Value angle = e.activation(Activation::arctan, e.apply(Alu::minimum, e.reciprocal(size), size));
  return e.select(e.apply(Alu::greater, size, 1), e.apply(Alu::multiply, angle, -1, Alu::add, kPi / 2), angle);
}

void atan(Expression& e) {
  const Value x = e.input(0);
  e.output(0, signed_as(e, arctangent(e, abs(e, x)), x));
}

void atan2(Expression& e) {
  const Value y = e.argument("self"), x = e.argument("other");
  const Value height = abs(e, y), width = abs(e, x);
  const Value larger = e.apply(Alu::maximum, height, width);
  const Value ratio = e.divide(e.apply(Alu::minimum, height, width), larger);
  const Value angle = e.activation(Activation::arctan, e.where_not(e.apply(Alu::equal, larger, 0), ratio, 0));
  const Value steep = e.apply(Alu::multiply, angle, -1, Alu::add, kPi / 2);
  const Value right = e.select(e.apply(Alu::greater, height, width), steep, angle);
  const Value left = e.apply(Alu::multiply, right, -1, Alu::add, kPi);
  const Value size = e.select(e.apply(Alu::less, x, 0), left, right);
  e.output(0, e.select(e.apply(Alu::less, y, 0), e.multiply(size, -1), size));
}

// sqrt((1 - x) (1 + x))
Value leg(Expression& e, Value x) {
  const Value rest = e.apply(Alu::multiply, x, -1, Alu::add, 1);
  return e.activation(Activation::sqrt, e.apply(Alu::add, x, 1, Alu::multiply, rest));
}

// 2 arctan(x / (1 + sqrt(1 - x^2))): the argument lies in [-1, 1]
void asin(Expression& e) {
  const Value x = e.input(0);
  e.output(0, e.multiply(e.activation(Activation::arctan, e.divide(x, e.add(leg(e, x), 1))), 2));
}

// 2 arctan(sqrt((1 - |x|) / (1 + |x|))), from pi where x is negative
void acos(Expression& e) {
  const Value x = e.input(0);
  const Value size = abs(e, x);
  const Value rest = e.apply(Alu::multiply, size, -1, Alu::add, 1);
  const Value half = e.activation(Activation::sqrt, e.divide(rest, e.add(size, 1)));
  const Value angle = e.multiply(e.activation(Activation::arctan, half), 2);
  e.output(0, e.select(e.apply(Alu::less, x, 0), e.apply(Alu::multiply, angle, -1, Alu::add, kPi), angle));
}

void cosh(Expression& e) {
  const Value up = e.activation(Activation::exp, e.input(0)), down = e.activation(Activation::exp, e.input(0), -1);
  e.output(0, e.multiply(e.add(up, down), 0.5F));
}

// Taylor's series up to 1, exponentials beyond
void sinh(Expression& e) {
  const Value x = e.input(0);
  const Value up = e.activation(Activation::exp, x), down = e.activation(Activation::exp, x, -1);
  const Value large = e.multiply(e.subtract(up, down), 0.5F);
  const Value near = e.apply(Alu::minimum, abs(e, x), 1);  // of no overflow
  const Value series =
      polynomial(e, e.activation(Activation::square, near), {1.0F / 362880, 1.0F / 5040, 1.0F / 120, 1.0F / 6, 1});
  e.output(0, e.select(e.apply(Alu::greater, abs(e, x), 1), large, e.multiply(series, x)));
}

// sign(x) log(|x| + sqrt(x^2 + 1)); log(2 |x|) where the square overflows
void asinh(Expression& e) {
  const Value x = e.input(0);
  const Value size = abs(e, x);
  const Value root = e.activation(Activation::sqrt, e.activation(Activation::square, size), 1, 1);
  const Value sum = e.select(e.apply(Alu::greater, size, 1e10F), e.multiply(size, 2), e.add(root, size));
  e.output(0, signed_as(e, e.activation(Activation::log, sum), x));
}

void atanh(Expression& e) {
  const Value x = e.input(0);
  const Value rest = e.apply(Alu::multiply, x, -1, Alu::add, 1);
  const Value ratio = e.divide(e.add(x, 1), rest);
  e.output(0, e.multiply(e.activation(Activation::log, ratio), 0.5F));
}

// Giles's approximation in single precision (GPU Computing Gems, 2011): of -log(1 - x^2), near to 0 and beyond 5
void erfinv(Expression& e) {
  const Value x = e.input(0);
  const Value rest = e.apply(Alu::multiply, x, -1, Alu::add, 1);
  const Value w = e.multiply(e.activation(Activation::log, e.apply(Alu::add, x, 1, Alu::multiply, rest)), -1);
  const Value central = polynomial(e, e.add(w, -2.5F),
                                   {2.81022636e-08F, 3.43273939e-07F, -3.5233877e-06F, -4.39150654e-06F, 0.00021858087F,
                                    -0.00125372503F, -0.00417768164F, 0.246640727F, 1.50140941F});
  const Value tail = polynomial(e, e.add(e.activation(Activation::sqrt, w), -3),
                                {-0.000200214257F, 0.000100950558F, 0.00134934322F, -0.00367342844F, 0.00573950773F,
                                 -0.0076224613F, 0.00943887047F, 1.00167406F, 2.83297682F});
  const Value scale = e.select(e.apply(Alu::less, w, 5), central, tail);
  e.output(0, e.multiply(e.where_not(e.apply(Alu::equal, w, kInfinity), scale, kInfinity), x));
}

constexpr Function kTrigonometry[] = {
    {"acos", acos},   {"asin", asin}, {"asinh", asinh}, {"atan", atan},     {"atan2", atan2},
    {"atanh", atanh}, {"cos", cos},   {"cosh", cosh},   {"erfinv", erfinv}, {"sin", sin},
    {"sinc", sinc},   {"sinh", sinh}, {"tan", tan},
};

}  // namespace

std::span<const Function> trigonometry() {
  return kTrigonometry;
}

}  // namespace trn::aten::rules
