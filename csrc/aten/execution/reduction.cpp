// Binds the bias gradient of a convolution: the sum of grad_output over all but its channels.
#include "aten/alias.h"
#include "aten/execution.h"

namespace trn::aten {

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::ReductionShape& shape,
                                   const program::Program&) {
  if (!args.base_name().starts_with("convolution_backward")) {
    return std::nullopt;
  }
  const at::Tensor &grad = args.tensor("grad_output"), &result = args.output(2);
  if (!is_plain(grad) || !is_plain(result) || result.scalar_type() != grad.scalar_type()) {
    return std::nullopt;
  }
  const at::Tensor channels = cpu_alias(grad).movedim(1, shape.across_partitions ? -1 : 0);
  BoundPart bound;
  bound.inputs.push_back(channels.contiguous());
  bound.outputs.push_back(dense_result(cpu_alias(result)));
  return bound;
}

}  // namespace trn::aten
