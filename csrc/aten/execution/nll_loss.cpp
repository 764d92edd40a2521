// Binds the negative log likelihood, forward and backward.
#include "aten/alias.h"
#include "aten/execution.h"
#include "aten/execution/layout.h"

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
  const bool is_plain_target = is_plain(inputs[1]) && name_classes(cpu_alias(inputs[1]), shape);
  return is_plain_target ? bind_dense(inputs, args.output_tensors()) : std::nullopt;
}

}  // namespace trn::aten
