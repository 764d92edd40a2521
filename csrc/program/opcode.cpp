// The table of instructions, one row each.
#include "program/opcode.h"

#include <iterator>

namespace trn::program {
namespace {

constexpr OpcodeTraits kTraits[] = {
    {Opcode::dma_copy, Engine::dma, 1, CycleRule::none},
    {Opcode::dma_transpose, Engine::dma, 1, CycleRule::none},
    {Opcode::dma_gather, Engine::dma, 2, CycleRule::none},
    {Opcode::dma_scatter, Engine::dma, 2, CycleRule::none},
    {Opcode::nc_matmul, Engine::tensor, 2, CycleRule::matmul},
    {Opcode::nc_transpose, Engine::tensor, 1, CycleRule::transpose},
    {Opcode::activation, Engine::scalar, 1, CycleRule::activation},
    {Opcode::activation_reduce, Engine::scalar, 1, CycleRule::plus_reduce},
    {Opcode::tensor_tensor, Engine::vector, 2, CycleRule::tensor_tensor},
    {Opcode::tensor_scalar, Engine::vector, 1, CycleRule::copy},
    {Opcode::scalar_tensor_tensor, Engine::vector, 2, CycleRule::scalar_tensor},
    {Opcode::tensor_copy, Engine::vector, 1, CycleRule::copy},
    {Opcode::tensor_copy_predicated, Engine::vector, 1, CycleRule::predicated},
    {Opcode::select, Engine::vector, 2, CycleRule::full},
    {Opcode::reciprocal, Engine::vector, 1, CycleRule::reciprocal},
    {Opcode::tensor_reduce, Engine::vector, 1, CycleRule::reduce},
    {Opcode::tensor_tensor_scan, Engine::vector, 1, CycleRule::half_rate},
    {Opcode::bn_stats, Engine::vector, 1, CycleRule::full},
    {Opcode::bn_aggr, Engine::vector, 1, CycleRule::bn_aggr},
    {Opcode::memset, Engine::vector, 0, CycleRule::memset},
    {Opcode::iota, Engine::gpsimd, 0, CycleRule::gpsimd},
    {Opcode::affine_select, Engine::gpsimd, 1, CycleRule::gpsimd},
    {Opcode::local_gather, Engine::gpsimd, 2, CycleRule::local_gather},
    {Opcode::max8, Engine::vector, 1, CycleRule::full},
    {Opcode::nc_find_index8, Engine::vector, 1, CycleRule::full},
    {Opcode::nc_match_replace8, Engine::vector, 1, CycleRule::full},
    {Opcode::rng, Engine::gpsimd, 0, CycleRule::gpsimd},
};

constexpr bool is_complete() {
  for (std::size_t i = 0; i < std::size(kTraits); ++i) {
    if (static_cast<std::size_t>(kTraits[i].opcode) != i) {
      return false;
    }
  }
  return std::size(kTraits) == target::kNumOpcodes;
}
static_assert(is_complete());

}  // namespace

const OpcodeTraits& traits(Opcode opcode) {
  return kTraits[static_cast<std::size_t>(opcode)];
}

}  // namespace trn::program
