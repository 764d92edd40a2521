// GpSimdE's gathers and what crosses partitions.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "emu/convert.h"
#include "emu/gpsimd_engine.h"
#include "emu/limits.h"

namespace trn::emu {
namespace {

constexpr std::int64_t kCorePartitions = 16, kMostIndices = 4096;

void require_column(std::string_view where, std::int64_t index, std::int64_t elements) {
  require_index(where, "an index lies within the row", index, elements, "What lies outside is undefined.");
}

// Where element `index` of a row lies.
std::byte* element(const View& view, std::int64_t partition, std::int64_t index) {
  std::byte* at = view.row(partition);
  const std::int64_t size = target::itemsize(view.dtype);
  if (view.free.size() == 1) {
    return at + index * view.free[0].stride * size;
  }
  for (std::size_t d = view.free.size(); d-- > 0;) {
    at += index % view.free[d].size * view.free[d].stride * size;
    index /= view.free[d].size;
  }
  return at;
}

// The first columns of a tile of rows; of another all.
View first_columns(View view, std::int64_t columns) {
  if (view.free.size() == 1) {
    view.free = {{columns, view.free[0].stride}};
  }
  return view;
}

}  // namespace

void GpSimdEngine::local_gather(const View& dst, const View& src_buffer, const View& index,
                                std::int64_t elements_per_index, std::int64_t num_valid_indices) {
  constexpr std::string_view where = "local_gather";
  for (const View* view : {&dst, &src_buffer, &index}) {
    require_sbuf(where, *view);
    require_tile(where, core_, *view);
    require_partitions(where, *view, dst.partitions);
  }
  require_initialized(where, src_buffer);
  require_initialized(where, index);
  require_dtype(where, "indices are uint16", index, index.dtype == Dtype::uint16, "Cast them.");
  require_dtype(where, "source and result have one dtype", dst, dst.dtype == src_buffer.dtype, "Cast afterwards.");
  require_multiple(where, "tiles have whole groups of 16 partitions", dst.partitions, kCorePartitions, "Pad them.");
  if (elements_per_index < 1 || elements_per_index > 32 ||
      !std::has_single_bit(static_cast<std::uint64_t>(elements_per_index))) {
    refuse(where, "an index stands for 1, 2, 4, 8, 16 or 32 elements", std::to_string(elements_per_index),
           "Choose one of them.");
  }
  const std::int64_t all = index.free_elements() * kCorePartitions;
  const std::int64_t valid = num_valid_indices == 0 ? all : num_valid_indices;
  require_at_most(where, "a core has few indices", valid, kMostIndices, "Split the tile.");
  require_at_most(where, "valid indices exist", valid, all, "Pass fewer.");
  require_equal(where, "the result has an element per index and element", dst.free_elements(),
                valid * elements_per_index, "Give it this width.");
  const std::int64_t size = target::itemsize(dst.dtype), columns = src_buffer.free_elements();
  std::int64_t* indices = lanes_.integer_row(1, index.free_elements());
  std::int64_t* flat = lanes_.integer_row(0, all);
  for (std::int64_t first = 0; first < dst.partitions; first += kCorePartitions) {
    for (std::int64_t p = 0; p < kCorePartitions; ++p) {
      lanes_.read_row(index, first + p, indices);
      for (std::int64_t i = 0; i < index.free_elements(); ++i) {
        flat[i * kCorePartitions + p] = indices[i];
      }
    }
    for (std::int64_t i = 0; i < valid; ++i) {
      require_column(where, flat[i] + elements_per_index - 1, columns);
      for (std::int64_t p = first; p < first + kCorePartitions; ++p) {
        for (std::int64_t e = 0; e < elements_per_index; ++e) {
          std::memcpy(element(dst, p, i * elements_per_index + e), element(src_buffer, p, flat[i] + e),
                      static_cast<std::size_t>(size));
        }
      }
    }
  }
}

void GpSimdEngine::nc_n_gather(const View& dst, const View& data, const View& indices) {
  constexpr std::string_view where = "nc_n_gather";
  for (const View* view : {&dst, &data, &indices}) {
    require_sbuf(where, *view);
    require_tile(where, core_, *view);
    require_partitions(where, *view, dst.partitions);
  }
  require_initialized(where, data);
  require_initialized(where, indices);
  require_dtype(where, "indices are uint32", indices, indices.dtype == Dtype::uint32, "Cast them.");
  require_dtype(where, "source and result have one dtype", dst, dst.dtype == data.dtype, "Cast afterwards.");
  const std::int64_t n = dst.free_elements(), columns = data.free_elements();
  require_equal(where, "the result has an element per index", n, indices.free_elements(), "Give both one shape.");
  std::int64_t* row = lanes_.integer_row(0, n);
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    lanes_.read_row(indices, p, row);
    for (std::int64_t i = 0; i < n; ++i) {
      require_column(where, row[i], columns);
      std::memcpy(element(dst, p, i), element(data, p, row[i]), static_cast<std::size_t>(target::itemsize(dst.dtype)));
    }
  }
}

