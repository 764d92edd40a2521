// What a Spec costs on a target: the sum over its parts.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/build.h"
#include "program/count.h"

namespace trn::kernels {

struct Cost {
  program::Counts counts;
  ModelFlops model;  // dtype: of the part with the most FLOPs
  double seconds = 0;
  std::array<double, program::kNumEngines> busy_seconds{};
  program::Engine bound_by = program::Engine::dma;  // of the longest part; dma stands for HBM traffic
};

Cost cost(const target::Target& target, const Spec& spec);

}  // namespace trn::kernels
