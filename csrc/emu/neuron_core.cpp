// Assembles a NeuronCore.
#include "emu/neuron_core.h"

namespace trn::emu {

NeuronCore::NeuronCore(const target::Core& core, std::uint64_t seed, TileGemm gemm)
    : core(core),
      sbuf(core),
      psum(core),
      dma(core),
      tensor(core, gemm),
      vector(core),
      scalar(core),
      gpsimd(core, seed) {}

}  // namespace trn::emu