void GpSimdEngine::tensor_partition_reduce(const View& dst, Alu alu, const View& data) {
  constexpr std::string_view where = "tensor_partition_reduce";
  require_sbuf(where, dst);
  require_sbuf(where, data);
  require_source(where, core_, data);
  require_equal(where, "the result has one partition", dst.partitions, 1, "Give it the shape [1, N].");
  const std::int64_t n = data.free_elements();
  require_equal(where, "the result has the input's elements per partition", dst.free_elements(), n,
                "Give it the shape [1, N].");
  if (alu == Alu::bitwise_and || alu == Alu::bitwise_or) {
    require_dtype(where, "bitwise operations take integers", data, is_integer(data.dtype), "Use integer tiles.");
    std::int64_t *sum = lanes_.integer_row(0, n), *row = lanes_.integer_row(1, n);
    lanes_.read_row(data, 0, sum);
    for (std::int64_t p = 1; p < data.partitions; ++p) {
      lanes_.read_row(data, p, row);
      apply(alu, sum, row, sum, n);
    }
    lanes_.write_row(dst, 0, sum);
    return;
  }
  if (alu != Alu::add && alu != Alu::maximum) {
    refuse(where, "the reduction is add, maximum, bitwise_or or bitwise_and", target::name(alu), "Use one of them.");
  }
  float* sum = lanes_.row(1, n);
  lanes_.read_row(data, 0, sum);
  for (std::int64_t p = 1; p < data.partitions; ++p) {
    apply(alu, sum, lanes_.dense_row(data, p, 0), sum, n);
  }
  lanes_.write_row(dst, 0, sum);
}

void GpSimdEngine::nonzero_with_count(const View& dst, const View& src, std::int64_t index_offset,
                                      std::int64_t padding_val) {
  constexpr std::string_view where = "nonzero_with_count";
  require_generation(where, core_, 3);
  require_sbuf(where, dst);
  require_sbuf(where, src);
  require_tile(where, core_, dst);
  require_source(where, core_, src);
  require_partitions(where, src, dst.partitions);
  require_dtype(where, "places and their number are int32", dst, dst.dtype == Dtype::int32, "Use an int32 tile.");
  require_dtype(where, "the source is float32 or int32", src, src.dtype == Dtype::float32 || src.dtype == Dtype::int32,
                "Cast with tensor_copy.");
  require_int32(where, "index_offset", index_offset);
  require_int32(where, "padding_val", padding_val);
  const std::int64_t n = src.free_elements();
  require_equal(where, "the result has an element more to a partition than the source", dst.free_elements(), n + 1,
                "Give it the shape [P, N + 1].");
  for (std::int64_t p = 0; p < src.partitions; p += kCorePartitions) {
    const float* values = lanes_.dense_row(src, p, 0);
    std::int64_t* places = lanes_.integer_row(0, n + 1);
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      if (values[i] != 0) {
        places[count++] = index_offset + i;
      }
    }
    std::fill(places + count, places + n, padding_val);
    places[n] = count;
    lanes_.write_row(dst, p, places);
  }
}

