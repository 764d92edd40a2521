// Nested tensors of the strided layout on the device; the jagged layout is made of plain tensors and needs nothing.
#include <ATen/ops/_nested_tensor_size_native.h>
#include <ATen/ops/_nested_tensor_storage_offsets_native.h>
#include <ATen/ops/_nested_tensor_strides_native.h>
#include <ATen/ops/_to_copy_native.h>
#include <ATen/ops/copy_native.h>
#include <torch/library.h>

#include "aten/any_layout.h"

namespace trn::aten {

namespace {

// Copies are made of the buffers' own, which may cross the host link; sizes lie on the host.
bool has_own_nested_kernel(std::string_view name) {
  return name == "aten::copy_" || name == "aten::_to_copy" || name == "aten::_nested_tensor_size" ||
         name == "aten::_nested_tensor_strides" || name == "aten::_nested_tensor_storage_offsets";
}

TORCH_LIBRARY_IMPL(aten, NestedTensorPrivateUse1, m) {
  take_layout(m, "aten", c10::DispatchKey::NestedTensorCPU, has_own_nested_kernel);
  m.impl("copy_", TORCH_FN(at::native::copy_nested_));
  m.impl("_to_copy", TORCH_FN(at::native::_to_copy_nested));
  m.impl("_nested_tensor_size", TORCH_FN(at::native::_nested_tensor_size));
  m.impl("_nested_tensor_strides", TORCH_FN(at::native::_nested_tensor_strides));
  m.impl("_nested_tensor_storage_offsets", TORCH_FN(at::native::_nested_tensor_storage_offsets));
}

}  // namespace

}  // namespace trn::aten
