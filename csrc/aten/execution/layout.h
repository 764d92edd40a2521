// How operands are staged: densely, or in runs with gaps.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "aten/execution.h"
#include "kernels/shapes.h"

namespace trn::aten {

// The same elements where runs of `access.contiguous_elements` are spaced as in its span.
at::Tensor spread(const at::Tensor& dense, const kernels::Access& access);

// A buffer of `elements` with the tensor's in it, in their order: all of them, or spread.
at::Tensor staged(const at::Tensor& tensor, const kernels::Access& access, std::int64_t elements);

// A part of tensors that its program takes as they are, in logical order. nullopt: one of them is no plain tensor.
std::optional<BoundPart> bind_dense(const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& outputs);

}  // namespace trn::aten
