// Which shapes execute, not only count.
#pragma once

#include "kernels/shapes.h"
#include "target/target.h"

namespace trn::kernels {

// Throws `unimplemented` with the reason: a family whose programs move the right bytes through the right engines, but
// do not compute; or elements and forms of a family that does.
void require_executable(const target::Core& core, const Part& part);

// By family.
void require_executable(const MatmulShape& shape);
void require_executable(const AttentionShape& shape);
void require_executable(const PointwiseShape& shape);
void require_executable(const BoxShape& shape);
void require_executable(const ConvShape& shape);
void require_executable(const CopyShape& shape);
void require_executable(const IndexShape& shape);
void require_executable(const BandShape& shape);
void require_executable(const NllLossShape& shape);
void require_executable(const NormShape& shape);
void require_executable(const ReductionShape& shape);
void require_executable(const ScanShape& shape);
void require_executable(const SoftmaxShape& shape);
void require_executable(const SortShape& shape);
void require_executable(const RankShape& shape);
// Where that depends on the core.
void require_executable(const target::Core& core, const TapsShape& shape);
void require_executable(const target::Core& core, const WindowShape& shape);

// Steps that a tile can run, of those listed at Step.
void require_executable(const std::vector<Step>& steps);

}  // namespace trn::kernels
