// Assembles a NeuronCore.
#include "emu/neuron_core.h"

#include <string>
#include <utility>

#include "emu/lanes.h"
#include "target/error.h"

namespace trn::emu {

namespace {

// The engines keep a scalar for each partition on their stack.
const target::Core& checked(const target::Core& core) {
  for (const auto& [name, value] : {std::pair{"num_partitions", core.num_partitions},
                                    std::pair{"stationary_free_max_elements", core.stationary_free_max_elements}}) {
    if (value < 1 || value > kMostPartitions) {
      throw Error(Category::unsupported, std::string("[target] core.") + name + " must lie in 1 to " +
                                             std::to_string(kMostPartitions) + "; got " + std::to_string(value) + ".");
    }
  }
  return core;
}

}  // namespace

NeuronCore::NeuronCore(const target::Core& core, std::uint64_t seed, TileGemm gemm, const Numerics& numerics)
    : core(checked(core)),
      numerics(numerics),
      sbuf(core),
      psum(core),
      dma(core, numerics),
      tensor(core, gemm, numerics),
      vector(core, numerics, seed),
      scalar(core, numerics),
      gpsimd(core, seed, numerics) {}

void NeuronCore::seek_stochastic_bits(std::uint64_t position) {
  tensor.bits().seek(position);
  vector.bits().seek(position);
  vector.random().seek(position);
  scalar.bits().seek(position);
  gpsimd.bits().seek(position);
}

void NeuronCore::set_checks(bool poisons, bool raises_uninitialized) {
  sbuf.set_checks(poisons, raises_uninitialized);
  psum.set_checks(poisons, raises_uninitialized);
  dma.set_checks(raises_uninitialized);
  sync.set_checks(raises_uninitialized);
}

}  // namespace trn::emu
