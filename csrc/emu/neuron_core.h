// One NeuronCore: its memories and engines.
#pragma once

#include <cstdint>

#include "emu/dma.h"
#include "emu/gpsimd_engine.h"
#include "emu/numerics.h"
#include "emu/psum.h"
#include "emu/sbuf.h"
#include "emu/scalar_engine.h"
#include "emu/sync_engine.h"
#include "emu/tensor_engine.h"
#include "emu/vector_engine.h"
#include "target/target.h"

namespace trn::emu {

class NeuronCore {
 public:
  explicit NeuronCore(const target::Core& core, std::uint64_t seed = 0, TileGemm gemm = plain_tile_gemm,
                      const Numerics& numerics = {});

  // Stochastic rounding goes on from `position`: a tile rounds alike whichever core runs it.
  void seek_stochastic_bits(std::uint64_t position);

  // Fresh tiles hold NaN (the default), and reading them raises (strict mode).
  void set_checks(bool poisons, bool raises_uninitialized);

  const target::Core core;
  const Numerics numerics;
  Sbuf sbuf;
  Psum psum;
  Dma dma;
  TensorEngine tensor;
  VectorEngine vector;
  ScalarEngine scalar;
  GpSimdEngine gpsimd;
  SyncEngine sync;
};

}  // namespace trn::emu
