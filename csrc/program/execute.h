// Executes a Program on an emulated NeuronCore, in order.
#pragma once

#include <span>

#include "emu/neuron_core.h"
#include "program/count.h"
#include "program/program.h"

namespace trn::program {

// `tensors` bind the program's HBM buffers in order, temporaries left out: those are allocated here. One copy of each
// on-chip buffer is used: copies change the time, not the values. Throws `unimplemented` for opcodes that are only
// counted.
void execute(const Program& program, emu::NeuronCore& core, std::span<const emu::HbmTensor> tensors);

// The same, counting each instruction as it runs; HBM bytes are those that the DMA engines moved.
Counts execute_counted(const Program& program, emu::NeuronCore& core, std::span<const emu::HbmTensor> tensors);

}  // namespace trn::program
