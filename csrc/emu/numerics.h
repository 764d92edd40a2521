// Where the hardware's arithmetic departs from the CPU's: one switch each, set to what AWS documents.
#pragma once

#include <cstdint>

namespace trn::emu {

// What ScalarE gives for log, sqrt, rsqrt, reciprocal and arctan of an argument outside of the documented domain.
enum class OutsideDomain : std::uint8_t {
  exact,  // the function, as AWS's own simulator has it
  clamp,  // the function of the domain's nearer end
  nan,
};

// Sources: docs/numerics.md. What no document states (denormals, arguments outside of a domain) is an assumption.
struct Numerics {
  bool stochastic_rounding = false;  // NEURON_RT_STOCHASTIC_ROUNDING_EN; round to nearest even otherwise
  std::uint64_t seed = 0;            // NEURON_RT_STOCHASTIC_ROUNDING_SEED
  bool activation_domains = true;    // sin has no range reduction: past pi its last polynomial piece goes on
  bool relu_nan_is_zero = true;
  bool rsqrt_zero_is_nan = true;
  bool sign_nan_is_nan = true;
  bool flush_denormals = false;  // results below 2^-126 become zero
  OutsideDomain outside_domains = OutsideDomain::exact;
  bool transpose_spreads_nan = true;   // on TensorE of NeuronCore-v2
  bool integers_through_fp32 = true;   // integer arithmetic, products and sums; else exact in the tile's bits
  bool native_int64 = false;           // --native-int64: 64-bit tiles compute in 64 bits
  bool saturate_infinity = false;      // --enable-saturate-infinity: an engine's infinity becomes the largest number
  bool rounding_through_int32 = true;  // ceil and trunc of what is not finite
  bool floor_divide_zero_is_nan = true;
  bool out_of_bounds_is_nan = false;  // index_select; an error otherwise

  bool operator==(const Numerics&) const = default;
  // Whether integer tiles, some of them of 64 bits, compute as integers.
  bool computes_integers(bool has_64_bits) const { return !integers_through_fp32 || (native_int64 && has_64_bits); }
};

// The random bits of stochastic rounding: a function of the seed and the number of roundings so far.
class StochasticBits {
 public:
  explicit StochasticBits(std::uint64_t seed = 0) : seed_(static_cast<std::uint32_t>(seed ^ (seed >> 32))) {}
  // So that a tile rounds alike whichever core runs it.
  void seek(std::uint64_t position) { position_ = static_cast<std::uint32_t>(position * 0x9E3779B1U); }
  std::uint32_t seed() const { return seed_; }
  // Reserves n numbers and returns the first one's position.
  std::uint32_t take(std::int64_t n) {
    const std::uint32_t first = position_;
    position_ += static_cast<std::uint32_t>(n);
    return first;
  }

 private:
  std::uint32_t seed_, position_ = 0;
};

// A 32-bit finaliser (murmur3's constants): every input bit reaches every output bit.
inline std::uint32_t mix_bits(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85EBCA6BU;
  x = (x ^ (x >> 13)) * 0xC2B2AE35U;
  return x ^ (x >> 16);
}

}  // namespace trn::emu
