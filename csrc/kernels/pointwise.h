// Which pointwise shapes can be executed, not only counted.
#pragma once

#include "kernels/shapes.h"

namespace trn::kernels {

// Throws `unimplemented` with the reason: complex elements, broadcasting that one period does not express, or steps
// outside the list at Step.
void require_executable(const PointwiseShape& shape);

}  // namespace trn::kernels
