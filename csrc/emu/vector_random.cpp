// VectorE's random numbers: bits, uniform values, dropout.
#include <cstring>
#include <string>

#include "emu/clones.h"
#include "emu/convert.h"
#include "emu/limits.h"
#include "emu/vector_engine.h"

namespace trn::emu {
namespace {

TRN_CLONES void drop(const float* x, float probability, std::uint32_t seed, std::uint32_t first, float* out,
                     std::int64_t n) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = mix_bits(mix_bits(first + static_cast<std::uint32_t>(i)) ^ seed);
    const float uniform = static_cast<float>(static_cast<std::int32_t>(bits >> 8)) * 0x1p-24F;
    out[i] = uniform < probability ? 0.0F : x[i];
  }
}

}  // namespace

void VectorEngine::dropout(const View& dst, const View& data, const ScalarOperand& prob) {
  constexpr std::string_view where = "dropout";
  require_scalar(where, core_, prob, dst.partitions);
  if (is_integer(data.dtype)) {
    require_dtype(where, "integers keep their dtype", dst, dst.dtype == data.dtype, "Cast with tensor_copy.");
  }
  require_operand(where, core_, dst, dst);
  float probabilities[kMostPartitions];
  lanes_.read_scalars(prob, dst.partitions, probabilities);
  run<float, 1>(where, dst, {&data}, [&](auto in, float* out, std::int64_t n, std::int64_t p) {
    drop(in[0], probabilities[p], random_.seed(), random_.take(n), out, n);
  });
}

void VectorEngine::rng(const View& dst) {
  constexpr std::string_view where = "rng";
  require_operand(where, core_, dst, dst);
  require_dtype(where, "random bits are integers", dst, is_integer(dst.dtype), "Use a uint32 tile.");
  draw_bits(dst, lanes_, generators_);
}

void VectorEngine::rand2(const View& dst, const ScalarOperand& min, const ScalarOperand& max) {
  constexpr std::string_view where = "rand2";
  require_generation(where, core_, 4);
  require_operand(where, core_, dst, dst);
  float low[kMostPartitions], high[kMostPartitions];
  for (const auto& [operand, values] : {std::pair(&min, low), std::pair(&max, high)}) {
    require_scalar(where, core_, *operand, dst.partitions);
    lanes_.read_scalars(*operand, dst.partitions, values);
  }
  const std::int64_t n = dst.free_elements();
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    if (!(low[p] < high[p])) {
      refuse(where, "min is less than max", std::to_string(low[p]) + " and " + std::to_string(high[p]), "Check them.");
    }
    float* values = lanes_.row(0, n);
    for (std::int64_t i = 0; i < n; ++i) {
      const float unit = static_cast<float>(generators_.draw(dst.start_partition + p, i) >> 8) * 0x1p-24F;
      values[i] = low[p] + (high[p] - low[p]) * unit;
    }
    lanes_.write_row(dst, p, values);
  }
}

void VectorEngine::set_rng_seed(const View& src_seeds) {
  constexpr std::string_view where = "set_rng_seed";
  require_vector(where, core_, src_seeds, 1);
  require_initialized(where, src_seeds);
  require_dtype(where, "a seed has 32 bits", src_seeds, target::itemsize(src_seeds.dtype) == 4, "Use a uint32 tile.");
  std::uint32_t seed = 0;
  std::memcpy(&seed, src_seeds.data, sizeof(seed));
  generators_.seed(seed);
}

void VectorEngine::rand_set_state(const View& src_seeds) {
  require_generation("rand_set_state", core_, 4);
  generators_.set_state("rand_set_state", core_, lanes_, src_seeds);
}

void VectorEngine::rand_get_state(const View& dst) {
  require_generation("rand_get_state", core_, 4);
  generators_.get_state("rand_get_state", core_, lanes_, dst);
}

}  // namespace trn::emu
