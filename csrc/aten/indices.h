// Lists of indices as operators take them: some left out, some masks.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>

#include "aten/operator_plan.h"

namespace trn::aten {

// Whether an index chooses by true and false.
bool is_mask(const at::Tensor& index);
// A list of indices on top of the stack, of whatever type the caller made it, becomes one of optional tensors; masks
// become the positions of their elements, which a launch of its own finds while the host waits, as on other
// accelerators, unless one value is written to all of them. Where a dry run knows no mask, it asks for one if the
// result's size follows from it, and does without otherwise.
void make_indices(const OperatorPlan& plan, torch::jit::Stack& stack);

}  // namespace trn::aten
