// Functions that round to integers, as expressions.
#pragma once

#include "aten/rules/expression.h"

namespace trn::aten::rules {

// Of finite values.
Value floor(Expression& e, Value x);
Value trunc(Expression& e, Value x);  // towards zero
Value round(Expression& e, Value x);  // to nearest even
// Rounded down, of any divisor: what division by zero gives is a switch of hardware numerics.
Value floor_quotient(Expression& e, Value a, Value b);

// The operators: of values that are not finite too.
void write_ceil(Expression& e);
void write_floor(Expression& e);
void write_trunc(Expression& e);

}  // namespace trn::aten::rules
