// The table of instructions: engine, operands and cycle rule of each opcode.
#pragma once

#include "program/program.h"

namespace trn::program {

using target::name;

// N is the number of elements per partition (NKI ISA, SDK 2.26). VectorE's and ScalarE's rules have the core's minimum
// as their floor. Where VectorE divides two tiles wider than 16 bits, it takes 8N.
enum class CycleRule : std::uint8_t {
  none,           // DMA: time comes from bytes and descriptors
  matmul,         // passes * max(min(64, N_stationary), N_moving)
  transpose,      // TensorE max(P, min(64, F)); VectorE N
  activation,     // N, and 64 where the sums are read out
  plus_reduce,    // N + 64
  copy,           // N over the copy performance mode
  full,           // N
  tensor_tensor,  // N with an input in PSUM or 16-bit add, subtract, multiply; 2N otherwise
  scalar_tensor,  // N for an even N of 16-bit add, subtract, multiply; 2N otherwise
  half_rate,      // 2N
  predicated,     // N in 16 bits, 2N otherwise
  reduce,         // N/2 for 16-bit add, maximum; N otherwise
  reciprocal,     // 8N
  bn_aggr,        // 13N/3
  memset,         // N/2 for 16-bit zero; N otherwise
  gpsimd,         // fixed + N
  local_gather,   // fixed + n e / C
  gather_512,     // fixed for each 512 indices, + N
  gpsimd_dma,     // on GpSimdE fixed + bytes at the rate of its own DMA
  topk,           // 4n + K of the n elements that the instruction ranks
  quarter,        // N/4
};

struct OpcodeTraits {
  Opcode opcode;
  Engine engine;     // where it runs unless the instruction says otherwise
  int num_operands;  // source tiles that it needs at least
  CycleRule rule;
  std::string_view operands;  // by nki.isa's names, the result first; optional ones in brackets
  std::string_view limits;    // what the emulator enforces beyond 128 partitions and equal shapes
  int first_generation = 2;
  bool is_derived = false;  // no document states its cycles: they follow a like instruction
};

const OpcodeTraits& traits(Opcode opcode);
// The rule as a formula of N, the elements per partition.
std::string_view formula(CycleRule rule);

}  // namespace trn::program
