// A product for each group of rows as one operator. PyTorch's CPU runs it as a product and a copy for each group; here
// those are the values of one launch, and the result's layout has a rule that takes the CPU's dtypes.
#include <ATen/native/GroupedMMUtils.h>
#include <torch/library.h>

#include <optional>

#include "aten/cpu_kernels/optional_tensor.h"

namespace trn::aten {

namespace {

using at::Tensor;

Tensor grouped_mm(const Tensor& self, const Tensor& mat2, const OptionalTensor& offs, const OptionalTensor& bias,
                  std::optional<at::ScalarType> out_dtype) {
  return at::_grouped_mm(self, mat2, offs, bias, out_dtype);
}

Tensor grouped_mm_shape(const Tensor& self, const Tensor& mat2, const OptionalTensor& offs, const OptionalTensor& bias,
                        std::optional<at::ScalarType> out_dtype) {
  // Without an offset: the check of the address is CUDA's.
  const auto at_start = [](const Tensor& tensor) { return tensor.as_strided(tensor.sizes(), tensor.strides(), 0); };
  const Tensor left = at_start(self), right = at_start(mat2);
  at::native::_grouped_mm_validate_inputs(left, right, offs, bias, out_dtype);
  const auto dtype = at::native::_resolve_grouped_mm_out_dtype(left, right, out_dtype);
  return at::native::create_grouped_gemm_output_tensor(left, right, offs, dtype);
}

TORCH_LIBRARY_FRAGMENT(trn, m) {
  m.def(
      "_grouped_mm(Tensor self, Tensor mat2, Tensor? offs=None, Tensor? bias=None, ScalarType? out_dtype=None) -> "
      "Tensor");
}
TORCH_LIBRARY_IMPL(trn, CPU, m) {
  m.impl("_grouped_mm", TORCH_FN(grouped_mm));
}
TORCH_LIBRARY_IMPL(trn, Meta, m) {
  m.impl("_grouped_mm", TORCH_FN(grouped_mm_shape));
}

}  // namespace

}  // namespace trn::aten
