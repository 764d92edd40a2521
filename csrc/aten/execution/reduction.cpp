// Binds reductions: the reduced axes innermost, or outermost where they lie across partitions.
#include <algorithm>
#include <string_view>

#include "aten/alias.h"
#include "aten/execution.h"
#include "aten/execution/rows.h"

namespace trn::aten {

namespace {

constexpr std::string_view kComputed[] = {
    "all", "amax", "amin", "any",      "count_nonzero", "linalg__powsum", "linalg_vector_norm",
    "max", "mean", "min",  "mse_loss", "nansum",        "norm",           "prod",
    "sum"};

// The bias gradient of a convolution: the sum of grad_output over all but its channels.
std::optional<BoundPart> bind_bias_gradient(const LaunchArguments& args, const kernels::ReductionShape& shape) {
  const at::Tensor &grad = args.tensor("grad_output"), &result = args.output(2);
  if (!is_plain(grad) || !is_plain(result) || result.scalar_type() != grad.scalar_type()) {
    return std::nullopt;
  }
  BoundPart bound;
  bound.inputs.push_back(cpu_alias(grad).movedim(1, shape.across_partitions ? -1 : 0).contiguous());
  bound.outputs.push_back(dense_result(cpu_alias(result)));
  return bound;
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::ReductionShape& shape,
                                   const program::Program&) {
  if (args.base_name().starts_with("convolution_backward")) {
    return bind_bias_gradient(args, shape);
  }
  if (!std::ranges::binary_search(kComputed, args.base_name())) {
    return std::nullopt;
  }
  const auto inputs = args.input_tensors();
  const at::Tensor& out = args.output();
  const auto is_alike = [&](const at::Tensor& input) {
    return is_plain(input) && input.sizes() == inputs.front().sizes();
  };
  if (!is_plain(out) || !std::ranges::all_of(inputs, is_alike)) {
    return std::nullopt;
  }
  const auto dims = args.integers("dim");
  BoundPart bound;
  for (const at::Tensor& input : inputs) {
    bound.inputs.push_back(as_rows(cpu_alias(input), dims, shape.across_partitions).contiguous());
  }
  bound.outputs.push_back(dense_result(cpu_alias(out)));
  return bound;
}

}  // namespace trn::aten
