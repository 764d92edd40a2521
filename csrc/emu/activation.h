// ScalarE's functions over runs of fp32.
#pragma once

#include <cstdint>

#include "emu/numerics.h"
#include "target/isa.h"

namespace trn::emu {

using target::Activation;

// out[i] = function(scale * x[i] + bias); `out` may be x.
void evaluate(Activation function, const Numerics& numerics, const float* x, float scale, float bias, float* out,
              std::int64_t n);
// The same with a scale and a bias of each element.
void evaluate(Activation function, const Numerics& numerics, const float* x, const float* scale, const float* bias,
              float* out, std::int64_t n);
inline float evaluate(Activation function, float x, const Numerics& numerics = {}) {
  evaluate(function, numerics, &x, 1.0F, 0.0F, &x, 1);
  return x;
}

}  // namespace trn::emu
