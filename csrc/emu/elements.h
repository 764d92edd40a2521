// Runs of stored elements to and from fp32 or integers: the element type is looked at once per run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emu/numerics.h"
#include "target/dtype.h"

namespace trn::emu {

using target::Dtype;

// `stride` in bytes, of any sign; 0 repeats one element.
void load(Dtype dtype, const std::byte* from, std::int64_t stride, float* out, std::int64_t n);
void store(Dtype dtype, std::byte* to, std::int64_t stride, const float* values, std::int64_t n);
// Integers as integers: what DMA and the bitwise operations see. Narrowing keeps the low bits.
void load(Dtype dtype, const std::byte* from, std::int64_t stride, std::int64_t* out, std::int64_t n);
void store(Dtype dtype, std::byte* to, std::int64_t stride, const std::int64_t* values, std::int64_t n);
// Small floats rounded at random, others as `store` does.
void store_stochastic(Dtype dtype, std::byte* to, std::int64_t stride, const float* values, std::int64_t n,
                      StochasticBits& bits);
// Whether an integer type has this very number.
bool holds(Dtype dtype, double number);
// Elements of `size` bytes as they are.
void copy(std::int64_t size, std::byte* to, std::int64_t to_stride, const std::byte* from, std::int64_t from_stride,
          std::int64_t n);

}  // namespace trn::emu
