// Sparse tensors on the device: COO and the compressed layouts.
#include <ATen/ops/copy_native.h>
#include <ATen/ops/copy_sparse_to_sparse_native.h>
#include <torch/library.h>

#include "aten/any_layout.h"

namespace trn::aten {

namespace {

// Copies are made of the members' own, which may cross the host link.
bool is_copy(std::string_view name) {
  return name == "aten::copy_" || name == "aten::copy_sparse_to_sparse_";
}

TORCH_LIBRARY_IMPL(aten, SparsePrivateUse1, m) {
  take_layout(m, "aten", c10::DispatchKey::SparseCPU, is_copy);
  m.impl("copy_", TORCH_FN(at::native::copy_sparse_wrapper_));
  m.impl("copy_sparse_to_sparse_", TORCH_FN(at::native::copy_sparse_));
}

TORCH_LIBRARY_IMPL(aten, SparseCsrPrivateUse1, m) {
  take_layout(m, "aten", c10::DispatchKey::SparseCsrCPU, is_copy);
  m.impl("copy_", TORCH_FN(at::native::copy_sparse_compressed_));
}

}  // namespace

}  // namespace trn::aten
