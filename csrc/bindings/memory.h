// Snapshots of device memory and their history for Python, with torch.cuda's keys.
#pragma once

#include <pybind11/pybind11.h>

namespace trn::bindings {

void bind_memory(pybind11::module_& module);

}  // namespace trn::bindings
