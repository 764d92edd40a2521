// Assembles a NeuronCore.
#include "emu/neuron_core.h"

namespace trn::emu {

NeuronCore::NeuronCore(const target::Core& core, std::uint64_t seed, TileGemm gemm, const Numerics& numerics)
    : core(core),
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
