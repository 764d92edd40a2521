// The arithmetic of VectorE and GpSimdE: fp32, but for the bitwise operations and where integers compute as such.
#pragma once

#include <cstdint>

#include "target/isa.h"

namespace trn::emu {

using target::Alu;

bool is_bitwise(Alu alu);
// Whether the operation has the integer form below.
bool has_integer_form(Alu alu);
// out[i] = alu(a[i], b[i]); `none` gives a. Comparisons and logic give 0 or 1. modulo has the divisor's sign.
// `out` may be a or b.
void apply(Alu alu, const float* a, const float* b, float* out, std::int64_t n);
void apply(Alu alu, const std::int64_t* a, const std::int64_t* b, std::int64_t* out, std::int64_t n);
// One operand for all: alu(a[i], b), and alu(a, b[i]).
void apply(Alu alu, const float* a, float b, float* out, std::int64_t n);
void apply(Alu alu, float a, const float* b, float* out, std::int64_t n);
void apply(Alu alu, const std::int64_t* a, std::int64_t b, std::int64_t* out, std::int64_t n);
// The fold of n >= 1 elements; sums in 64 interleaved partial sums, whatever the host.
float fold(Alu alu, const float* values, std::int64_t n);

}  // namespace trn::emu
