#include "emu/xorwow.h"

#include <algorithm>

#include "emu/limits.h"
#include "emu/numerics.h"

namespace trn::emu {

std::uint32_t* Xorwow::state(std::int64_t partition) {
  const std::size_t words = num_generators_ * kWords;
  if (words_.empty()) {
    words_.resize(static_cast<std::size_t>(kMostPartitions) * words);
    for (std::size_t i = 0; i < words_.size(); ++i) {
      words_[i] = mix_bits(mix_bits(static_cast<std::uint32_t>(i) + 1) ^ seed_);
    }
  }
  return words_.data() + static_cast<std::size_t>(partition) * words;
}

std::uint32_t Xorwow::draw(std::int64_t partition, std::int64_t element) {
  std::uint32_t* s = state(partition) + static_cast<std::size_t>(element) % num_generators_ * kWords;
  const std::uint32_t t = s[0] ^ (s[0] >> 2);
  s[0] = s[1];
  s[1] = s[2];
  s[2] = s[3];
  s[3] = s[4];
  s[4] = (s[4] ^ (s[4] << 4)) ^ (t ^ (t << 1));
  s[5] += 362437;
  return s[4] + s[5];
}

void Xorwow::check(std::string_view where, const target::Core& core, const View& words) const {
  require_generation(where, core, 3);
  require_tile(where, core, words);
  require_dtype(where, "a generator's state is uint32", words, words.dtype == Dtype::uint32, "Use a uint32 tile.");
  require_equal(where, "a partition has six words for each of the engine's generators", words.free_elements(),
                static_cast<std::int64_t>(num_generators_ * kWords), "Give the tile all of them.");
}

void Xorwow::set_state(std::string_view where, const target::Core& core, Lanes& lanes, const View& src_seeds) {
  check(where, core, src_seeds);
  require_initialized(where, src_seeds);
  const std::int64_t n = src_seeds.free_elements();
  for (std::int64_t p = 0; p < src_seeds.partitions; ++p) {
    std::int64_t* row = lanes.integer_row(0, n);
    lanes.read_row(src_seeds, p, row);
    std::copy(row, row + n, state(src_seeds.start_partition + p));
  }
}

void Xorwow::get_state(std::string_view where, const target::Core& core, Lanes& lanes, const View& dst) {
  check(where, core, dst);
  const std::int64_t n = dst.free_elements();
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    const std::uint32_t* words = state(dst.start_partition + p);
    std::int64_t* row = lanes.integer_row(0, n);
    std::copy(words, words + n, row);
    lanes.write_row(dst, p, row);
  }
}

void draw_bits(const View& dst, Lanes& lanes, Xorwow& generators) {
  const std::int64_t n = dst.free_elements();
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    std::int64_t* row = lanes.integer_row(0, n);
    for (std::int64_t i = 0; i < n; ++i) {
      row[i] = generators.draw(dst.start_partition + p, i);
    }
    lanes.write_row(dst, p, row);
  }
}

}  // namespace trn::emu
