// Binds reductions: the reduced axes innermost, or outermost where they lie across partitions.
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <string_view>

#include "aten/alias.h"
#include "aten/execution.h"
#include "aten/execution/rows.h"
#include "aten/rules/lists.h"
#include "aten/rules/parts.h"

namespace trn::aten {

namespace {

constexpr std::string_view kComputed[] = {"all",
                                          "amax",
                                          "amin",
                                          "any",
                                          "argmax",
                                          "argmin",
                                          "binary_cross_entropy",
                                          "count_nonzero",
                                          "huber_loss",
                                          "linalg__powsum",
                                          "linalg_vector_norm",
                                          "max",
                                          "mean",
                                          "min",
                                          "mse_loss",
                                          "nansum",
                                          "norm",
                                          "prod",
                                          "smooth_l1_loss",
                                          "std",
                                          "std_mean",
                                          "sum",
                                          "var",
                                          "var_mean"};

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

// Tensors of one size and type are the rows of one part.
std::optional<BoundPart> bind_list(const LaunchArguments& args, const kernels::ReductionShape& shape) {
  const auto tensors = args.tensors("self"), results = args.output_tensors();
  if (tensors.size() != results.size() || !std::ranges::all_of(tensors, is_plain) ||
      !std::ranges::all_of(results, is_plain) ||
      std::ranges::any_of(tensors, [](const at::Tensor& one) { return one.numel() == 0; })) {
    return std::nullopt;
  }
  std::vector<at::Tensor> rows, members;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].numel() == shape.cols && dtype_of(tensors[i].scalar_type()) == shape.inputs.front().dtype) {
      rows.push_back(cpu_alias(tensors[i]).flatten());
      members.push_back(cpu_alias(results[i]));
    }
  }
  if (rows.empty()) {
    return std::nullopt;
  }
  const at::Tensor buffer = at::empty({static_cast<std::int64_t>(rows.size())}, members.front().options());
  return BoundPart{.program = {}, .inputs = {at::stack(rows)}, .outputs = {{buffer, {}, {}, members}}};
}

// A bias gradient of a recurrent cell: the sum over the batch of gradients that the part before has written.
std::optional<BoundPart> bind_gate_bias(const LaunchArguments& args, std::size_t number) {
  const rules::BiasGradient sum = rules::bias_gradients(args).at(number);
  if (!is_plain(sum.gates) || !is_plain(sum.bias) || !sum.gates.is_contiguous()) {
    return std::nullopt;
  }
  return BoundPart{.program = {}, .inputs = {cpu_alias(sum.gates)}, .outputs = {dense_result(cpu_alias(sum.bias))}};
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::ReductionShape& shape,
                                   const program::Program&, std::size_t part) {
  if (args.base_name().starts_with("convolution_backward")) {
    return bind_bias_gradient(args, shape);
  }
  if (rules::streams_parts(args.base_name())) {
    return bind_gate_bias(args, part - 1);
  }
  if (rules::is_list_reduction(args)) {
    return bind_list(args, shape);
  }
  if (!std::ranges::binary_search(kComputed, args.base_name())) {
    return std::nullopt;
  }
  const auto inputs = args.input_tensors(), outputs = args.output_tensors();
  const auto is_alike = [&](const at::Tensor& input) {
    return is_plain(input) && input.sizes() == inputs.front().sizes();
  };
  if (!std::ranges::all_of(outputs, is_plain) || !std::ranges::all_of(inputs, is_alike)) {
    return std::nullopt;
  }
  const auto dims = args.integers("dim");
  BoundPart bound;
  for (const at::Tensor& input : inputs) {
    bound.inputs.push_back(as_rows(cpu_alias(input), dims, shape.across_partitions).contiguous());
  }
  for (const at::Tensor& output : outputs) {
    bound.outputs.push_back(dense_result(cpu_alias(output)));
  }
  return bound;
}

}  // namespace trn::aten
