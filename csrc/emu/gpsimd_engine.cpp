// GpSimdE's index-driven instructions.
#include "emu/gpsimd_engine.h"

#include "emu/clones.h"
#include "emu/convert.h"
#include "emu/limits.h"

namespace trn::emu {
namespace {

// A 64-bit finaliser (splitmix): every input bit reaches every output bit.
TRN_INLINE std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

TRN_CLONES void uniform(const std::int64_t* indices, std::uint64_t seed, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint64_t bits = mix(seed ^ static_cast<std::uint64_t>(indices[i]));
    out[i] = static_cast<float>(static_cast<std::int32_t>(bits >> 40)) * 0x1p-24F;
  }
}

TRN_CLONES void arithmetic(std::int64_t base, std::int64_t step, std::int64_t* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = base + i * step;
  }
}

// All indices of a row, in the order of its elements.
void indices(const Extents& free, std::size_t depth, std::int64_t base, std::int64_t*& out) {
  if (depth == free.size()) {
    *out++ = base;
    return;
  }
  if (depth + 1 == free.size()) {
    arithmetic(base, free[depth].stride, out, free[depth].size);
    out += free[depth].size;
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
  std::int64_t n = 1;
  for (const Extent& extent : pattern.free) {
    n *= extent.size;
  }
  require_equal(where, "the index pattern has the result's shape", n, dst.free_elements(), "Give both one shape.");
  std::int64_t* row = lanes_.integer_row(0, n);
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    std::int64_t* at = row;
    indices(pattern.free, 0, pattern.offset + p * pattern.partition_stride, at);
    function(row, n, p);
  }
}

void GpSimdEngine::iota(const View& dst, const IndexPattern& pattern, float start) {
  require_sbuf("iota", dst);
  float* values = lanes_.row(0, dst.free_elements());
  fill("iota", dst, pattern, [&](std::int64_t* row, std::int64_t n, std::int64_t p) {
    if (is_integer(dst.dtype)) {
      for (std::int64_t i = 0; i < n; ++i) {
        row[i] += static_cast<std::int64_t>(start);
      }
      lanes_.write_row(dst, p, row);
      return;
    }
    for (std::int64_t i = 0; i < n; ++i) {
      values[i] = start + static_cast<float>(row[i]);
    }
    lanes_.write_row(dst, p, values);
  });
}

void GpSimdEngine::rng(const View& dst, const IndexPattern& pattern) {
  float* values = lanes_.row(0, dst.free_elements());
  fill("rng", dst, pattern, [&](const std::int64_t* row, std::int64_t n, std::int64_t p) {
    if (draws_.empty()) {
      uniform(row, mix(seed_), values, n);
    }
    for (std::int64_t i = 0; i < n && !draws_.empty(); ++i) {
      if (row[i] < 0 || row[i] >= std::ssize(draws_)) {
        refuse("rng", "each index has a draw", std::to_string(row[i]), "Give as many as there are elements.");
      }
      values[i] = draws_[static_cast<std::size_t>(row[i])];
    }
    lanes_.write_row(dst, p, values);
  });
}

void GpSimdEngine::rng(const View& dst) {
  constexpr std::string_view where = "rng";
  require_generation(where, core_, 3);
  require_operand(where, core_, dst, dst);
  require_dtype(where, "random bits are integers", dst, is_integer(dst.dtype), "Use a uint32 tile.");
  require_sbuf(where, dst);
  draw_bits(dst, lanes_, generators_);
}

void GpSimdEngine::rand_set_state(const View& src_seeds) {
  require_sbuf("rand_set_state", src_seeds);
  generators_.set_state("rand_set_state", core_, lanes_, src_seeds);
}

void GpSimdEngine::rand_get_state(const View& dst) {
  require_sbuf("rand_get_state", dst);
  generators_.get_state("rand_get_state", core_, lanes_, dst);
}

void GpSimdEngine::affine_select(const View& dst, const IndexPattern& pattern, const View& on_true, float on_false,
                                 Alu cmp_op) {
  constexpr std::string_view where = "affine_select";
  require_sbuf(where, dst);
  require_sbuf(where, on_true);
  require_operand(where, core_, on_true, dst);
  if (cmp_op < Alu::equal || cmp_op > Alu::greater_equal) {
    refuse(where, "cmp_op is a comparison", target::name(cmp_op), "Use equal, not_equal, less, ...");
  }
  const std::int64_t columns = dst.free_elements();
  float *affine = lanes_.row(0, columns), *out = lanes_.row(2, columns);
  const bool is_exact = on_true.dtype == dst.dtype && holds(dst.dtype, on_false);  // what is not cast is not rounded
  fill(where, dst, pattern, [&](const std::int64_t* row, std::int64_t n, std::int64_t p) {
    for (std::int64_t i = 0; i < n; ++i) {
      affine[i] = static_cast<float>((row[i] > 0) - (row[i] < 0));
    }
    apply(cmp_op, affine, 0.0F, affine, n);
    if (is_exact) {
      std::int64_t* whole = lanes_.integer_row(1, columns);
      lanes_.read_row(on_true, p, whole);
      for (std::int64_t i = 0; i < n; ++i) {
        whole[i] = affine[i] != 0 ? whole[i] : static_cast<std::int64_t>(on_false);
      }
      lanes_.write_row(dst, p, whole);
      return;
    }
    const float* from = lanes_.dense_row(on_true, p, 1);
    for (std::int64_t i = 0; i < n; ++i) {
      out[i] = affine[i] != 0 ? from[i] : on_false;
    }
    lanes_.write_row(dst, p, out);
  });
}

}  // namespace trn::emu
