// TensorE: products of a stationary and a moving tile, accumulated in PSUM as fp32.
#pragma once

#include <cstdint>
#include <vector>

#include "emu/view.h"
#include "target/target.h"

namespace trn::emu {

// sums[m, n] (+)= sum_k stationary[k, m] * moving[k, n]; all dense and fp32, `sums` with a row stride in elements.
using TileGemm = void (*)(std::int64_t m, std::int64_t n, std::int64_t k, const float* stationary, const float* moving,
                          float* sums, std::int64_t row_stride, bool accumulate);
void plain_tile_gemm(std::int64_t m, std::int64_t n, std::int64_t k, const float* stationary, const float* moving,
                     float* sums, std::int64_t row_stride, bool accumulate);

class TensorEngine {
 public:
  explicit TensorEngine(const target::Core& core, TileGemm gemm = plain_tile_gemm) : core_(core), gemm_(gemm) {}

  // dst: PSUM fp32 [M <= 128, N <= 512] within one bank; stationary: SBUF [K <= 128, M]; moving: SBUF [K, N].
  void nc_matmul(const View& dst, const View& stationary, const View& moving, bool accumulate);
  // dst: PSUM [F, P] of src's dtype; src: SBUF [P <= 128, F <= 128]. Exact.
  void nc_transpose(const View& dst, const View& src);

 private:
  void require_bank(std::string_view where, const View& dst) const;
  const float* dense(const View& view, std::vector<float>& storage) const;

  target::Core core_;
  TileGemm gemm_;
  std::vector<float> stationary_, moving_;
};

}  // namespace trn::emu
