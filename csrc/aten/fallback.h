// Every operator with a CPU kernel on the device: the kernel runs on aliases, the launch is charged from its program.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include "aten/operator_plan.h"
#include "runtime/launch.h"

namespace trn::aten {

// Takes the arguments off the stack and leaves the results, as any boxed kernel. Returns the launch that it charged.
const runtime::LaunchVariant* run_on_device(const OperatorPlan& plan, torch::jit::Stack* stack);

// Backward of device work runs on the calling thread, as on the CPU: an engine thread per device would bring an OpenMP
// team of its own that competes with the caller's for the same cores.
void run_backward_on_this_thread();

}  // namespace trn::aten
