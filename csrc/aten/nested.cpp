// Nested tensors of the strided layout on the device; the jagged layout is made of plain tensors and needs nothing.
#include <ATen/ops/_to_copy_native.h>
#include <ATen/ops/copy_native.h>
#include <torch/library.h>

#include "aten/any_layout.h"

namespace trn::aten {

namespace {

// Copies are made of the buffers' own, which may cross the host link.
bool is_copy(std::string_view name) {
  return name == "aten::copy_" || name == "aten::_to_copy";
}

TORCH_LIBRARY_IMPL(aten, NestedTensorPrivateUse1, m) {
  take_layout(m, "aten", c10::DispatchKey::NestedTensorCPU, is_copy);
  m.impl("copy_", TORCH_FN(at::native::copy_nested_));
  m.impl("_to_copy", TORCH_FN(at::native::_to_copy_nested));
}

}  // namespace

}  // namespace trn::aten
