// The table of pointwise functions: which engine instructions each takes per element, and how many.
//
// Where shapes.h's running value can express a function, the steps compute it. The others are listed for their cost:
// special functions that functions_special.cpp does not write out by the terms of the usual single-precision series, a
// data-dependent recurrence by 16 rounds, a series that runs to convergence by 32 terms.
#include "aten/rules/steps.h"

#include <algorithm>
#include <iterator>

namespace trn::aten::rules {

namespace {

struct Recipe {
  std::string_view name;
  Run runs[17];
};

constexpr Recipe kRecipes[] = {
    {"__ilshift__", {tt(Alu::left_shift)}},
    {"__irshift__", {tt(Alu::right_shift)}},
    {"__lshift__", {tt(Alu::left_shift)}},
    {"__rshift__", {tt(Alu::right_shift)}},
    {"_conj_physical", {ts(Alu::multiply, -1)}},
    {"_dirichlet_grad",
     {horner(20), op(Opcode::reciprocal, 4), tt(Alu::multiply, 8), act(Activation::log), act(Activation::exp),
      select(3)}},
    {"_make_per_channel_quantized_tensor", {cast()}},
    {"_make_per_tensor_quantized_tensor", {cast()}},
    {"_standard_gamma_grad",
     {horner(24), op(Opcode::reciprocal, 4), act(Activation::log), act(Activation::exp), tt(Alu::multiply, 8),
      tt(Alu::add, 4), select(3)}},
    {"_test_functorch_fallback", {tt(Alu::add)}},
    {"_test_optional_filled_intlist", {tt(Alu::add)}},
    {"_test_optional_floatlist", {tt(Alu::add)}},
    {"_test_optional_intlist", {tt(Alu::add)}},
    {"abs", {act(Activation::abs)}},
    {"acosh", {act(Activation::square), act(Activation::sqrt, -1), tt(Alu::add), act(Activation::log)}},
    {"add", {tt(Alu::add)}},
    {"addcdiv", {tt(Alu::divide), tt(Alu::add)}},
    {"addcmul", {tt(Alu::multiply), tt(Alu::add)}},
    {"angle", {ts(Alu::less), ts(Alu::multiply)}},
    {"bitwise_and", {tt(Alu::bitwise_and)}},
    {"bitwise_left_shift", {tt(Alu::left_shift)}},
    {"bitwise_not", {ts(Alu::invert)}},
    {"bitwise_or", {tt(Alu::bitwise_or)}},
    {"bitwise_right_shift", {tt(Alu::right_shift)}},
    {"bitwise_xor", {tt(Alu::bitwise_xor)}},
    {"complex", {cast(2)}},
    {"conj_physical", {ts(Alu::multiply, -1)}},
    {"deg2rad", {ts(Alu::multiply, 0.017453293F)}},
    {"dequantize", {ts(Alu::subtract), ts(Alu::multiply)}},
    {"div", {tt(Alu::divide)}},
    {"eq", {tt(Alu::equal)}},
    {"exp", {act(Activation::exp)}},
    {"exp2", {ts(Alu::multiply, 0.6931472F), act(Activation::exp)}},
    {"expm1", {act(Activation::exp), ts(Alu::subtract, 1)}},
    {"frexp",
     {ts(Alu::right_shift), ts(Alu::bitwise_and), ts(Alu::subtract), ts(Alu::bitwise_and), ts(Alu::bitwise_or)}},
    {"ge", {tt(Alu::greater_equal)}},
    {"gt", {tt(Alu::greater)}},
    {"hardsigmoid", {ts(Alu::multiply, 0.16666667F), ts(Alu::add, 0.5F), ts(Alu::maximum, 0), ts(Alu::minimum, 1)}},
    {"hardswish",
     {ts(Alu::multiply, 0.16666667F), ts(Alu::add, 0.5F), ts(Alu::maximum, 0), ts(Alu::minimum, 1), tt(Alu::multiply)}},
    {"hardtanh", {ts(Alu::maximum), ts(Alu::minimum)}},
    {"igamma",
     {act(Activation::log), tt(Alu::multiply), tt(Alu::subtract), act(Activation::exp), tt(Alu::multiply, 32),
      op(Opcode::reciprocal, 32), tt(Alu::add, 32), select()}},
    {"igammac",
     {act(Activation::log), tt(Alu::multiply), tt(Alu::subtract), act(Activation::exp), tt(Alu::multiply, 32),
      op(Opcode::reciprocal, 32), tt(Alu::add, 32), ts(Alu::subtract), select()}},
    {"isinf", {act(Activation::abs), ts(Alu::equal, kInfinity)}},
    {"isnan", {tt(Alu::not_equal)}},
    {"isneginf", {ts(Alu::equal, -kInfinity)}},
    {"isposinf", {ts(Alu::equal, kInfinity)}},
    {"le", {tt(Alu::less_equal)}},
    {"leaky_relu", {ts(Alu::multiply), tt(Alu::maximum)}},
    {"lerp", {tt(Alu::subtract), tt(Alu::multiply), tt(Alu::add)}},
    {"log", {act(Activation::log)}},
    {"log10", {act(Activation::log), ts(Alu::multiply, 0.4342945F)}},
    {"log1p", {act(Activation::log, 1)}},
    {"log2", {act(Activation::log), ts(Alu::multiply, 1.442695F)}},
    {"logical_and", {tt(Alu::logical_and)}},
    {"logical_not", {ts(Alu::equal)}},
    {"logical_or", {tt(Alu::logical_or)}},
    {"logical_xor", {tt(Alu::logical_xor)}},
    {"lt", {tt(Alu::less)}},
    {"masked_fill", {op(Opcode::tensor_copy_predicated)}},
    {"maximum", {tt(Alu::maximum)}},
    {"minimum", {tt(Alu::minimum)}},
    {"mish", {act(Activation::mish)}},
    {"mul", {tt(Alu::multiply)}},
    {"ne", {tt(Alu::not_equal)}},
    {"neg", {ts(Alu::multiply, -1)}},
    {"nextafter", {tt(Alu::equal), tt(Alu::greater), ts(Alu::add, 0, 2), select(3)}},
    {"polar",
     {ts(Alu::add), ts(Alu::add, 3.1415927F), ts(Alu::modulo, 6.2831855F), act(Activation::sin, -3.1415927F),
      ts(Alu::add, 3.1415927F), ts(Alu::modulo, 6.2831855F), act(Activation::sin, -3.1415927F), tt(Alu::multiply, 2)}},
    {"quantize_per_channel",
     {op(Opcode::reciprocal), tt(Alu::multiply), ts(Alu::add, 12582912), ts(Alu::subtract, 12582912), tt(Alu::add),
      ts(Alu::maximum), ts(Alu::minimum)}},
    {"quantize_per_tensor",
     {ts(Alu::multiply), ts(Alu::add, 12582912), ts(Alu::subtract, 12582912), ts(Alu::add), ts(Alu::maximum),
      ts(Alu::minimum)}},
    {"quantize_per_tensor_dynamic",
     {ts(Alu::multiply), ts(Alu::add, 12582912), ts(Alu::subtract, 12582912), ts(Alu::add), ts(Alu::maximum),
      ts(Alu::minimum)}},
    {"rad2deg", {ts(Alu::multiply, 57.29578F)}},
    {"reciprocal", {op(Opcode::reciprocal)}},
    {"relu", {act(Activation::relu)}},
    {"remainder", {tt(Alu::modulo)}},
    {"rsqrt", {act(Activation::rsqrt)}},
    {"rsub", {tt(Alu::subtract), ts(Alu::multiply, -1)}},
    {"sgn", {act(Activation::sign)}},
    {"sigmoid", {act(Activation::sigmoid)}},
    {"sigmoid_backward", {ts(Alu::subtract), tt(Alu::multiply, 2)}},
    {"sign", {act(Activation::sign)}},
    {"signbit", {ts(Alu::less)}},
    {"silu", {act(Activation::silu)}},
    {"special_airy_ai",
     {act(Activation::abs), act(Activation::sqrt), horner(42), op(Opcode::reciprocal, 4), ts(Alu::add, 3.1415927F),
      ts(Alu::modulo, 6.2831855F), act(Activation::sin, -3.1415927F), ts(Alu::add), ts(Alu::add, 3.1415927F),
      ts(Alu::modulo, 6.2831855F), act(Activation::sin, -3.1415927F), act(Activation::exp), tt(Alu::multiply, 6),
      select(4)}},
    {"special_hermite_polynomial_h", {tt(Alu::multiply, 16), tt(Alu::subtract, 16), select()}},
    {"special_hermite_polynomial_he", {tt(Alu::multiply, 16), tt(Alu::subtract, 16), select()}},
    {"special_laguerre_polynomial_l", {tt(Alu::multiply, 16), tt(Alu::subtract, 16), select()}},
    {"special_legendre_polynomial_p", {tt(Alu::multiply, 16), tt(Alu::subtract, 16), select()}},
    {"special_zeta",
     {ts(Alu::add, 0, 12), act(Activation::log), tt(Alu::multiply, 12), act(Activation::exp), tt(Alu::add, 12),
      horner(12), select(2)}},
    {"sqrt", {act(Activation::sqrt)}},
    {"sub", {tt(Alu::subtract)}},
    {"tanh", {act(Activation::tanh)}},
    {"tanh_backward", {act(Activation::square), ts(Alu::subtract), tt(Alu::multiply)}},
    {"where", {select()}},
};

constexpr bool is_sorted_and_unique() {
  for (std::size_t i = 1; i < std::size(kRecipes); ++i) {
    if (!(kRecipes[i - 1].name < kRecipes[i].name)) {
      return false;
    }
  }
  return true;
}
static_assert(is_sorted_and_unique(), "kRecipes must be sorted by name, each name once");

const Recipe* recipe_named(std::string_view function) {
  const auto* const found = std::ranges::lower_bound(kRecipes, function, {}, &Recipe::name);
  return found != std::end(kRecipes) && found->name == function ? found : nullptr;
}

}  // namespace

std::vector<Step> recipe(std::string_view function) {
  std::vector<Step> steps;
  if (const Recipe* const found = recipe_named(function)) {
    for (const Run& run : found->runs) {
      append(steps, run);
    }
  }
  return steps;
}

}  // namespace trn::aten::rules
