// VectorE by value: the eight largest, their places, their replacement.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include "emu/limits.h"
#include "emu/vector_engine.h"

namespace trn::emu {
namespace {

constexpr std::int64_t kEight = 8, kMostSearched = 16384;

void require_eight(std::string_view where, const target::Core& core, const View& view, std::int64_t partitions) {
  require_tile(where, core, view);
  require_partitions(where, view, partitions);
  require_equal(where, "values and indices come in eights", view.free_elements(), kEight, "Give it the shape [P, 8].");
}

void require_index_dtype(std::string_view where, const View& view) {
  require_dtype(where, "indices are uint16 or uint32", view, view.dtype == Dtype::uint16 || view.dtype == Dtype::uint32,
                "Use uint32.");
}

void require_searched(std::string_view where, const target::Core& core, const View& data, std::int64_t least) {
  require_source(where, core, data);
  require_at_most(where, "a partition has few elements", data.free_elements(), kMostSearched, "Split the tile.");
  if (data.free_elements() < least) {
    refuse(where, "a partition has at least eight elements", std::to_string(data.free_elements()), "Pad the tile.");
  }
}

// The first place from `from` on that holds `value` and that no other value has taken; none: n.
std::int64_t find_untaken(const float* row, std::int64_t n, float value, std::span<const std::int64_t> taken) {
  std::int64_t at = std::find(row, row + n, value) - row;
  while (at < n && std::ranges::find(taken, at) != taken.end()) {
    at = std::find(row + at + 1, row + n, value) - row;
  }
  return at;
}

// Largest first, and NaN after every number: no document says where the hardware puts it.
constexpr auto is_before = [](float a, float b) { return a > b || (std::isnan(b) && !std::isnan(a)); };

}  // namespace

void VectorEngine::max8(const View& dst, const View& src) {
  constexpr std::string_view where = "max8";
  require_searched(where, core_, src, kEight);
  require_eight(where, core_, dst, src.partitions);
  const std::int64_t n = src.free_elements();
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    const float* row = lanes_.dense_row(src, p, 0);
    std::array<float, kEight> best;
    std::partial_sort_copy(row, row + n, best.begin(), best.end(), is_before);
    lanes_.write_row(dst, p, best.data());
  }
}

void VectorEngine::nc_find_index8(const View& dst, const View& data, const View& vals) {
  constexpr std::string_view where = "nc_find_index8";
  require_searched(where, core_, data, kEight);
  require_eight(where, core_, vals, data.partitions);
  require_initialized(where, vals);
  require_eight(where, core_, dst, data.partitions);
  require_index_dtype(where, dst);
  const std::int64_t n = data.free_elements();
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    const float *row = lanes_.dense_row(data, p, 0), *wanted = lanes_.dense_row(vals, p, 1);
    // A value that stands there twice is found twice, in ascending order; what is absent is all ones.
    std::array<std::int64_t, kEight> found;
    for (std::size_t v = 0; v < kEight; ++v) {
      found[v] = find_untaken(row, n, wanted[v], std::span(found).first(v));
    }
    for (std::int64_t& at : found) {
      at = at == n ? -1 : at;
    }
    lanes_.write_row(dst, p, found.data());
  }
}

void VectorEngine::nc_match_replace8(const View& dst, const View& data, const View& vals, float imm,
                                     const View* dst_idx) {
  constexpr std::string_view where = "nc_match_replace8";
  require_searched(where, core_, data, 1);
  require_operand(where, core_, dst, dst);
  require_operand(where, core_, data, dst);
  require_eight(where, core_, vals, data.partitions);
  require_initialized(where, vals);
  if (dst_idx != nullptr) {
    require_eight(where, core_, *dst_idx, data.partitions);
    require_index_dtype(where, *dst_idx);
  }
  const std::int64_t n = data.free_elements();
  float* out = lanes_.row(2, n);
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    const float *row = lanes_.dense_row(data, p, 0), *wanted = lanes_.dense_row(vals, p, 1);
    std::copy(row, row + n, out);
    // A value that stands there twice is replaced twice, by the last of its likes first; what was put in its place is
    // no value of the row's.
    std::array<std::int64_t, kEight> found = {};
    for (std::size_t v = kEight; v-- > 0;) {
      found[v] = find_untaken(row, n, wanted[v], std::span(found).subspan(v + 1));
    }
    for (std::int64_t& at : found) {
      if (at < n) {
        out[at] = imm;
      } else {
        at = 0;
      }
    }
    lanes_.write_row(dst, p, out);
    if (dst_idx != nullptr) {
      lanes_.write_row(*dst_idx, p, found.data());
    }
  }
}

}  // namespace trn::emu
