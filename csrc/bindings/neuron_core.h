// The emulated NeuronCore as a Python object.
#pragma once

#include <pybind11/pybind11.h>

namespace trn::bindings {

void bind_neuron_core(pybind11::module_& module);

}  // namespace trn::bindings
