// Copies in runs; a transposed pair of layouts in blocks that fit the host's cache.
#include "emu/transfer.h"

#include <algorithm>
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

// Rows that are far apart on one side are neighbours on the other: the side with the far elements is walked a few
// cache lines at a time.
bool is_transposed(const View& dst, const View& src) {
  const std::int64_t size = target::itemsize(src.dtype);
  auto is_far = [&](const View& view) { return view.partition_bytes == size && view.free[0].stride > 8; };
  return dst.partitions > 1 && src.free.size() == 1 && dst.free.size() == 1 && (is_far(src) || is_far(dst));
}

void transposed(const View& dst, const View& src) {
  constexpr std::int64_t kColumns = 64;
  const std::int64_t size = target::itemsize(src.dtype), columns = src.free[0].size;
  const std::int64_t from = src.free[0].stride * size, to = dst.free[0].stride * size;
  for (std::int64_t column = 0; column < columns; column += kColumns) {
    const std::int64_t n = std::min(kColumns, columns - column);
    for (std::int64_t p = 0; p < dst.partitions; ++p) {
      copy(size, dst.row(p) + column * to, to, src.row(p) + column * from, from, n);
    }
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
  } else if (is_transposed(dst, src)) {
    transposed(dst, src);
  } else {
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
