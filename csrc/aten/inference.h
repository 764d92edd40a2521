// A launch without its values: what an operator leaves follows from its arguments' shapes.
#pragma once

#include <ATen/core/stack.h>

#include "aten/launch_seam.h"
#include "aten/operator_plan.h"

namespace trn::aten {

// Takes the arguments off the stack and leaves results on the device that hold no values. False, the stack untouched:
// every value is known and there are few, so that the operator is to be computed.
bool infer(const OperatorPlan& plan, const KeyWords& key, int device, std::int64_t num_draws, torch::jit::Stack& stack);

}  // namespace trn::aten
