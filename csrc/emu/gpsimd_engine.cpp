// GpSimdE's index-driven instructions.
#include "emu/gpsimd_engine.h"

#include "emu/convert.h"
#include "emu/limits.h"

namespace trn::emu {
namespace {

// A 64-bit finaliser (splitmix): every input bit reaches every output bit.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// All indices of a row, in the order of its elements.
void indices(const std::vector<Extent>& free, std::size_t depth, std::int64_t base, std::vector<std::int64_t>& out) {
  if (depth == free.size()) {
    out.push_back(base);
    return;
  }
  for (std::int64_t i = 0; i < free[depth].size; ++i) {
    indices(free, depth + 1, base + i * free[depth].stride, out);
  }
}

}  // namespace

template <class Function>
void GpSimdEngine::fill(std::string_view where, const View& dst, const IndexPattern& pattern, Function function) {
  require_operand(where, core_, dst, dst);
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    integers_.clear();
    indices(pattern.free, 0, pattern.offset + p * pattern.partition_stride, integers_);
    require_equal(where, "the index pattern has the result's shape", static_cast<std::int64_t>(integers_.size()),
                  dst.free_elements(), "Give both one shape.");
    function(p);
  }
}

void GpSimdEngine::iota(const View& dst, const IndexPattern& pattern, float start) {
  fill("iota", dst, pattern, [&](std::int64_t p) {
    if (is_integer(dst.dtype)) {
      for (std::int64_t& index : integers_) {
        index += static_cast<std::int64_t>(start);
      }
      write_row(dst, p, integers_.data());
      return;
    }
    row_.clear();
    for (const std::int64_t index : integers_) {
      row_.push_back(start + static_cast<float>(index));
    }
    write_row(dst, p, row_.data());
  });
}

void GpSimdEngine::rng(const View& dst, const IndexPattern& pattern) {
  fill("rng", dst, pattern, [&](std::int64_t p) {
    row_.clear();
    for (const std::int64_t index : integers_) {
      const std::uint64_t bits = mix(mix(seed_) ^ static_cast<std::uint64_t>(index));
      row_.push_back(static_cast<float>(bits >> 40) * 0x1p-24F);
    }
    write_row(dst, p, row_.data());
  });
}

}  // namespace trn::emu
