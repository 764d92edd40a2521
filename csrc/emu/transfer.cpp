// Copies in runs; a transposed pair of layouts in blocks that fit the host's cache.
#include "emu/transfer.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "emu/lanes.h"
#include "target/error.h"

namespace trn::emu {
namespace {

void run_by_run(const View& dst, const View& src) {
  const std::int64_t size = target::itemsize(src.dtype);
  Walk to(dst), from(src);
  for (std::int64_t left = dst.elements(); left > 0;) {
    const std::int64_t n = std::min(to.run(), from.run());
    copy(size, to.at(), to.stride(), from.at(), from.stride(), n);
    to.advance(n);
    from.advance(n);
    left -= n;
  }
}

// Rows of `from` become columns of `to`, by way of a small block: strides of a power of two would otherwise push each
// other out of the host's cache. from: [rows, columns], elements `from_step` bytes apart; to: [columns, rows], dense
// rows.
template <class T>
void transposed(std::byte* to, std::int64_t to_stride, const std::byte* from, std::int64_t from_stride,
                std::int64_t from_step, std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t kSide = 16, size = sizeof(T);
  T block[kSide][kSide];
  for (std::int64_t row = 0; row < rows; row += kSide) {
    const std::int64_t height = std::min(kSide, rows - row);
    for (std::int64_t column = 0; column < columns; column += kSide) {
      const std::int64_t width = std::min(kSide, columns - column);
      for (std::int64_t r = 0; r < height; ++r) {
        const std::byte* line = from + (row + r) * from_stride + column * from_step;
        if (from_step == size) {
          std::memcpy(block[r], line, static_cast<std::size_t>(width * size));
        } else {
          copy(size, reinterpret_cast<std::byte*>(block[r]), size, line, from_step, width);
        }
      }
      for (std::int64_t c = 0; c < width; ++c) {
        T line[kSide];
        for (std::int64_t r = 0; r < kSide; ++r) {
          line[r] = block[r][c];
        }
        std::memcpy(to + (column + c) * to_stride + row * size, line, static_cast<std::size_t>(height * size));
      }
    }
  }
}

bool transposed(const View& dst, const View& src) {
  if (src.free.size() != 1 || dst.free.size() != 1 || dst.partitions < 2 || dst.partitions != src.partitions) {
    return false;
  }
  const std::int64_t size = target::itemsize(src.dtype), columns = src.free[0].size;
  auto is_near = [&](const View& view) { return view.partition_bytes == size && view.free[0].stride > 8; };
  auto run = [&](auto tag) {
    using T = decltype(tag);
    if (is_near(src) && dst.free[0].stride == 1) {
      transposed<T>(dst.data, dst.partition_bytes, src.data, src.free[0].stride * size, size, columns, dst.partitions);
    } else if (is_near(dst) && src.free[0].stride > 0) {
      transposed<T>(dst.data, dst.free[0].stride * size, src.data, src.partition_bytes, src.free[0].stride * size,
                    dst.partitions, columns);
    } else {
      return false;
    }
    return true;
  };
  switch (size) {
    case 1:
      return run(std::uint8_t{});
    case 2:
      return run(std::uint16_t{});
    case 4:
      return run(std::uint32_t{});
    case 8:
      return run(std::uint64_t{});
    default:
      return false;
  }
}

}  // namespace

void transfer(const View& dst, const View& src) {
  if (is_hazard(dst, src)) {
    const auto size = static_cast<std::size_t>(target::itemsize(src.dtype));
    std::vector<std::byte> staged(static_cast<std::size_t>(src.elements()) * size);
    View dense{.data = staged.data(), .dtype = src.dtype, .partitions = 1, .free = {{src.elements(), 1}}};
    run_by_run(dense, src);
    run_by_run(dst, dense);
  } else if (!transposed(dst, src)) {
    run_by_run(dst, src);
  }
}

View transposed_view(const View& view) {
  const std::int64_t size = target::itemsize(view.dtype);
  if (view.free.size() > 1) {
    throw Error(Category::unsupported, "[transpose] a transposed tile has one free dimension; got " +
                                           std::to_string(view.free.size()) + ", limit 1. Merge dimensions.");
  }
  const Extent column = view.free.empty() ? Extent{} : view.free[0];
  View other = view;
  other.partitions = column.size;
  other.partition_bytes = column.stride * size;
  other.free = {{view.partitions, view.partition_bytes / size}};
  return other;
}

}  // namespace trn::emu
