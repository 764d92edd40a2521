// The engines' own random numbers: Marsaglia's xorwow (Xorshift RNGs, 2003), in each partition for itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "emu/lanes.h"
#include "target/target.h"

namespace trn::emu {

// A partition's generators take turns, in each instruction from the first one on. How a single seed fills the states is
// not published: here every word is a hash of the seed and its place.
class Xorwow {
 public:
  static constexpr std::size_t kWords = 6;  // x, y, z, w, v and the counter

  Xorwow(std::size_t num_generators, std::uint64_t seed)
      : num_generators_(num_generators), seed_(static_cast<std::uint32_t>(seed ^ (seed >> 32))) {}

  void seed(std::uint32_t seed) {
    seed_ = seed;
    words_.clear();
  }
  std::uint32_t draw(std::int64_t partition, std::int64_t element);
  // The instructions rand_set_state and rand_get_state: tiles of uint32, all words of a partition.
  void set_state(std::string_view where, const target::Core& core, Lanes& lanes, const View& src_seeds);
  void get_state(std::string_view where, const target::Core& core, Lanes& lanes, const View& dst);

 private:
  std::uint32_t* state(std::int64_t partition);
  void check(std::string_view where, const target::Core& core, const View& words) const;

  std::size_t num_generators_;
  std::uint32_t seed_;
  std::vector<std::uint32_t> words_;  // empty until the first use
};

// 32 random bits to an element, of which its dtype keeps the lowest.
void draw_bits(const View& dst, Lanes& lanes, Xorwow& generators);

}  // namespace trn::emu
