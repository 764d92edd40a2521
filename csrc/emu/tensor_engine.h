// TensorE: products of a stationary and a moving tile, accumulated in PSUM as fp32.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "emu/lanes.h"
#include "emu/tile_gemm.h"
#include "emu/view.h"
#include "target/target.h"

namespace trn::emu {

// Row and column tiling of the array: sizes 0 take all of it.
struct ArrayTile {
  std::int64_t start_row = 0, start_column = 0, num_rows = 0, num_columns = 0;
};

class TensorEngine {
 public:
  explicit TensorEngine(const target::Core& core, TileGemm gemm = plain_tile_gemm, const Numerics& numerics = {})
      : core_(core), gemm_(gemm), lanes_(numerics) {}

  // dst: PSUM fp32 [M <= 128, N <= 512] within one bank; stationary: SBUF [K <= 128, M]; moving: SBUF [K, N].
  // From NeuronCore-v4 on dst may be bf16 and as wide as PSUM.
  void nc_matmul(const View& dst, const View& stationary, const View& moving, bool accumulate,
                 const ArrayTile& tile = {});
  // FP8 stationary [K, 2, M] and moving [K, 2, N]: the contraction is over 2 K.
  void nc_matmul_double_row(const View& dst, const View& stationary, const View& moving, bool accumulate,
                            const ArrayTile& tile = {});
  // The transpose of `stationary`, exact from NeuronCore-v3 on; moving: the identity, [K, K].
  void nc_matmul_transpose(const View& dst, const View& stationary, const View& moving);
  // x4 stationary [K, M] and moving [K, N], with the scales that quantize_mx lays out: the contraction is over 4 K.
  void nc_matmul_mx(const View& dst, const View& stationary, const View& moving, const View& stationary_scale,
                    const View& moving_scale, bool accumulate, const ArrayTile& tile = {});
  // dst: PSUM [F, P] of src's dtype; src: SBUF [P <= 128, F <= 128]. Exact from NeuronCore-v3 on; before, a product
  // with the identity, in which a NaN or an infinity spreads over its row.
  void nc_transpose(const View& dst, const View& src);

  StochasticBits& bits() { return lanes_.bits(); }

 private:
  // A tile as fp32 rows, in place where it is that already.
  struct Rows {
    const float* data;
    std::int64_t stride;
  };
  Rows rows(const View& view, std::size_t which);
  void require_result(std::string_view where, const View& dst, std::int64_t m, std::int64_t n, bool accumulate) const;
  // A stationary tile [k, m] fits its part of the array; of its rows only, where columns cannot be split.
  void require_array_tile(std::string_view where, const ArrayTile& tile, std::int64_t k, std::int64_t m) const;
  void require_row_tile(std::string_view where, const ArrayTile& tile, std::int64_t k, std::int64_t m) const;
  // Of the moving tile; from NeuronCore-v4 on as many as a partition's PSUM holds.
  std::int64_t most_columns(const View& dst) const;
  void require_psum(std::string_view where, const View& dst) const;
  void require_operands(std::string_view where, const View& stationary, const View& moving) const;
  // dst (+)= sum over k <= 128
  void multiply(const View& dst, const Rows& stationary, const Rows& moving, std::int64_t k, std::int64_t n,
                bool accumulate);
  // Without a pass through fp32, where the switch says so.
  bool multiplies_integers(const View& stationary, const View& moving) const;
  void multiply_integers(const View& dst, const View& stationary, const View& moving, bool accumulate);
  void dequantize(const View& tile, const View& scale, std::size_t which);

  target::Core core_;
  TileGemm gemm_;
  Lanes lanes_;
};

}  // namespace trn::emu
