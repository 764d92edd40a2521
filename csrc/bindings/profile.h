// The recorder for Python: open, close, and the hooks that say where a launch comes from.
#pragma once

#include <pybind11/pybind11.h>

namespace trn::bindings {

void bind_profile(pybind11::module_& module);

}  // namespace trn::bindings
