// The cost of one instruction, executed once.
#pragma once

#include <array>
#include <cstdint>

#include "program/count.h"
#include "program/program.h"
#include "target/target.h"

namespace trn::program {

// Engine cycles by the opcode's rule (NKI ISA, SDK 2.26); 0 for DMA, registers and semaphores.
std::int64_t cycles(const Program& program, const Instruction& instruction, const target::Core& core);
// What an engine's cycles take: its clock, and of TensorE's the part that the best kernels reach.
double clock_hz(Engine engine, const target::Target& target);
// From an instruction's end until the next one, of any engine, sees what it wrote.
double result_latency_seconds(Engine engine, const target::Target& target);

// What engines of NeuronCore-v2 cannot access at once (NKI's architecture guide): a memory has a port for the two.
struct Port {
  Memory memory;
  std::array<Engine, 2> engines;
};
inline constexpr std::array kPorts = {Port{Memory::sbuf, {Engine::vector, Engine::gpsimd}},
                                      Port{Memory::psum, {Engine::vector, Engine::scalar}}};
// Whether the instruction holds the port while it is busy.
bool holds(const Port& port, const Program& program, const Instruction& instruction, const target::Core& core);

// A transfer's descriptors: one per contiguous run of HBM within one partition. `run_bytes` in HBM's dtype; the last
// run of a row may be shorter.
struct Transfer {
  std::int64_t descriptors = 0;
  std::int64_t bytes = 0;  // carried by the DMA engines: a broadcast row counts once per partition
};
Transfer transfer(const Program& program, const Instruction& instruction);
// Whether two cores' tiles cross.
bool is_exchange(Opcode opcode);
// Whether an index tile picks the rows that a transfer moves.
bool is_indexed(Opcode opcode);
// A transfer that adds reads what it writes.
bool adds_in_place(const Instruction& instruction);
// How often such a transfer passes over its data: twice, but once where SBUF adds by itself, from NeuronCore-v4 on.
int transfer_passes(const Program& program, const Instruction& instruction, const target::Core& core);
// The time of a transfer on the DMA engines of `num_cores` cores together, from its start on; one that adds takes
// it twice. HBM is the device's: the cores draw on one rate, each limited by its own DMA engines. A descriptor shorter
// than `saturating` bytes costs like (bytes + saturating) / 2 of them: half the saturating size is spent on its start.
double dma_seconds(const Program& program, const Instruction& instruction, const target::Target& target,
                   double num_cores);

// Adds `times` executions of the instruction to `counts`.
void add_instruction(Counts& counts, const Program& program, const Instruction& instruction, const target::Core& core,
                     std::int64_t times);

}  // namespace trn::program