void GpSimdEngine::topk(const View& val_dst, const View& idx_dst, const View& src, std::int64_t n) {
  constexpr std::string_view where = "topk";
  constexpr std::int64_t kMostElements = 65535, kMostResults = 32767;
  require_generation(where, core_, 3);
  for (const View* view : {&val_dst, &idx_dst, &src}) {
    require_sbuf(where, *view);
    require_tile(where, core_, *view);
    require_partitions(where, *view, src.partitions);
  }
  require_multiple(where, "tiles have whole groups of 16 partitions", src.partitions, kCorePartitions, "Pad them.");
  require_dtype(where, "the source is bfloat16", src, src.dtype == Dtype::bfloat16, "Cast with tensor_copy.");
  require_dtype(where, "values are bfloat16", val_dst, val_dst.dtype == Dtype::bfloat16, "Cast afterwards.");
  require_dtype(where, "places are uint32", idx_dst, idx_dst.dtype == Dtype::uint32, "Use a uint32 tile.");
  const std::int64_t k = val_dst.free_elements();
  require_equal(where, "values and places have one shape", idx_dst.free_elements(), k, "Give both K columns.");
  require_at_least(where, "a group has elements", n, 8, "Pad it.");
  require_at_most(where, "a group has few elements", n, kMostElements, "Rank parts of it, then their results.");
  require_at_most(where, "a group's elements lie in the source", n, src.free_elements() * kCorePartitions,
                  "Pass fewer.");
  require_at_most(where, "results are among the elements", k, n, "Ask for fewer.");
  require_at_most(where, "results are few", k, kMostResults, "Ask for fewer.");
  if (const std::int64_t whole = n / kCorePartitions; whole > 0 && src.free.size() == 1) {
    require_initialized(where, first_columns(src, whole));  // of the last column what lies past n is ignored
  }
  auto above = [](float a, float b) { return std::isnan(a) ? !std::isnan(b) : a > b; };
  const std::int64_t columns = (k + kCorePartitions - 1) / kCorePartitions;
  std::vector<float> values(static_cast<std::size_t>(n));
  std::vector<std::uint32_t> places(values.size());
  for (std::int64_t first = 0; first < src.partitions; first += kCorePartitions) {
    for (std::int64_t p = 0; p < kCorePartitions; ++p) {
      const float* row = lanes_.dense_row(src, first + p, 0);
      for (std::int64_t i = p; i < n; i += kCorePartitions) {
        values[static_cast<std::size_t>(i)] = row[i / kCorePartitions];
      }
    }
    std::iota(places.begin(), places.end(), 0U);
    std::ranges::stable_sort(places, [&](std::uint32_t a, std::uint32_t b) { return above(values[a], values[b]); });
    std::reverse(places.begin(), places.begin() + k);
    for (std::int64_t slot = 0; slot < columns * kCorePartitions; ++slot) {
      const std::uint32_t place = slot < k ? places[static_cast<std::size_t>(slot)] : ~0U;
      const float value = slot < k ? values[place] : std::numeric_limits<float>::quiet_NaN();
      const auto bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
      const std::int64_t partition = first + slot % kCorePartitions, column = slot / kCorePartitions;
      std::memcpy(element(val_dst, partition, column), &bits, sizeof bits);
      std::memcpy(element(idx_dst, partition, column), &place, sizeof place);
    }
  }
  mark_written(first_columns(val_dst, columns));
  mark_written(first_columns(idx_dst, columns));
}

void GpSimdEngine::sequence_bounds(const View& dst, const View& segment_ids) {
  constexpr std::string_view where = "sequence_bounds";
  const std::int64_t n = segment_ids.free_elements();
  for (const View* view : {&dst, &segment_ids}) {
    require_sbuf(where, *view);
    require_tile(where, core_, *view);
    require_equal(where, "tiles have one partition", view->partitions, 1, "Use partition 0.");
    require_dtype(where, "tiles are float32 or int32", *view,
                  view->dtype == Dtype::float32 || view->dtype == Dtype::int32, "Cast them.");
  }
  require_initialized(where, segment_ids);
  require_equal(where, "the result has two elements per input element", dst.free_elements(), 2 * n,
                "Give it the shape [1, 2, N].");
  std::int64_t *ids = lanes_.integer_row(0, n), *out = lanes_.integer_row(1, 2 * n);
  lanes_.read_row(segment_ids, 0, ids);
  for (std::int64_t i = 0; i < n;) {
    const std::int64_t end = std::find_if(ids + i, ids + n, [&](std::int64_t id) { return id != ids[i]; }) - ids;
    std::fill(out + i, out + end, ids[i] == 0 ? n : i);
    std::fill(out + n + i, out + n + end, ids[i] == 0 ? -1 : end);
    i = end;
  }
  lanes_.write_row(dst, 0, out);
}

}  // namespace trn::emu
