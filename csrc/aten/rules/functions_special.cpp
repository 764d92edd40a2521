// Special functions: fits and asymptotic forms, joined where both are exact in fp32; reflections from the other side.
#include <cmath>

#include "aten/rules/functions.h"
#include "aten/rules/rounding.h"
#include "aten/rules/special_fits.h"

namespace trn::aten::rules {

namespace {

Value square(Expression& e, Value x) {
  return e.activation(Activation::square, x);
}
Value log(Expression& e, Value x) {
  return e.activation(Activation::log, x);
}
Value is_negative(Expression& e, Value x) {
  return e.apply(Alu::less, x, 0);
}
Value over(Expression& e, float numerator, Value x) {
  return e.divide(numerator, x);
}

Value evaluate(Expression& e, Value x, const Fit& fit) {
  const float half = (fit.high - fit.low) / 2, middle = (fit.high + fit.low) / 2;
  return polynomial(e, e.apply(Alu::multiply, x, 1 / half, Alu::add, -middle / half), fit.powers);
}

// ---- Gamma's logarithm and its derivatives

// What is left of x to the nearest integer: sin(pi x) and its like repeat with it, but for their sign.
Value rest_of(Expression& e, Value x) {
  return e.subtract(x, round(e, x));
}

// sum of c_k / w^(2k + 1), the highest power first.
Value odd_inverse_powers(Expression& e, Value w, std::initializer_list<float> coefficients) {
  const Value inverse = e.reciprocal(w);
  return e.multiply(polynomial(e, square(e, inverse), coefficients), inverse);
}

// Of a size: Stirling's series past 3, to which smaller ones are moved by the recurrence.
Value log_gamma_of_size(Expression& e, Value x) {
  constexpr auto kHalfLogTwoPi = 0.9189385332046727F;
  const Value is_small = e.apply(Alu::less, x, 3);
  const Value w = e.select(is_small, e.add(x, 3), x);
  const Value product = e.multiply(e.apply(Alu::add, x, 1, Alu::multiply, x), e.add(x, 2));
  const Value main = e.apply(Alu::add, w, -0.5F, Alu::multiply, e.subtract(log(e, w), 1));
  const Value series = odd_inverse_powers(e, w, {-1.0F / 1680, 1.0F / 1260, -1.0F / 360, 1.0F / 12});
  const Value sum = e.add(e.apply(Alu::add, main, kHalfLogTwoPi - 0.5F), series);
  return e.subtract(sum, e.select(is_small, log(e, product), 0));
}

// log(pi / |x sin(pi x)|) - lgamma(|x|) of a negative x
Value log_gamma(Expression& e, Value x) {
  const Value size = abs(e, x), rest = rest_of(e, size), positive = log_gamma_of_size(e, size);
  const Value wave = e.multiply(abs(e, e.activation(Activation::sin, rest, kPi)), size);
  const Value reflected = e.subtract(e.multiply(log(e, e.multiply(wave, 1 / kPi)), -1), positive);
  const Value value = e.select(is_negative(e, x), reflected, positive);
  // At 0 and negative integers, of which the largest sizes all are.
  const Value is_pole = e.apply(Alu::less_equal, x, 0, Alu::multiply, e.apply(Alu::equal, rest, 0));
  return e.where_not(e.apply(Alu::equal, x, -kInfinity), e.where_not(is_pole, value, kInfinity), kInfinity);
}

void lgamma(Expression& e) {
  e.output(0, log_gamma(e, e.input(0)));
}

// sum over i < p of lgamma(x - i / 2), and p (p - 1) / 4 log pi
void mvlgamma(Expression& e) {
  const auto p = static_cast<std::int64_t>(e.args().integer("p", 1));
  Value sum = log_gamma(e, e.input(0));
  for (std::int64_t i = 1; i < p; ++i) {
    sum = e.add(sum, log_gamma(e, e.add(e.input(0), -0.5F * static_cast<float>(i))));
  }
  e.output(0, e.add(sum, static_cast<float>(p * (p - 1)) / 4 * std::log(kPi)));
}

constexpr int kShifts = 4;

// Past kShifts an asymptotic series; before, `term` for each step there. Of x from 0 on.
template <class Term, class Series>
Value by_recurrence(Expression& e, Value x, Term term, Series series) {
  const Value is_small = e.apply(Alu::less, x, kShifts);
  Value sum = term(x);
  for (int k = 1; k < kShifts; ++k) {
    sum = e.add(sum, term(e.add(x, static_cast<float>(k))));
  }
  return e.add(series(e.select(is_small, e.add(x, kShifts), x)), e.select(is_small, sum, 0));
}

Value digamma_of_size(Expression& e, Value x) {
  return by_recurrence(
      e, x, [&](Value y) { return over(e, -1, y); },
      [&](Value w) {
        const Value inverse = e.reciprocal(w), s = square(e, inverse);
        const Value tail =
            e.multiply(polynomial(e, s, {-1.0F / 132, 1.0F / 240, -1.0F / 252, 1.0F / 120, -1.0F / 12}), s);
        return e.add(e.apply(Alu::multiply, inverse, -0.5F, Alu::add, log(e, w)), tail);
      });
}

// psi(1 - x) - pi cot(pi x) of a negative x; NaN at its integers
void digamma(Expression& e) {
  const Value x = e.input(0), negative = is_negative(e, x), rest = rest_of(e, x);
  const Value inner = digamma_of_size(e, e.select(negative, e.apply(Alu::multiply, x, -1, Alu::add, 1), x));
  const Value cotangent =
      e.divide(e.activation(Activation::sin, rest, kPi, kPi / 2), e.activation(Activation::sin, rest, kPi));
  const Value value = e.subtract(inner, e.select(negative, e.multiply(cotangent, kPi), 0));
  const Value is_pole = e.multiply(negative, e.apply(Alu::equal, rest, 0));
  e.output(0, e.where_not(is_pole, value, kNan));
}

Value trigamma_of_size(Expression& e, Value x) {
  return by_recurrence(
      e, x, [&](Value y) { return square(e, e.reciprocal(y)); },
      [&](Value w) {
        const Value odd = odd_inverse_powers(e, w, {-1.0F / 30, 1.0F / 42, -1.0F / 30, 1.0F / 6, 1});
        return e.add(odd, e.multiply(square(e, e.reciprocal(w)), 0.5F));
      });
}

// psi'(x) = pi^2 / sin^2(pi x) - psi'(1 - x) below 1/2; psi itself of order 0.
void polygamma(Expression& e) {
  if (e.args().integer("n", 0) == 0) {
    digamma(e);
    return;
  }
  const Value x = e.input(0), is_low = e.apply(Alu::less, x, 0.5F);
  const Value inner = trigamma_of_size(e, e.select(is_low, e.apply(Alu::multiply, x, -1, Alu::add, 1), x));
  const Value wave = square(e, e.divide(kPi, e.activation(Activation::sin, rest_of(e, x), kPi)));
  e.output(0, e.select(is_low, e.subtract(wave, inner), inner));
}

// ---- Modified Bessel functions

struct BesselI {
  const Fit &near, &far;
  bool is_odd;
};
constexpr BesselI kFirst = {kScaledI0, kScaledI0Far, false}, kSecond = {kScaledI1, kScaledI1Far, true};

// exp(-|x|) I(x): fitted up to 8, and beyond by powers of 8 / |x|. Unscaled, the exponential comes in two halves, which
// overflow where the product does.
void bessel_i(Expression& e, const BesselI& which, bool is_scaled) {
  const Value x = e.input(0), size = abs(e, x);
  const Value far = e.multiply(evaluate(e, over(e, 8, size), which.far), e.activation(Activation::rsqrt, size));
  Value value = e.select(e.apply(Alu::greater, size, 8), far, evaluate(e, size, which.near));
  if (!is_scaled) {
    const Value half = e.activation(Activation::exp, size, 0.5F);
    value = e.multiply(e.multiply(value, half), half);
  }
  e.output(0, which.is_odd ? e.multiply(value, e.activation(Activation::sign, x)) : value);
}

// log's and poles' part up to 2, and beyond an exponential.
void bessel_k(Expression& e, int order, bool is_scaled) {
  const Value x = e.input(0), s = square(e, x);
  const Value growing = evaluate(e, s, order == 0 ? kI0Near : kI1Near);
  const Value rest = evaluate(e, s, order == 0 ? kK0Near : kK1Near);
  Value near = order == 0 ? e.subtract(rest, e.multiply(log(e, x), growing))
                          : e.add(e.divide(rest, x), e.multiply(e.multiply(log(e, x), x), growing));
  Value far = e.multiply(evaluate(e, over(e, 2, x), order == 0 ? kScaledK0Far : kScaledK1Far),
                         e.activation(Activation::rsqrt, x));
  if (is_scaled) {
    near = e.multiply(near, e.activation(Activation::exp, x));
  } else {
    far = e.multiply(far, e.activation(Activation::exp, x, -1));
  }
  const Value value =
      e.where_not(e.apply(Alu::equal, x, 0), e.select(e.apply(Alu::greater, x, 2), far, near), kInfinity);
  e.output(0, e.where_not(is_negative(e, x), value, kNan));
}

// ---- Bessel functions

struct Bessel {
  const Fit &near, &amplitude, &shift;
  float phase;  // of the wave that it becomes, in quarter turns
  int order;
};
constexpr Bessel kJ0 = {kJ0Near, kP0, kQ0, 0.5F, 0}, kJ1 = {kJ1Near, kP1, kQ1, 1.5F, 1};

// Far from 0: sqrt(2 / (pi x)) (P cos(x - phase) - Q sin(x - phase)), or of the second kind (P sin + Q cos).
Value wave(Expression& e, Value x, const Bessel& of, bool is_second_kind) {
  const Value t = over(e, 5, x), s = square(e, t);
  const Value p = evaluate(e, s, of.amplitude), q = e.multiply(evaluate(e, s, of.shift), t);
  const Value sin = sine(e, x, -of.phase), cos = sine(e, x, 1 - of.phase);
  const Value sum = is_second_kind ? e.add(e.multiply(p, sin), e.multiply(q, cos))
                                   : e.subtract(e.multiply(p, cos), e.multiply(q, sin));
  constexpr auto kScale = static_cast<float>(std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
  return e.multiply(e.multiply(sum, e.activation(Activation::rsqrt, x)), kScale);
}

void bessel_j(Expression& e, const Bessel& of) {
  const Value x = e.input(0), size = abs(e, x), far = wave(e, size, of, false);
  const Value near = evaluate(e, square(e, x), of.near), is_far = e.apply(Alu::greater, size, 5);
  e.output(0, of.order == 0
                  ? e.select(is_far, far, near)
                  : e.select(is_far, e.multiply(far, e.activation(Activation::sign, x)), e.multiply(near, x)));
}

void bessel_y(Expression& e, const Bessel& of) {
  constexpr float kTwoOverPi = 2 / kPi;
  const Value x = e.input(0), s = square(e, x), log_x = log(e, x), first = evaluate(e, s, of.near);
  const Value rest = evaluate(e, s, of.order == 0 ? kY0Near : kY1Near);
  Value near = e.apply(Alu::multiply, e.multiply(log_x, first), kTwoOverPi, Alu::add, rest);
  if (of.order == 1) {
    near = e.add(e.multiply(near, x), over(e, -kTwoOverPi, x));
  }
  const Value value = e.select(e.apply(Alu::greater, x, 5), wave(e, x, of, true), near);
  e.output(0, e.where_not(is_negative(e, x), e.where_not(e.apply(Alu::equal, x, 0), value, -kInfinity), kNan));
}

// sin(x) / x; Taylor's series near 0
void spherical_bessel(Expression& e) {
  const Value x = e.input(0), size = abs(e, x);
  const Value series = polynomial(e, square(e, x), {1.0F / 362880, -1.0F / 5040, 1.0F / 120, -1.0F / 6, 1});
  const Value value = e.select(e.apply(Alu::less, size, 0.5F), series, e.divide(sine(e, x, 0), x));
  e.output(0, e.where_not(e.apply(Alu::equal, size, kInfinity), value, 0));
}

// ---- The normal distribution

// exp(y^2) erfc(y) of a size
Value scaled_tail(Expression& e, Value y) {
  const Value t = over(e, 4, e.add(y, 4));
  return e.multiply(evaluate(e, t, kErfcx), t);
}

void erfcx(Expression& e) {
  const Value x = e.input(0), tail = scaled_tail(e, abs(e, x));
  const Value growing = e.multiply(e.activation(Activation::exp, square(e, x)), 2);
  e.output(0, e.select(is_negative(e, x), e.subtract(growing, tail), tail));
}

// Of a negative x, log(erfcx(y) / 2) - y^2 with y = |x| / sqrt 2; else log(1 - erfcx(y) exp(-y^2) / 2).
void log_ndtr(Expression& e) {
  const Value x = e.input(0), y = e.multiply(abs(e, x), static_cast<float>(1 / std::numbers::sqrt2)), s = square(e, y);
  const Value tail = e.multiply(scaled_tail(e, y), 0.5F);
  const Value below = e.subtract(log(e, tail), s);
  const Value above = e.activation(Activation::log, e.multiply(tail, e.activation(Activation::exp, s, -1)), -1, 1);
  e.output(0, e.select(is_negative(e, x), below, above));
}

// By -log(4 p (1 - p)), and far from the middle its root.
void ndtri(Expression& e) {
  const Value p = e.input(0), rest = e.apply(Alu::multiply, p, -4, Alu::add, 4);
  const Value w = e.multiply(log(e, e.multiply(rest, p)), -1);
  const Value far = evaluate(e, e.activation(Activation::sqrt, w), kQuantileFar);
  const Value scale = e.select(e.apply(Alu::less, w, 5), evaluate(e, w, kQuantile), far);
  const Value value = e.multiply(e.apply(Alu::multiply, p, 2, Alu::add, -1), scale);
  const Value at_0 = e.where_not(e.apply(Alu::equal, p, 0), value, -kInfinity);
  const Value outside = e.apply(Alu::greater, p, 1, Alu::logical_or, is_negative(e, p));
  e.output(0, e.where_not(outside, e.where_not(e.apply(Alu::equal, p, 1), at_0, kInfinity), kNan));
}

// ---- Chebyshev's polynomials, of cosines up to 1 and hyperbolic ones beyond

enum class Kind : std::uint8_t { t, u, v, w };

struct Angle {
  Value size, is_outside;  // arccos or arcosh of |x|
};

Angle angle_of(Expression& e, Value x) {
  const Value size = abs(e, x), is_outside = e.apply(Alu::greater, size, 1);
  const Value gap = e.apply(Alu::subtract, size, 1);
  const Value half = e.activation(Activation::sqrt, e.divide(abs(e, gap), e.add(size, 1)));
  const Value inside = e.multiply(e.activation(Activation::arctan, e.apply(Alu::minimum, half, 1)), 2);
  const Value root = e.activation(Activation::sqrt, e.multiply(e.apply(Alu::maximum, gap, 0), e.add(size, 1)));
  return {e.select(is_outside, log(e, e.add(size, root)), inside), is_outside};
}

Value cosine(Expression& e, const Angle& angle, Value times) {
  const Value at = e.multiply(times, angle.size);
  const Value up = e.activation(Activation::exp, at), down = e.activation(Activation::exp, at, -1);
  return e.select(angle.is_outside, e.multiply(e.add(up, down), 0.5F), sine(e, at, 1));
}

Value sine_of(Expression& e, const Angle& angle, Value times) {
  const Value at = e.multiply(times, angle.size);
  const Value up = e.activation(Activation::exp, at), down = e.activation(Activation::exp, at, -1);
  return e.select(angle.is_outside, e.multiply(e.subtract(up, down), 0.5F), sine(e, at, 0));
}

// T = cos(n a), U = sin((n + 1) a) / sin a, V = cos((n + 1/2) a) / cos(a / 2), W = sin((n + 1/2) a) / sin(a / 2) of a
// positive x; a negative one changes the sign of those of odd n, and V and W with each other.
void chebyshev(Expression& e, Kind kind, bool is_shifted) {
  const Value given = e.argument("x"), degree = e.argument("n");
  const Value x = is_shifted ? e.apply(Alu::multiply, given, 2, Alu::add, -1) : e.copy(given);
  const Value n = trunc(e, degree), negative = is_negative(e, x);
  const Angle angle = angle_of(e, x);
  const Value half = e.add(n, 0.5F);
  auto ratio = [&](Value times, Value below, Value limit) {
    return e.select(angle.size, e.divide(sine_of(e, angle, times), below), limit);
  };
  auto third = [&] { return e.divide(cosine(e, angle, half), cosine(e, angle, 0.5F)); };
  auto fourth = [&] { return ratio(half, sine_of(e, angle, 0.5F), e.apply(Alu::multiply, n, 2, Alu::add, 1)); };
  Value value = 0;
  switch (kind) {
    case Kind::t:
      value = cosine(e, angle, n);
      break;
    case Kind::u:
      value = ratio(e.add(n, 1), sine_of(e, angle, 1), e.add(n, 1));
      break;
    case Kind::v:
      value = e.select(negative, fourth(), third());
      break;
    case Kind::w:
      value = e.select(negative, third(), fourth());
      break;
  }
  const Value is_odd = e.apply(Alu::modulo, n, 2);
  const Value turned = e.select(e.multiply(is_odd, negative), e.multiply(value, -1), value);
  e.output(0, e.where_not(is_negative(e, n), turned, 0));
}

// ---- Signs, powers of two, divisors

// A zero's sign is that of its reciprocal.
void copysign(Expression& e) {
  const Value size = abs(e, e.argument("self")), other = e.argument("other");
  if (other.is_constant()) {
    e.output(0, e.multiply(size, std::signbit(other.constant) ? -1.0F : 1.0F));
    return;
  }
  const Value is_below = e.apply(Alu::less, e.reciprocal(other), 0, Alu::logical_or, is_negative(e, other));
  e.output(0, e.select(is_below, e.multiply(size, -1), size));
}

void ldexp(Expression& e) {
  e.output(0, e.multiply(e.apply(Alu::power, 2, e.argument("other")), e.argument("self")));
}

// Euclid's algorithm: of integers up to 2^24, which fp32 holds, 34 remainders at most.
Value common_divisor(Expression& e) {
  constexpr int kMostRounds = 34;
  Value a = abs(e, e.argument("self")), b = abs(e, e.argument("other"));
  for (int round = 0; round < kMostRounds; ++round) {
    const Value rest = e.apply(Alu::modulo, a, b);
    a = e.select(b, b, a);
    b = e.select(b, rest, 0);
  }
  return a;
}

void gcd(Expression& e) {
  e.output(0, common_divisor(e));
}

void lcm(Expression& e) {
  const Value divisor = common_divisor(e), quotient = e.divide(abs(e, e.argument("self")), divisor);
  e.output(0, e.where_not(e.apply(Alu::equal, divisor, 0), e.multiply(quotient, abs(e, e.argument("other"))), 0));
}

constexpr Function kSpecialFunctions[] = {
    {"copysign", copysign},
    {"digamma", digamma},
    {"gcd", gcd},
    {"i0", [](Expression& e) { bessel_i(e, kFirst, false); }},
    {"lcm", lcm},
    {"ldexp", ldexp},
    {"lgamma", lgamma},
    {"mvlgamma", mvlgamma},
    {"polygamma", polygamma},
    {"special_bessel_j0", [](Expression& e) { bessel_j(e, kJ0); }},
    {"special_bessel_j1", [](Expression& e) { bessel_j(e, kJ1); }},
    {"special_bessel_y0", [](Expression& e) { bessel_y(e, kJ0); }},
    {"special_bessel_y1", [](Expression& e) { bessel_y(e, kJ1); }},
    {"special_chebyshev_polynomial_t", [](Expression& e) { chebyshev(e, Kind::t, false); }},
    {"special_chebyshev_polynomial_u", [](Expression& e) { chebyshev(e, Kind::u, false); }},
    {"special_chebyshev_polynomial_v", [](Expression& e) { chebyshev(e, Kind::v, false); }},
    {"special_chebyshev_polynomial_w", [](Expression& e) { chebyshev(e, Kind::w, false); }},
    {"special_erfcx", erfcx},
    {"special_i0e", [](Expression& e) { bessel_i(e, kFirst, true); }},
    {"special_i1", [](Expression& e) { bessel_i(e, kSecond, false); }},
    {"special_i1e", [](Expression& e) { bessel_i(e, kSecond, true); }},
    {"special_log_ndtr", log_ndtr},
    {"special_modified_bessel_i0", [](Expression& e) { bessel_i(e, kFirst, false); }},
    {"special_modified_bessel_i1", [](Expression& e) { bessel_i(e, kSecond, false); }},
    {"special_modified_bessel_k0", [](Expression& e) { bessel_k(e, 0, false); }},
    {"special_modified_bessel_k1", [](Expression& e) { bessel_k(e, 1, false); }},
    {"special_ndtri", ndtri},
    {"special_scaled_modified_bessel_k0", [](Expression& e) { bessel_k(e, 0, true); }},
    {"special_scaled_modified_bessel_k1", [](Expression& e) { bessel_k(e, 1, true); }},
    {"special_shifted_chebyshev_polynomial_t", [](Expression& e) { chebyshev(e, Kind::t, true); }},
    {"special_shifted_chebyshev_polynomial_u", [](Expression& e) { chebyshev(e, Kind::u, true); }},
    {"special_shifted_chebyshev_polynomial_v", [](Expression& e) { chebyshev(e, Kind::v, true); }},
    {"special_shifted_chebyshev_polynomial_w", [](Expression& e) { chebyshev(e, Kind::w, true); }},
    {"special_spherical_bessel_j0", spherical_bessel},
};

}  // namespace

std::span<const Function> special_functions() {
  return kSpecialFunctions;
}

}  // namespace trn::aten::rules
