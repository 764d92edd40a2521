// The product of one pair of tiles, as TensorE takes it: ours, or one that is injected.
#pragma once

#include <cstdint>

namespace trn::emu {

// sums[m, n] (+)= sum_k stationary[k, m] * moving[k, n], in fp32. Rows are contiguous, `_stride` elements apart; the
// sum over k is complete before it is added. m, k <= 128.
using TileGemm = void (*)(std::int64_t m, std::int64_t n, std::int64_t k, const float* stationary,
                          std::int64_t stationary_stride, const float* moving, std::int64_t moving_stride, float* sums,
                          std::int64_t sums_stride, bool accumulate);

void plain_tile_gemm(std::int64_t m, std::int64_t n, std::int64_t k, const float* stationary,
                     std::int64_t stationary_stride, const float* moving, std::int64_t moving_stride, float* sums,
                     std::int64_t sums_stride, bool accumulate);

}  // namespace trn::emu
