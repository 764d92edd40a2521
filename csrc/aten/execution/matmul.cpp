// Binds the operands of a matrix product: each matrix with the axis innermost that its program expects there.
#include <algorithm>

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

constexpr std::string_view kSums[] = {"addbmm", "addmm", "addmv", "addr", "baddbmm"};
constexpr std::string_view kProducts[] = {"bmm", "dot", "mm", "mv", "vdot"};

// addbmm sums over the batch: one product whose inner axis has it too.
at::Tensor side_by_side(const at::Tensor& batches, bool is_left) {
  return is_left ? batches.transpose(0, 1).flatten(1) : batches.flatten(0, 1);
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::MatmulShape& shape,
                                   const program::Program&) {
  const auto name = args.base_name();
  const bool adds = std::ranges::binary_search(kSums, name);
  if (!adds && !std::ranges::binary_search(kProducts, name)) {
    return std::nullopt;
  }
  const at::Tensor &left = args.tensor(adds ? 1 : 0), &right = args.tensor(adds ? 2 : 1), &out = args.output();
  if (!is_plain(left) || !is_plain(right) || !is_plain(out) || out.scalar_type() == at::kBool) {
    return std::nullopt;
  }
  if (adds && !is_device_tensor(args.tensor(0))) {
    return std::nullopt;  // a number on the host
  }
  at::Tensor a = cpu_alias(left), b = cpu_alias(right);
  if (name == "addbmm") {
    a = side_by_side(a, true);
    b = side_by_side(b, false);
  }
  BoundPart bound;
  bound.inputs.push_back(laid_out(matrices(a, shape.a_batch, shape.m, shape.k), !shape.a_k_major));
  bound.inputs.push_back(laid_out(matrices(b, shape.b_batch, shape.k, shape.n), shape.b_k_major));
  if (!shape.bias.empty()) {
    at::Tensor bias = cpu_alias(args.tensor(0)).expand(out.sizes());
    for (std::int64_t d = 0; d < out.dim(); ++d) {
      const auto axis = static_cast<std::size_t>(out.dim() == 1 ? 1 : 3 - out.dim() + d);
      bias = bias.narrow(d, 0, shape.bias[axis]);
    }
    bound.inputs.push_back(bias.contiguous());
  }
  bound.outputs.push_back(dense_result(cpu_alias(out)));
  return bound;
}

}  // namespace trn::aten
