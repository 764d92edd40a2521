// The emulated NeuronCore's instructions.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "bindings/recorded_core.h"
#include "target/isa.h"

namespace trn::bindings {

using Class = pybind11::class_<RecordedCore, Core>;
inline constexpr const char* kAny = "unknown";  // nki.isa's word for what a compiler chooses

void bind_neuron_core(pybind11::module_& module);
// Memories, DMA and TensorE: neuron_core_tiles.cpp.
void bind_tiles(Class& core);
// Reductions, searches, gathers, formats and synchronisation: neuron_core_reductions.cpp.
void bind_reductions(pybind11::module_& module, Class& core);
// What the cores of a logical one run together: neuron_core_joined.cpp.
void bind_logical_core(pybind11::module_& module);
void bind_joined(Class& core);
// `where` is the instruction, for errors.
emu::ReduceCmd reduce_cmd(std::string_view where, const std::string& name);
target::Engine engine_of(std::string_view where, const std::string& name);
// One of those that have the instruction, the first where none or "unknown" is asked for.
target::Engine engine_of(std::string_view where, const std::optional<std::string>& name,
                         std::initializer_list<target::Engine> engines);
// Whether there is a reduction, of which only add exists.
bool is_add(const std::string& where, const std::optional<std::string>& op);
// The operand of an operation that may take none.
emu::ScalarOperand operand_of(std::string_view where, target::Alu function, const std::optional<Operand>& operand);
// Which of two words `got` is; another is an error.
bool chooses(const std::string& where, const std::string& got, const std::string& yes, const std::string& no);
target::Alu alu(std::string_view where, const std::string& name);
target::Alu alu(std::string_view where, const std::optional<std::string>& name);  // none where there is no name

}  // namespace trn::bindings
