// TensorE's instructions and their limits.
#include "emu/tensor_engine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "emu/convert.h"
#include "emu/limits.h"
#include "emu/microscaling.h"
#include "emu/transfer.h"

namespace trn::emu {
namespace {

bool is_float8(Dtype dtype) {
  return target::is_small_float(dtype) && target::itemsize(dtype) == 1;
}

View with_free(const View& view, const Extents& free, std::int64_t offset = 0) {
  View part = view;
  part.free = free;
  part.data += offset * target::itemsize(view.dtype);
  return part;
}

}  // namespace

std::int64_t TensorEngine::most_columns(const View& dst) const {
  return generation(core_) >= 4 ? core_.psum_bytes_per_partition / target::itemsize(dst.dtype)
                                : core_.moving_free_max_elements;
}

void TensorEngine::require_psum(std::string_view where, const View& dst) const {
  require_memory(where, "the result lies in PSUM", dst, dst.memory == Memory::psum, "Copy it to SBUF afterwards.");
  const Reach touched = reach(dst.free);
  const std::int64_t size = target::itemsize(dst.dtype), bytes = (touched.highest + 1) * size;
  if (generation(core_) >= 4) {
    require_at_most(where, "the result lies in PSUM", bytes, core_.psum_bytes_per_partition,
                    "Use fewer moving columns.");
    return;
  }
  require_at_least(where, "the result lies in one PSUM bank", dst.bank_offset_bytes + touched.lowest * size, 0,
                   "Use positive strides.");
  const std::int64_t bank_bytes = core_.psum_bytes_per_partition / core_.psum_num_banks;
  require_at_most(where, "the result lies in one PSUM bank", dst.bank_offset_bytes + bytes, bank_bytes,
                  "Use fewer moving columns or start on a bank.");
}

void TensorEngine::require_result(std::string_view where, const View& dst, std::int64_t m, std::int64_t n,
                                  bool accumulate) const {
  require_equal(where, "the result has a partition per stationary column", dst.partitions, m,
                "Give it the shape [M, N].");
  require_equal(where, "the result has an element per moving column", dst.free_elements(), n,
                "Give it the shape [M, N].");
  require_psum(where, dst);
  require_start_partition(where, dst);
  const bool is_exact = dst.dtype == Dtype::int32 && !lanes_.numerics().integers_through_fp32;
  if (dst.dtype != Dtype::float32 && !is_exact && (generation(core_) < 4 || dst.dtype != Dtype::bfloat16)) {
    refuse(where, "PSUM accumulates in float32", target::name(dst.dtype), "Cast when copying out of PSUM.");
  }
  if (accumulate) {
    require_initialized(where, dst);
  }
}

void TensorEngine::require_operands(std::string_view where, const View& stationary, const View& moving) const {
  for (const View* operand : {&stationary, &moving}) {
    require_memory(where, "stationary and moving tiles lie in SBUF", *operand, operand->memory == Memory::sbuf,
                   "Load them by DMA first.");
    require_start_partition(where, *operand);
    require_initialized(where, *operand);
  }
  require_at_most(where, "K lies on the partitions", stationary.partitions, core_.num_partitions, "Split K.");
  require_equal(where, "stationary and moving tiles share K", moving.partitions, stationary.partitions,
                "Give both the same partitions.");
}

void TensorEngine::require_array_tile(std::string_view where, const ArrayTile& tile, std::int64_t k,
                                      std::int64_t m) const {
  const std::int64_t most_columns = tile.num_columns == 0 ? core_.stationary_free_max_elements : tile.num_columns;
  const std::int64_t most_rows = tile.num_rows == 0 ? core_.num_partitions : tile.num_rows;
  const std::int64_t least = generation(core_) >= 3 ? 32 : 64;
  for (const auto& [size, start] : {std::pair{most_rows, tile.start_row}, {most_columns, tile.start_column}}) {
    if (size != 128 && size != 64 && size != least) {
      refuse(where, "the array splits into tiles of 32 (from NeuronCore-v3), 64 or 128", std::to_string(size),
             "Choose one of them.");
    }
    require_multiple(where, "a tile starts at a multiple of its size", start, size, "Move it.");
    require_at_least(where, "a tile starts within the array", start, 0, "Move it.");
    require_at_most(where, "a tile ends within the array", start + size, 128, "Move it.");
  }
  require_at_most(where, "the stationary tile has few columns", m, most_columns, "Split M.");
  require_at_most(where, "K fits the array's rows", k, most_rows, "Split K.");
}

void TensorEngine::require_row_tile(std::string_view where, const ArrayTile& tile, std::int64_t k,
                                    std::int64_t m) const {
  require_array_tile(where, tile, k, m);
  if (tile.num_columns != 0 && tile.num_columns != core_.stationary_free_max_elements) {
    refuse(where, "it takes all columns of the array", std::to_string(tile.num_columns), "Split the rows only.");
  }
}

TensorEngine::Rows TensorEngine::rows(const View& view, std::size_t which) {
  const std::int64_t columns = view.free_elements();
  if (view.dtype == Dtype::float32 && view.free.size() == 1 && view.free[0].stride == 1) {
    return {reinterpret_cast<const float*>(view.data), view.partition_bytes / static_cast<std::int64_t>(sizeof(float))};
  }
  float* const dense = lanes_.row(which, view.elements());
  float* to = dense;
  Walk walk(view);
  walk.take(view.elements(), [&](const std::byte* from, std::int64_t stride, std::int64_t n) {
    load(view.dtype, from, stride, to, n);
    to += n;
  });
  return {dense, columns};
}

void TensorEngine::multiply(const View& dst, const Rows& stationary, const Rows& moving, std::int64_t k, std::int64_t n,
                            bool accumulate) {
  const std::int64_t m = dst.partitions;
  if (dst.dtype == Dtype::float32 && dst.has_dense_rows()) {
    gemm_(m, n, k, stationary.data, stationary.stride, moving.data, moving.stride, reinterpret_cast<float*>(dst.data),
          dst.partition_bytes / static_cast<std::int64_t>(sizeof(float)), accumulate);
    return;
  }
  // Spread columns, or bf16: the sum is made in fp32 and rounded on its way back.
  float* sums = lanes_.row(2, m * n);
  for (std::int64_t p = 0; accumulate && p < m; ++p) {
    lanes_.read_row(dst, p, sums + p * n);
  }
  gemm_(m, n, k, stationary.data, stationary.stride, moving.data, moving.stride, sums, n, accumulate);
  for (std::int64_t p = 0; p < m; ++p) {
    lanes_.write_row(dst, p, sums + p * n);
  }
}

void TensorEngine::nc_matmul(const View& dst, const View& stationary, const View& moving, bool accumulate,
                             const ArrayTile& tile) {
  constexpr std::string_view where = "nc_matmul";
  require_operands(where, stationary, moving);
  const bool is_exact = multiplies_integers(stationary, moving);
  auto is_wide = [](const View& view) { return view.dtype == Dtype::float32 || view.dtype == Dtype::tfloat32; };
  for (const View* operand : {&stationary, &moving}) {
    const Dtype dtype = operand->dtype;
    if (!is_wide(*operand) && !target::is_small_float(dtype) && !is_exact) {
      refuse(where, "TensorE multiplies floating types", target::name(dtype), "Cast to float32 first.");
    }
    require_generation_of(where, core_, dtype, "Use float8_e4m3.");
  }
  auto pairs = [&](Dtype a, Dtype b) {
    return (stationary.dtype == a && moving.dtype == b) || (stationary.dtype == b && moving.dtype == a);
  };
  auto both = [&] {
    return std::string(target::name(stationary.dtype)) + " and " + std::string(target::name(moving.dtype));
  };
  if (is_wide(stationary) != is_wide(moving)) {
    refuse(where, "float32 and tfloat32 pair only with each other", both(), "Cast one of them.");
  }
  if (pairs(Dtype::float8_e4m3, Dtype::float8_e4m3fn)) {
    refuse(where, "the two e4m3 formats do not pair", both(), "Cast one of them.");
  }
  const std::int64_t m = stationary.free_elements(), n = moving.free_elements();
  require_array_tile(where, tile, stationary.partitions, m);
  require_at_most(where, "the moving tile has few columns", n, most_columns(dst), "Split N.");
  require_result(where, dst, m, n, accumulate);
  if (is_exact) {
    multiply_integers(dst, stationary, moving, accumulate);
  } else {
    multiply(dst, rows(stationary, 0), rows(moving, 1), stationary.partitions, n, accumulate);
  }
}

bool TensorEngine::multiplies_integers(const View& stationary, const View& moving) const {
  return !lanes_.numerics().integers_through_fp32 && stationary.dtype == Dtype::int32 && moving.dtype == Dtype::int32;
}

void TensorEngine::multiply_integers(const View& dst, const View& stationary, const View& moving, bool accumulate) {
  const std::int64_t m = dst.partitions, n = moving.free_elements();
  std::int64_t *weights = lanes_.integer_row(0, m), *inputs = lanes_.integer_row(1, n);
  std::int64_t* sums = lanes_.integer_row(2, m * n);
  std::fill(sums, sums + m * n, 0);
  for (std::int64_t p = 0; accumulate && p < m; ++p) {
    lanes_.read_row(dst, p, sums + p * n);
  }
  for (std::int64_t k = 0; k < stationary.partitions; ++k) {
    lanes_.read_row(stationary, k, weights);
    lanes_.read_row(moving, k, inputs);
    for (std::int64_t p = 0; p < m; ++p) {
      for (std::int64_t i = 0; i < n; ++i) {
        const auto sum = static_cast<std::uint64_t>(sums[p * n + i]);
        sums[p * n + i] = static_cast<std::int64_t>(sum + static_cast<std::uint64_t>(weights[p] * inputs[i]));
      }
    }
  }
  for (std::int64_t p = 0; p < m; ++p) {
    lanes_.write_row(dst, p, sums + p * n);
  }
}

void TensorEngine::nc_matmul_double_row(const View& dst, const View& stationary, const View& moving, bool accumulate,
                                        const ArrayTile& tile) {
  constexpr std::string_view where = "nc_matmul double_row";
  require_generation(where, core_, 3);
  require_operands(where, stationary, moving);
  for (const View* operand : {&stationary, &moving}) {
    const bool allowed = operand->dtype == Dtype::float8_e5m2 || operand->dtype == Dtype::float8_e4m3 ||
                         (operand->dtype == Dtype::float8_e4m3fn && generation(core_) >= 4);
    require_dtype(where, "both tiles are float8_e4m3 or float8_e5m2", *operand, allowed && is_float8(operand->dtype),
                  "Use no performance mode.");
    require_equal(where, "the first free dimension holds the two rows",
                  operand->free.size() == 2 ? operand->free[0].size : 0, 2, "Give it the shape [K, 2, columns].");
  }
  const Extent row = stationary.free[1], column = moving.free[1];
  require_row_tile(where, tile, stationary.partitions, row.size);
  require_at_most(where, "the moving tile has few columns", column.size, most_columns(dst), "Split N.");
  require_result(where, dst, row.size, column.size, accumulate);
  for (std::int64_t half = 0; half < 2; ++half) {
    const Rows weights = rows(with_free(stationary, {row}, half * stationary.free[0].stride), 0);
    const Rows inputs = rows(with_free(moving, {column}, half * moving.free[0].stride), 1);
    multiply(dst, weights, inputs, stationary.partitions, column.size, accumulate || half > 0);
  }
}

void TensorEngine::dequantize(const View& tile, const View& scale, std::size_t which) {
  const std::int64_t columns = tile.free_elements(), plane = tile.partitions * columns;
  float* out = lanes_.row(which, kPacked * plane);
  std::int64_t* codes = lanes_.integer_row(0, columns);
  const std::int64_t size = target::itemsize(tile.dtype);
  for (std::int64_t p = 0; p < tile.partitions; ++p) {
    if (p % kScaledPartitions == 0) {
      lanes_.read_row(scale, scale_row(p), codes);
    }
    std::int64_t f = 0;
    Walk walk(tile.only(p));
    walk.take(columns, [&](const std::byte* from, std::int64_t stride, std::int64_t n) {
      for (std::int64_t i = 0; i < n; ++i, ++f) {
        const auto values = unpack(tile.dtype, from + i * (n == 1 ? size : stride));
        const float factor = decode_scale(static_cast<std::uint8_t>(codes[f]));
        for (std::int64_t v = 0; v < kPacked; ++v) {
          out[v * plane + p * columns + f] = values[static_cast<std::size_t>(v)] * factor;
        }
      }
    });
  }
}

void TensorEngine::nc_matmul_mx(const View& dst, const View& stationary, const View& moving,
                                const View& stationary_scale, const View& moving_scale, bool accumulate,
                                const ArrayTile& tile) {
  constexpr std::string_view where = "nc_matmul_mx";
  require_generation(where, core_, 4);
  require_operands(where, stationary, moving);
  const std::int64_t k = stationary.partitions, m = stationary.free_elements(), n = moving.free_elements();
  require_multiple(where, "K has whole quadrants", k, kQuadrant, "Pad K.");
  require_multiple(where, "the stationary tile has an even number of columns", m, 2, "Pad M.");
  require_row_tile(where, tile, k, m);
  require_at_most(where, "the moving tile has few columns", n, most_columns(dst), "Split N.");
  for (const auto& [values, scale] : {std::pair{&stationary, &stationary_scale}, {&moving, &moving_scale}}) {
    require_dtype(where, "tiles are float8_e5m2_x4, float8_e4m3fn_x4 or float4_e2m1fn_x4", *values,
                  is_block_scaled(values->dtype), "Use quantize_mx.");
    require_sbuf(where, *scale);
    require_dtype(where, "scales are uint8", *scale, scale->dtype == Dtype::uint8, "Use quantize_mx.");
    require_initialized(where, *scale);
    require_scales(where, *scale, k);
    require_equal(where, "scales have the tile's columns", scale->free_elements(), values->free_elements(),
                  "Give both one width.");
  }
  require_result(where, dst, m, n, accumulate);
  dequantize(stationary, stationary_scale, 3);
  dequantize(moving, moving_scale, 4);
  const float *weights = lanes_.row(3, 0), *inputs = lanes_.row(4, 0);
  for (std::int64_t v = 0; v < kPacked; ++v) {
    multiply(dst, {weights + v * k * m, m}, {inputs + v * k * n, n}, k, n, accumulate || v > 0);
  }
}

void TensorEngine::nc_matmul_transpose(const View& dst, const View& stationary, const View& moving) {
  constexpr std::string_view where = "nc_matmul is_transpose";
  require_operands(where, stationary, moving);
  const std::int64_t n = moving.free_elements();
  require_equal(where, "the moving tile is the identity", n, moving.partitions, "Give it the shape [K, K].");
  float* row = lanes_.row(0, n);
  for (std::int64_t p = 0; p < n; ++p) {
    lanes_.read_row(moving, p, row);
    for (std::int64_t i = 0; i < n; ++i) {
      if (row[i] != (i == p ? 1.0F : 0.0F)) {
        refuse(where, "the moving tile is the identity", std::to_string(row[i]), "Multiply without is_transpose.");
      }
    }
  }
  nc_transpose(dst, stationary);
}

void TensorEngine::nc_transpose(const View& dst, const View& src) {
  constexpr std::string_view where = "nc_transpose";
  require_memory(where, "the source lies in SBUF", src, src.memory == Memory::sbuf, "Load it by DMA first.");
  require_source(where, core_, src);
  require_at_most(where, "the source has few columns", src.free_elements(), core_.stationary_free_max_elements,
                  "Split the tile.");
  require_equal(where, "the result has a partition per source column", dst.partitions, src.free_elements(),
                "Give it the transposed shape.");
  require_equal(where, "the result has an element per source partition", dst.free_elements(), src.partitions,
                "Give it the transposed shape.");
  require_psum(where, dst);
  if (dst.dtype != src.dtype) {
    refuse(where, "the result has the source's dtype",
           std::string(target::name(dst.dtype)) + " from " + std::string(target::name(src.dtype)),
           "Cast when copying out of PSUM.");
  }
  transfer(transposed_view(dst), src);
  if (generation(core_) >= 3 || is_integer(dst.dtype) || !lanes_.numerics().transpose_spreads_nan) {
    return;
  }
  const std::int64_t n = dst.free_elements();
  float* row = lanes_.row(0, n);
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    lanes_.read_row(dst, p, row);
    const auto num_wild = std::count_if(row, row + n, [](float value) { return !std::isfinite(value); });
    for (std::int64_t i = 0; i < n && num_wild > 0; ++i) {
      const bool is_alone = num_wild == 1 && !std::isfinite(row[i]);
      row[i] = is_alone ? row[i] : std::numeric_limits<float>::quiet_NaN();
    }
    if (num_wild > 0) {
      lanes_.write_row(dst, p, row);
    }
  }
}

}  // namespace trn::emu
