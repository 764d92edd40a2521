// TensorE: products of a stationary and a moving tile, accumulated in PSUM as fp32.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "emu/tile_gemm.h"
#include "emu/view.h"
#include "target/target.h"

namespace trn::emu {

class TensorEngine {
 public:
  explicit TensorEngine(const target::Core& core, TileGemm gemm = plain_tile_gemm) : core_(core), gemm_(gemm) {}

  // dst: PSUM fp32 [M <= 128, N <= 512] within one bank; stationary: SBUF [K <= 128, M]; moving: SBUF [K, N].
  void nc_matmul(const View& dst, const View& stationary, const View& moving, bool accumulate);
  // dst: PSUM [F, P] of src's dtype; src: SBUF [P <= 128, F <= 128]. Exact.
  void nc_transpose(const View& dst, const View& src);

 private:
  void require_bank(std::string_view where, const View& dst) const;
  // A tile as fp32 rows, in place where it is that already.
  struct Rows {
    const float* data;
    std::int64_t stride;
  };
  static Rows rows(const View& view, std::vector<float>& storage);

  target::Core core_;
  TileGemm gemm_;
  std::vector<float> stationary_, moving_;
};

}  // namespace trn::emu
