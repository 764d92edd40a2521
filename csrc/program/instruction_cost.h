// The cost of one instruction, executed once.
#pragma once

#include <cstdint>

#include "program/count.h"
#include "program/program.h"
#include "target/target.h"

namespace trn::program {

// Engine cycles by the opcode's rule (facts 3.1); 0 for DMA.
std::int64_t cycles(const Program& program, const Instruction& instruction, const target::Core& core);

// A transfer's descriptors: one per contiguous run of HBM within one partition. `run_bytes` in HBM's dtype; the last
// run of a row may be shorter.
struct Transfer {
  std::int64_t descriptors = 0;
  std::int64_t bytes = 0;  // carried by the DMA engines: a broadcast row counts once per partition
};
Transfer transfer(const Program& program, const Instruction& instruction);
// A scatter that adds reads the rows that it writes.
bool adds_to_rows(const Instruction& instruction);

// Adds `times` executions of the instruction to `counts`.
void add_instruction(Counts& counts, const Program& program, const Instruction& instruction, const target::Core& core,
                     std::int64_t times);

}  // namespace trn::program
