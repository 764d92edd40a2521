// The recorder for Python: open, close, and the hooks that say where a launch comes from.
#pragma once

#include <ATen/core/Tensor.h>
#include <pybind11/pybind11.h>

#include "runtime/memory.h"

namespace trn::bindings {

// Names the owner of a tensor's memory; a tensor elsewhere is left alone.
void tag(const at::Tensor& tensor, runtime::MemoryCategory category);

void bind_profile(pybind11::module_& module);

}  // namespace trn::bindings
