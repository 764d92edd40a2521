// Execution of kernel programs on the emulated NeuronCore, from Python.
#pragma once

#include <pybind11/pybind11.h>

namespace trn::bindings {

void bind_program(pybind11::module_& module);

}  // namespace trn::bindings
