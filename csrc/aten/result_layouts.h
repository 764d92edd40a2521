// How the CPU's kernels, which a run with values is made of, lay out their results where PyTorch's shape rules say
// something else.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <vector>

#include "aten/operator_plan.h"
#include "aten/shape_tracing.h"

namespace trn::aten {

// `tensors` on the meta device, by the flat arguments: those of `traced` that the shape rules found are corrected.
void follow_cpu_kernels(const OperatorPlan& plan, c10::ArrayRef<c10::IValue> arguments,
                        const std::vector<FlatTensor>& flat, const std::vector<at::Tensor>& metas, Traced& traced);

}  // namespace trn::aten
