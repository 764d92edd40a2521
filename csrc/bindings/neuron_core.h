// The emulated NeuronCore's instructions.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>

#include "bindings/recorded_core.h"
#include "target/isa.h"

namespace trn::bindings {

void bind_neuron_core(pybind11::module_& module);
// Reductions, searches, gathers, formats and synchronisation: neuron_core_reductions.cpp.
void bind_reductions(pybind11::class_<RecordedCore, Core>& core);
emu::ReduceCmd reduce_cmd(const std::string& name);
target::Engine engine_of(const std::string& name);
// Which of two words `got` is; another is an error.
bool chooses(const std::string& where, const std::string& got, const std::string& yes, const std::string& no);
target::Alu alu(const std::string& name);
target::Alu alu(const std::optional<std::string>& name);  // none where there is no name

}  // namespace trn::bindings
