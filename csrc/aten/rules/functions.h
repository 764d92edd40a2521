// The tables of pointwise functions that are written as expressions.
#pragma once

#include <initializer_list>
#include <span>
#include <string_view>

#include "aten/rules/expression.h"

namespace trn::aten::rules {

struct Function {
  std::string_view name;
  void (*write)(Expression&);
};

inline Value abs(Expression& e, Value x, float scale = 1) {
  return e.activation(Activation::abs, x, scale);
}
// c0 x^n + c1 x^(n-1) + ... + cn
Value polynomial(Expression& e, Value x, std::initializer_list<float> coefficients);
// sin(x + quarter_turns pi / 2) of any x.
Value sine(Expression& e, Value x, float quarter_turns);

// Sorted by name.
std::span<const Function> losses();  // of an element, before the reduction; and their backward
std::span<const Function> special_functions();
std::span<const Function> trigonometry();  // circular and hyperbolic functions, and erf's inverse

}  // namespace trn::aten::rules
