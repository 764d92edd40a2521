// Nested tensors of the strided layout on the device; the jagged layout is made of plain tensors and needs nothing.
#include <torch/library.h>

#include "aten/any_layout.h"

namespace trn::aten {

namespace {

bool none(std::string_view) {
  return false;
}

TORCH_LIBRARY_IMPL(aten, NestedTensorPrivateUse1, m) {
  take_layout(m, "aten", c10::DispatchKey::NestedTensorCPU, none);
}

}  // namespace

}  // namespace trn::aten
