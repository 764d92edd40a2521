// Pointwise functions of operands that repeat along any of their axes.
#pragma once

#include "kernels/build.h"

namespace trn::kernels {

// Of a shape with axes.
program::Program pointwise_broadcast(const target::Target& target, const PointwiseShape& shape);

// Throws `invalid_argument` unless axes, repeats and the operands' elements agree.
void check_axes(const PointwiseShape& shape);

}  // namespace trn::kernels
