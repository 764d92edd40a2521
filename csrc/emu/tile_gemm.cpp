// A register-blocked product: both tiles packed into strips, the sums of one block of strips held in registers.
#include "emu/tile_gemm.h"

#include <algorithm>
#include <cstring>

#include "emu/clones.h"

namespace trn::emu {
namespace {

constexpr std::int64_t kMostK = 128, kMostM = 128;

// Columns [first, first + width) of a [k, *] tile as a dense [k, width] strip, zeros past `columns`.
TRN_INLINE void pack(const float* tile, std::int64_t stride, std::int64_t k, std::int64_t first, std::int64_t columns,
                     std::int64_t width, float* strip) {
  const std::int64_t n = std::min(width, columns - first);
  for (std::int64_t row = 0; row < k; ++row, strip += width) {
    const float* from = tile + row * stride + first;
    if (n == width) {
      std::memcpy(strip, from, static_cast<std::size_t>(width) * sizeof(float));
    } else {
      std::copy(from, from + n, strip);
      std::fill(strip + n, strip + width, 0.0F);
    }
  }
}

// Rows x (Vectors of Lanes) sums of one stationary and one moving strip.
template <int Rows, int Vectors, int Lanes>
struct Block {
  static constexpr std::int64_t kWidth = static_cast<std::int64_t>(Vectors) * Lanes;
  typedef float Vector __attribute__((vector_size(Lanes * sizeof(float)), aligned(4), may_alias));

  static TRN_INLINE void multiply(std::int64_t k, const float* stationary, const float* moving, std::int64_t num_rows,
                                  std::int64_t num_columns, float* sums, std::int64_t sums_stride, bool accumulate) {
    Vector sum[Rows][Vectors] = {};
    for (std::int64_t p = 0; p < k; ++p) {
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
          sum[r][v] += stationary[r] * *reinterpret_cast<const Vector*>(moving + v * Lanes);
        }
      }
      stationary += Rows;
      moving += kWidth;
    }
    if (num_rows == Rows && num_columns == kWidth) {
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
          Vector* at = reinterpret_cast<Vector*>(sums + r * sums_stride + v * Lanes);
          *at = accumulate ? *at + sum[r][v] : sum[r][v];
        }
      }
      return;
    }
    float edge[Rows * kWidth];
    std::memcpy(edge, sum, sizeof(edge));
    for (std::int64_t r = 0; r < num_rows; ++r) {
      for (std::int64_t c = 0; c < num_columns; ++c) {
        float& at = sums[r * sums_stride + c];
        at = (accumulate ? at : 0.0F) + edge[r * kWidth + c];
      }
    }
  }

  static TRN_INLINE void run(std::int64_t m, std::int64_t n, std::int64_t k, const float* stationary,
                             std::int64_t stationary_stride, const float* moving, std::int64_t moving_stride,
                             float* sums, std::int64_t sums_stride, bool accumulate) {
    alignas(64) float stationary_strips[kMostK * (kMostM + Rows)];
    alignas(64) float moving_strip[kMostK * kWidth];
    for (std::int64_t i = 0; i < m; i += Rows) {
      pack(stationary, stationary_stride, k, i, m, Rows, stationary_strips + i * k);
    }
    for (std::int64_t j = 0; j < n; j += kWidth) {
      pack(moving, moving_stride, k, j, n, kWidth, moving_strip);
      for (std::int64_t i = 0; i < m; i += Rows) {
        multiply(k, stationary_strips + i * k, moving_strip, std::min<std::int64_t>(Rows, m - i),
                 std::min(kWidth, n - j), sums + i * sums_stride + j, sums_stride, accumulate);
      }
    }
  }
};

using Arguments = void(std::int64_t m, std::int64_t n, std::int64_t k, const float* stationary,
                       std::int64_t stationary_stride, const float* moving, std::int64_t moving_stride, float* sums,
                       std::int64_t sums_stride, bool accumulate);

#define TRN_TILE_GEMM(name, attribute, ...)                                                                         \
  attribute void name(std::int64_t m, std::int64_t n, std::int64_t k, const float* stationary,                      \
                      std::int64_t stationary_stride, const float* moving, std::int64_t moving_stride, float* sums, \
                      std::int64_t sums_stride, bool accumulate) {                                                  \
    Block<__VA_ARGS__>::run(m, n, k, stationary, stationary_stride, moving, moving_stride, sums, sums_stride,       \
                            accumulate);                                                                            \
  }

TRN_TILE_GEMM(narrow_gemm, , 4, 2, 4)
#if defined(__x86_64__)
TRN_TILE_GEMM(avx2_gemm, __attribute__((target("avx2,fma"))), 6, 2, 8)
TRN_TILE_GEMM(avx512_gemm, __attribute__((target("avx512f,fma"))), 8, 2, 16)
#endif

Arguments* best_gemm() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    return avx512_gemm;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return avx2_gemm;
  }
#endif
  return narrow_gemm;
}

}  // namespace

void plain_tile_gemm(std::int64_t m, std::int64_t n, std::int64_t k, const float* stationary,
                     std::int64_t stationary_stride, const float* moving, std::int64_t moving_stride, float* sums,
                     std::int64_t sums_stride, bool accumulate) {
  static Arguments* const gemm = best_gemm();
  gemm(m, n, k, stationary, stationary_stride, moving, moving_stride, sums, sums_stride, accumulate);
}

}  // namespace trn::emu
