// Costs of collectives and the job's placement, for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace trn::bindings {

void bind_collectives(pybind11::module_& module);

}  // namespace trn::bindings
