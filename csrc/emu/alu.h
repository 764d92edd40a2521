// The arithmetic of VectorE and GpSimdE: fp32, but for the bitwise operations.
#pragma once

#include <cstdint>

#include "target/isa.h"

namespace trn::emu {

using target::Alu;

bool is_bitwise(Alu alu);
// out[i] = alu(a[i], b[i]); `none` gives a. Comparisons and logic give 0 or 1. modulo has the divisor's sign.
void apply(Alu alu, const float* a, const float* b, float* out, std::int64_t n);
void apply(Alu alu, const std::int64_t* a, const std::int64_t* b, std::int64_t* out, std::int64_t n);

}  // namespace trn::emu
