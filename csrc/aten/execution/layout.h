// How operands are staged: runs with gaps.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/shapes.h"

namespace trn::aten {

// The same elements where runs of `access.contiguous_elements` are spaced as in its span.
at::Tensor spread(const at::Tensor& dense, const kernels::Access& access);

// A buffer of `elements` with the tensor's in it, in their order: all of them, or spread.
at::Tensor staged(const at::Tensor& tensor, const kernels::Access& access, std::int64_t elements);

}  // namespace trn::aten
