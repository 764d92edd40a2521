// How the operands of a pointwise launch repeat.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

// Axes of a tensor from the outermost in memory to the innermost.
std::vector<std::int64_t> memory_order(const at::Tensor& tensor);

// Gives a shape its axes, in the order in which the first result lies, where an input repeats otherwise than by whole
// periods of one length.
void set_axes(kernels::PointwiseShape& shape, Tensors inputs, Tensors outputs);

}  // namespace trn::aten::rules
