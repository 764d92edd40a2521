// Every operator with a CPU kernel on the device: the kernel runs on aliases, the launch is charged from its program.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include "aten/operator_plan.h"
#include "runtime/launch.h"

namespace trn::aten {

// Takes the arguments off the stack and leaves the results, as any boxed kernel. Returns the launch that it charged.
const runtime::LaunchVariant* run_on_device(const OperatorPlan& plan, torch::jit::Stack* stack);

}  // namespace trn::aten
