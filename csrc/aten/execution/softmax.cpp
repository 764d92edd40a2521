// Binds softmax and log_softmax: the axis innermost, or outermost where it lies across partitions.
#include <algorithm>
#include <vector>

#include "aten/alias.h"
#include "aten/execution.h"
#include "aten/execution/rows.h"

namespace trn::aten {

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::SoftmaxShape& shape,
                                   const program::Program&) {
  const std::int64_t dim = args.integer("dim", -1);
  auto laid_out = [&](const at::Tensor& tensor) {
    return as_rows(cpu_alias(tensor), std::span(&dim, 1), shape.across_partitions);
  };
  std::vector<at::Tensor> inputs;
  if (shape.backward) {
    inputs = {args.tensor("grad_output"), args.tensor("output")};
  } else {
    inputs = {args.tensor("self")};
  }
  const at::Tensor& out = args.output();
  if (!std::ranges::all_of(inputs, is_plain) || !is_plain(out) ||
      inputs.front().scalar_type() != inputs.back().scalar_type()) {
    return std::nullopt;
  }
  BoundPart bound;
  for (const at::Tensor& input : inputs) {
    bound.inputs.push_back(laid_out(input).contiguous());
  }
  bound.outputs.push_back(dense_result(laid_out(out)));
  return bound;
}

}  // namespace trn::aten
