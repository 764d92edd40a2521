// The emulated NeuronCore's instructions.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>

#include "bindings/recorded_core.h"

namespace trn::bindings {

void bind_neuron_core(pybind11::module_& module);
// Reductions, searches, gathers, formats and synchronisation: neuron_core_reductions.cpp.
void bind_reductions(pybind11::class_<RecordedCore, Core>& core);
emu::ReduceCmd reduce_cmd(const std::string& name);

}  // namespace trn::bindings
