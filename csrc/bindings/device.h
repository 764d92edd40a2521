// Devices, memory, target and strictness for Python: what torch.accelerator has no name for.
#pragma once

#include <pybind11/pybind11.h>

namespace trn::bindings {

void bind_device(pybind11::module_& module);

}  // namespace trn::bindings
