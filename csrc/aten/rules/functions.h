// The tables of pointwise functions that are written as expressions.
#pragma once

#include <span>
#include <string_view>

#include "aten/rules/expression.h"

namespace trn::aten::rules {

struct Function {
  std::string_view name;
  void (*write)(Expression&);
};

// Sorted by name.
std::span<const Function> losses();        // of an element, before the reduction; and their backward
std::span<const Function> trigonometry();  // circular and hyperbolic functions, and erf's inverse

}  // namespace trn::aten::rules
