// A Program bound to memories: every operand is a view whose address is a sum over the loops around it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "emu/neuron_core.h"
#include "program/program.h"

namespace trn::program {

struct PreparedOperand {
  std::int16_t buffer = -1;  // -1: an index pattern, whose offset is in elements
  emu::View view = {};       // all but its address
  std::int64_t partition_stride = 0;
  std::int64_t offset = 0;
  std::vector<std::int64_t> strides = {};  // by loop, outermost first; bytes, or elements of a pattern
};

struct PreparedInstruction {
  const Instruction* instruction = nullptr;
  std::int64_t ordinal = 0;
  PreparedOperand dst = {};
  std::vector<PreparedOperand> src = {};
  PreparedOperand res = {};  // of no buffer where the instruction has no second result
};

struct PreparedLoop;
using PreparedItem = std::variant<PreparedInstruction, std::unique_ptr<PreparedLoop>>;

// On-chip buffers that every trip of a parallel loop uses anew are private to the worker that runs it.
struct PrivateBuffer {
  std::int16_t buffer = -1;
  std::size_t bytes = 0;
  bool copy_in = false;   // a trip reads what was written before the loop
  bool copy_out = false;  // what the last trip wrote is read after it
};

struct PreparedLoop {
  std::int64_t trips = 1;
  std::size_t depth = 0;
  bool forks = false;  // parallel, and worth more than one host thread
  std::vector<PrivateBuffer> privates;
  std::vector<PreparedItem> body;
};

struct PreparedProgram {
  const Program* program = nullptr;
  std::vector<PreparedItem> items = {};
  std::size_t max_depth = 0;
  std::vector<std::vector<std::byte*>> bases = {};  // by core, by buffer: where it begins; nullptr in HBM
};

// Do its on-chip buffers fit? One copy each, as they execute.
bool fits_on_chip(const Program& program, const target::Core& core);
// Empties the cores, allocates the on-chip buffers on each, and checks that every address lies within its buffer.
PreparedProgram prepare(const Program& program, std::span<emu::NeuronCore* const> cores);

}  // namespace trn::program
