// From a Spec to its Program and its model FLOPs: the dispatch over families.
#pragma once

#include <cstdint>

#include "kernels/shapes.h"
#include "program/program.h"
#include "target/target.h"

namespace trn::kernels {

// One function per family, each in its own file.
// auto_cast: what TensorE's fp32 operands become; float32: they stay.
program::Program matmul(const target::Target&, const MatmulShape&, Dtype auto_cast = Dtype::float32);
program::Program conv(const target::Target&, const ConvShape&);
program::Program attention(const target::Target&, const AttentionShape&);
program::Program pointwise(const target::Target&, const PointwiseShape&);
program::Program reduction(const target::Target&, const ReductionShape&);
program::Program softmax(const target::Target&, const SoftmaxShape&);
program::Program norm(const target::Target&, const NormShape&);
program::Program copy(const target::Target&, const CopyShape&);
program::Program box(const target::Target&, const BoxShape&);
program::Program index(const target::Target&, const IndexShape&);
program::Program nll_loss(const target::Target&, const NllLossShape&);
program::Program window(const target::Target&, const WindowShape&);
program::Program taps(const target::Target&, const TapsShape&);
program::Program band(const target::Target&, const BandShape&);
program::Program rank(const target::Target&, const RankShape&);
program::Program scan(const target::Target&, const ScanShape&);
program::Program sort(const target::Target&, const SortShape&);
program::Program transfer(const target::Target&, const TransferShape&);
program::Program generic(const target::Target&, const GenericShape&);

program::Program build(const target::Target&, const Part&);

// Multiply-add is 2. Products only: matmul, conv, attention; 0 for every other family. Closed forms in
// docs/counters.md.
struct ModelFlops {
  std::int64_t flops = 0;
  std::int64_t causal_flops = 0;  // with a causal attention's masked half left out; == flops elsewhere
  Dtype dtype = Dtype::float32;
};
ModelFlops model_flops(const Part&);

}  // namespace trn::kernels
