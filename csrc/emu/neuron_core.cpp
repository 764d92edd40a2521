// Assembles a NeuronCore.
#include "emu/neuron_core.h"

namespace trn::emu {

NeuronCore::NeuronCore(const target::Core& core, std::uint64_t seed, TileGemm gemm, const Numerics& numerics)
    : core(core),
      numerics(numerics),
      sbuf(core),
      psum(core),
      dma(core),
      tensor(core, gemm),
      vector(core, numerics),
      scalar(core, numerics),
      gpsimd(core, seed, numerics) {}

void NeuronCore::seek_stochastic_bits(std::uint64_t position) {
  vector.bits().seek(position);
  scalar.bits().seek(position);
  gpsimd.bits().seek(position);
}

}  // namespace trn::emu
