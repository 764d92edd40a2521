// Counts a Program by multiplying trips: the loops are never walked.
#include "program/count.h"

#include "program/instruction_cost.h"

namespace trn::program {
namespace {

void add_items(Counts& counts, const Program& program, const std::vector<Item>& items, const target::Core& core,
               std::int64_t times) {
  for (const Item& item : items) {
    if (const auto* instruction = std::get_if<Instruction>(&item)) {
      add_instruction(counts, program, *instruction, core, times);
    } else {
      const Loop& loop = *std::get<std::unique_ptr<Loop>>(item);
      if (loop.trips > 0) {
        add_items(counts, program, loop.body, core, times * loop.trips);
      }
    }
  }
}

}  // namespace

Counts& Counts::operator+=(const Counts& other) {
  for (std::size_t e = 0; e < instructions.size(); ++e) {
    instructions[e] += other.instructions[e];
    busy_cycles[e] += other.busy_cycles[e];
  }
  for (const auto& [dtype, flops] : other.hardware_flops) {
    hardware_flops[dtype] += flops;
  }
  transpose_flops += other.transpose_flops;
  hbm_read_bytes += other.hbm_read_bytes;
  hbm_write_bytes += other.hbm_write_bytes;
  dma_transfers += other.dma_transfers;
  dma_descriptors += other.dma_descriptors;
  sbuf_read_bytes += other.sbuf_read_bytes;
  sbuf_write_bytes += other.sbuf_write_bytes;
  psum_read_bytes += other.psum_read_bytes;
  psum_write_bytes += other.psum_write_bytes;
  return *this;
}

Counts count(const Program& program, const target::Core& core) {
  Counts counts;
  for (const Nest& nest : program.nests) {
    add_items(counts, program, nest.body, core, 1);
  }
  return counts;
}

}  // namespace trn::program
