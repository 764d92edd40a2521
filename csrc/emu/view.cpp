// Views' extents, and where two of them meet.
#include "emu/view.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "emu/convert.h"
#include "emu/lanes.h"
#include "target/error.h"

namespace trn::emu {
namespace {

// First byte that a row touches, relative to its data, and one past the last.
struct Bytes {
  std::int64_t begin = 0, end = 0;
};

Bytes row_bytes(const View& view) {
  const std::int64_t size = target::itemsize(view.dtype);
  const Reach touched = reach(view.free);
  return {touched.lowest * size, (touched.highest + 1) * size};
}

bool is_same_layout(const View& a, const View& b) {
  const bool alike = a.data == b.data && a.dtype == b.dtype && a.partition_bytes == b.partition_bytes &&
                     a.partitions == b.partitions && a.free.size() == b.free.size();
  return alike && std::equal(a.free.begin(), a.free.end(), b.free.begin(),
                             [](const Extent& x, const Extent& y) { return x.size == y.size && x.stride == y.stride; });
}

bool has_mark(const View& view, int mark) {
  if (view.written_offset == 0) {
    return false;
  }
  const auto size = static_cast<std::size_t>(target::itemsize(view.dtype));
  bool found = false;
  Walk walk(view);
  walk.take(view.elements(), [&](const std::byte* at, std::int64_t stride, std::int64_t n) {
    for (std::int64_t i = 0; i < n && !found; ++i) {
      found = std::memchr(at + i * stride + view.written_offset, mark, size) != nullptr;
    }
  });
  return found;
}

}  // namespace

void Extents::push_back(const Extent& extent) {
  if (size_ == kMost) {
    throw Error(Category::unsupported, "[view] an operand has few free dimensions; got " + std::to_string(kMost + 1) +
                                           ", limit " + std::to_string(kMost) + ". Merge dimensions.");
  }
  items_[size_++] = extent;
}

std::int64_t bounded_product(std::int64_t a, std::int64_t b) {
  constexpr std::int64_t kMost = std::int64_t{1} << 58;
  std::int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) {
    return (a < 0) == (b < 0) ? kMost : -kMost;
  }
  return std::clamp(product, -kMost, kMost);
}

Reach reach(const Extents& free) {
  Reach reach;
  for (const Extent& extent : free) {
    const std::int64_t last = bounded_product(extent.size - 1, extent.stride);
    (last < 0 ? reach.lowest : reach.highest) += last;
  }
  return reach;
}

bool is_hazard(const View& dst, const View& src) {
  const Bytes to = row_bytes(dst), from = row_bytes(src);
  const std::int64_t to_pitch = (dst.partitions - 1) * dst.partition_bytes;
  const std::int64_t from_pitch = (src.partitions - 1) * src.partition_bytes;
  const std::byte* to_begin = dst.data + to.begin + std::min<std::int64_t>(to_pitch, 0);
  const std::byte* to_end = dst.data + to.end + std::max<std::int64_t>(to_pitch, 0);
  const std::byte* from_begin = src.data + from.begin + std::min<std::int64_t>(from_pitch, 0);
  const std::byte* from_end = src.data + from.end + std::max<std::int64_t>(from_pitch, 0);
  if (to_begin >= from_end || from_begin >= to_end || is_same_layout(dst, src)) {
    return false;
  }
  // Columns of one buffer that lie beside each other.
  if (dst.partition_bytes == src.partition_bytes && std::abs(src.data - dst.data) < dst.partition_bytes) {
    const std::int64_t shift = src.data - dst.data;
    return shift + from.begin < to.end && to.begin < shift + from.end;
  }
  return true;
}

void mark_written(const View& view) {
  if (view.written_offset == 0) {
    return;
  }
  const auto size = static_cast<std::size_t>(target::itemsize(view.dtype));
  Walk walk(view);
  walk.take(view.elements(), [&](std::byte* at, std::int64_t stride, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      std::memset(at + i * stride + view.written_offset, 1, size);
    }
  });
}

void mark_written(const View& view, const View& predicate, bool reverse) {
  if (view.written_offset == 0) {
    return;
  }
  const std::int64_t columns = view.free_elements();
  Lanes lanes;
  for (std::int64_t p = 0; p < view.partitions; ++p) {
    std::int64_t* chosen = lanes.integer_row(0, columns);
    lanes.read_row(predicate, p, chosen);
    View element = view.only(p);
    element.free = {};
    Walk walk(view.only(p));
    for (std::int64_t i = 0; i < columns; ++i, walk.advance(1)) {
      if ((chosen[i] != 0) != reverse) {
        element.data = walk.at();
        mark_written(element);
      }
    }
  }
}

bool has_unwritten(const View& view) {
  return has_mark(view, 0);
}

bool has_written(const View& view) {
  return has_mark(view, 1);
}

bool looks_fresh(const View& view) {
  if (is_integer(view.dtype)) {
    return false;  // all ones is a value
  }
  const std::int64_t size = target::itemsize(view.dtype);
  constexpr unsigned char kFresh[16] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
                                        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
  bool found = false;
  Walk walk(view);
  walk.take(view.elements(), [&](const std::byte* at, std::int64_t stride, std::int64_t n) {
    for (std::int64_t i = 0; i < n && !found; ++i) {
      found = std::memcmp(at + i * stride, kFresh, static_cast<std::size_t>(size)) == 0;
    }
  });
  return found;
}

}  // namespace trn::emu
