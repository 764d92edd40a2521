// Binds the negative log likelihood, forward and backward.
#include <algorithm>

#include "aten/alias.h"
#include "aten/execution.h"

namespace trn::aten {

namespace {

// A place past its row is another row's.
bool name_classes(const at::Tensor& targets, const kernels::NllLossShape& shape) {
  const auto ignored = static_cast<std::int64_t>(shape.ignored);
  return targets.ge(0).logical_and(targets.lt(shape.classes)).logical_or(targets.eq(ignored)).all().item<bool>();
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::NllLossShape& shape,
                                   const program::Program&) {
  std::vector<at::Tensor> inputs{args.tensor(shape.backward ? "grad_output" : "self"), args.tensor("target")};
  if (shape.weight) {
    inputs.push_back(args.tensor("weight"));
  }
  if (shape.backward) {
    inputs.push_back(args.tensor("total_weight"));
  }
  const auto outputs = args.output_tensors();
  if (!std::ranges::all_of(inputs, is_plain) || !std::ranges::all_of(outputs, is_plain) ||
      !name_classes(cpu_alias(inputs[1]), shape)) {
    return std::nullopt;
  }
  BoundPart bound;
  for (const at::Tensor& input : inputs) {
    bound.inputs.push_back(cpu_alias(input).contiguous());
  }
  for (const at::Tensor& output : outputs) {
    bound.outputs.push_back(dense_result(cpu_alias(output)));
  }
  return bound;
}

}  // namespace trn::aten
