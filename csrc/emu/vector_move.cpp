// VectorE across partitions and formats: transposes, shuffles, quantisation.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "emu/clones.h"
#include "emu/limits.h"
#include "emu/microscaling.h"
#include "emu/transfer.h"
#include "emu/vector_engine.h"

namespace trn::emu {

void VectorEngine::nc_transpose(const View& dst, const View& data) {
  constexpr std::string_view where = "nc_transpose";
  require_tile(where, core_, dst);
  require_source(where, core_, data);
  require_at_most(where, "VectorE transposes few partitions", data.partitions, kQuadrant, "Use TensorE.");
  require_at_most(where, "VectorE transposes few columns", data.free_elements(), kQuadrant, "Use TensorE.");
  require_equal(where, "the result has a partition per source column", dst.partitions, data.free_elements(),
                "Give it the transposed shape.");
  require_equal(where, "the result has an element per source partition", dst.free_elements(), data.partitions,
                "Give it the transposed shape.");
  require_dtype(where, "source and result have one dtype", dst, dst.dtype == data.dtype, "Cast with tensor_copy.");
  transfer(transposed_view(dst), data);
}

void VectorEngine::nc_stream_shuffle(const View& dst, const View& src, const std::array<int, 32>& mask) {
  constexpr std::string_view where = "nc_stream_shuffle";
  require_tile(where, core_, dst);
  require_source(where, core_, src);
  require_equal(where, "source and result have as many elements per partition", src.free_elements(),
                dst.free_elements(), "Give both one shape.");
  require_dtype(where, "source and result have one dtype", src, src.dtype == dst.dtype, "Cast with tensor_copy.");
  for (const int from : mask) {
    if (from != 255) {
      require_index(where, "a mask element names a partition of the quadrant, or is 255", from, kQuadrant,
                    "Check the mask.");
    }
  }
  const std::int64_t size = target::itemsize(src.dtype), row = src.free_elements() * size;
  auto* staged = reinterpret_cast<std::byte*>(lanes_.row(0, (src.partitions * row + 3) / 4));
  View dense = src;
  dense.data = staged;
  dense.partition_bytes = row;
  dense.free = {{src.free_elements(), 1}};
  transfer(dense, src);
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    const int from = mask[static_cast<std::size_t>(p % kQuadrant)];
    const std::int64_t partition = p / kQuadrant * kQuadrant + from;
    if (from != 255) {
      require_at_most(where, "the mask names a partition of the source", partition, src.partitions - 1,
                      "Check the mask.");
      transfer(dst.only(p), dense.only(partition));
    }
  }
}

void VectorEngine::quantize_mx(const View& dst, const View& src, const View& dst_scale) {
  constexpr std::string_view where = "quantize_mx";
  require_generation(where, core_, 4);
  for (const View* view : {&dst, &src, &dst_scale}) {
    require_sbuf(where, *view);
  }
  require_tile(where, core_, dst);
  require_tile(where, core_, src);
  require_dtype(where, "the source is float16 or bfloat16", src,
                src.dtype == Dtype::float16 || src.dtype == Dtype::bfloat16, "Cast with tensor_copy.");
  require_dtype(where, "the result is float8_e5m2_x4 or float8_e4m3fn_x4", dst,
                dst.dtype == Dtype::float8_e5m2_x4 || dst.dtype == Dtype::float8_e4m3fn_x4, "Allocate an x4 tile.");
  require_dtype(where, "scales are uint8", dst_scale, dst_scale.dtype == Dtype::uint8, "Allocate a uint8 tile.");
  require_initialized(where, src);
  const std::int64_t columns = src.free_elements(), packed = columns / kPacked;
  require_multiple(where, "the source has whole quadrants", src.partitions, kQuadrant, "Pad the tile.");
  require_multiple(where, "the source has columns in fours", columns, kPacked, "Pad the tile.");
  require_partitions(where, src, dst.partitions);
  require_equal(where, "the result has a packed element per four columns", dst.free_elements(), packed,
                "Give it a quarter of the columns.");
  require_scales(where, dst_scale, src.partitions);
  require_equal(where, "a scale serves four columns", dst_scale.free_elements(), packed,
                "Give them a quarter of the columns.");
  require_at_most(where, "scales lie in the first 16 partitions of a quadrant",
                  dst_scale.start_partition % kQuadrant + 4, 16, "Move the scale tile.");
  const bool is_e5m2 = dst.dtype == Dtype::float8_e5m2_x4;
  const int largest_exponent = is_e5m2 ? 15 : 8;
  float* group = lanes_.row(0, kScaledPartitions * columns);
  auto* codes = reinterpret_cast<std::uint8_t*>(lanes_.row(1, packed));
  std::int64_t* scales = lanes_.integer_row(0, packed);
  for (std::int64_t first = 0; first < src.partitions; first += kScaledPartitions) {
    for (std::int64_t p = 0; p < kScaledPartitions; ++p) {
      lanes_.read_row(src, first + p, group + p * columns);
    }
    for (std::int64_t f = 0; f < packed; ++f) {
      float most = 0;
      for (std::int64_t i = 0; i < kScaledPartitions * kPacked; ++i) {
        most = std::max(most, std::fabs(group[i / kPacked * columns + f * kPacked + i % kPacked]));
      }
      // One binade above the sample rule of the OCP document (nki.isa.quantize_mx). An infinity takes the largest
      // scale (assumed).
      const int exponent = std::isinf(most) ? 127 : most > 0 ? std::ilogb(most) - (largest_exponent - 1) : -127;
      scales[f] = std::clamp(exponent + 127, 0, 254);
    }
    for (std::int64_t p = 0; p < kScaledPartitions; ++p) {
      for (std::int64_t c = 0; c < columns; ++c) {
        const float value = std::ldexp(group[p * columns + c], 127 - static_cast<int>(scales[c / kPacked]));
        codes[c] = is_e5m2 ? Float8E5M2::encode(value) : Float8E4M3FN::encode(value);
      }
      const View dense{.data = reinterpret_cast<std::byte*>(codes), .dtype = dst.dtype, .free = {{packed, 1}}};
      transfer(dst.only(first + p), dense);
    }
    lanes_.write_row(dst_scale, scale_row(first), scales);
  }
}

}  // namespace trn::emu
