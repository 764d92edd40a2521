// Binds the operands of a convolution: dense tensors, channels before positions.
#include "aten/alias.h"
#include "aten/execution.h"

namespace trn::aten {

namespace {

using kernels::ConvDirection;

const at::Tensor& input_of(const LaunchArguments& args) {
  const at::Tensor& input = args.tensor("input");
  return input.defined() ? input : args.tensor("self");
}

bool is_backward(const LaunchArguments& args) {
  return args.tensor("grad_output").defined();
}

// What the program reads, in its order.
std::vector<at::Tensor> operands(const LaunchArguments& args, const kernels::ConvShape& shape) {
  const at::Tensor &input = input_of(args), &weight = args.tensor("weight"), &grad = args.tensor("grad_output");
  if (is_backward(args) && shape.direction == ConvDirection::weight_gradient) {
    const bool is_transposed = args.boolean("transposed", false);
    return is_transposed ? std::vector{grad, input} : std::vector{input, grad};
  }
  std::vector<at::Tensor> result{is_backward(args) ? grad : input, weight};
  if (shape.bias) {
    result.push_back(args.tensor("bias"));
  }
  return result;
}

// conv_tbc has [time, batch, channels] and a weight [kernel, in, out].
at::Tensor channels_first(const at::Tensor& tensor, bool is_weight) {
  return tensor.dim() < 3 ? tensor : is_weight ? tensor.permute({2, 1, 0}) : tensor.permute({1, 2, 0});
}

BoundPart::Result time_first_result(const at::Tensor& alias) {
  BoundPart::Result result = dense_result(channels_first(alias, false));
  result.values = result.buffer.permute({2, 0, 1});
  result.original = alias;
  return result;
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::ConvShape& shape,
                                   const program::Program& program) {
  const at::Tensor& result = args.output(shape.direction == ConvDirection::weight_gradient ? 1 : 0);
  const std::vector<at::Tensor> inputs = operands(args, shape);
  const bool is_time_first = args.base_name() == "conv_tbc";
  if (!is_plain(result) || dtype_of(result.scalar_type()) != shape.dtype) {
    return std::nullopt;
  }
  BoundPart bound;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor& input = inputs[i];
    if (!is_plain(input) || dtype_of(input.scalar_type()) != shape.dtype ||
        input.numel() != program.buffers[i].elements) {
      return std::nullopt;
    }
    const at::Tensor alias = cpu_alias(input);
    bound.inputs.push_back((is_time_first ? channels_first(alias, i == 1) : alias).contiguous());
  }
  const at::Tensor alias = cpu_alias(result);
  bound.outputs.push_back(is_time_first ? time_first_result(alias) : dense_result(alias));
  return bound;
}

}  // namespace trn::aten
