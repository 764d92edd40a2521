// The c10d backend for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace trn::bindings {

void bind_distributed(pybind11::module_& module);

}  // namespace trn::bindings
