// Executes a Program on emulated NeuronCores: trips of parallel loops side by side, everything else in order.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "emu/neuron_core.h"
#include "program/count.h"
#include "program/program.h"

namespace trn::program {

// Host threads and the cores that they drive. `run(n, body)` calls body(0) ... body(n - 1), each on a thread of its
// own where there is one; n is at most cores.size(). Values do not depend on how many there are.
struct Workers {
  std::vector<emu::NeuronCore*> cores;
  std::uint64_t launch = 0;  // stochastic rounding: each launch has random bits of its own
  std::function<void(std::int64_t n, const std::function<void(std::int64_t worker)>& body)> run;
  std::span<const float> draws = {};  // what rng gives at each place; empty: numbers of the cores' own
};

// `tensors` bind the program's HBM buffers in order, temporaries left out: those are allocated here. One copy of each
// on-chip buffer is used: copies change the time, not the values. Throws `unimplemented` for opcodes that are only
// counted.
void execute(const Program& program, const Workers& workers, std::span<const emu::HbmTensor> tensors);

// The same, counting each instruction as it runs; HBM bytes are those that the DMA engines moved.
Counts execute_counted(const Program& program, const Workers& workers, std::span<const emu::HbmTensor> tensors);

}  // namespace trn::program
