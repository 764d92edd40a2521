// Binds the operands of a matrix product: each matrix with the axis innermost that its program expects there.
#include "aten/alias.h"
#include "aten/execution.h"

namespace trn::aten {

namespace {

// Matrices [batch, rows, cols]; one where all batches share it.
at::Tensor matrices(const at::Tensor& alias, std::int64_t distinct, std::int64_t rows, std::int64_t cols) {
  if (distinct == 1 && alias.dim() == 3) {
    return alias.select(0, 0).reshape({1, rows, cols});
  }
  return alias.reshape({distinct, rows, cols});
}

at::Tensor laid_out(const at::Tensor& matrices, bool as_it_is) {
  return (as_it_is ? matrices : matrices.transpose(1, 2)).contiguous();
}

bool is_scaled(const LaunchArguments& args) {
  const auto beta = scalar_class(args.number("beta", 1));
  return scalar_class(args.number("alpha", 1)) != ScalarClass::one ||
         (beta != ScalarClass::one && beta != ScalarClass::zero);
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::MatmulShape& shape,
                                   const program::Program&) {
  const auto name = args.base_name();
  const bool adds = name == "addmm" || name == "baddbmm";
  if (!(adds || name == "mm" || name == "bmm") || is_scaled(args)) {
    return std::nullopt;
  }
  const at::Tensor &a = args.tensor(adds ? 1 : 0), &b = args.tensor(adds ? 2 : 1), &out = args.output();
  if (!is_plain(a) || !is_plain(b) || !is_plain(out)) {
    return std::nullopt;
  }
  BoundPart bound;
  bound.inputs.push_back(laid_out(matrices(cpu_alias(a), shape.a_batch, shape.m, shape.k), !shape.a_k_major));
  bound.inputs.push_back(laid_out(matrices(cpu_alias(b), shape.b_batch, shape.k, shape.n), shape.b_k_major));
  if (shape.bias_elements > 0) {
    const at::Tensor bias = cpu_alias(args.tensor(0));
    const bool is_whole = shape.bias_elements == shape.batch * shape.m * shape.n;
    if (!is_whole && bias.numel() != shape.bias_elements) {
      return std::nullopt;
    }
    bound.inputs.push_back((is_whole ? bias.expand(out.sizes()) : bias).contiguous());
  }
  bound.outputs.push_back(dense_result(cpu_alias(out)));
  return bound;
}

}  // namespace trn::aten
