// Rows of operands to and from fp32 or integers.
#include "emu/view.h"

#include <cstring>

#include "emu/convert.h"

namespace trn::emu {
namespace {

bool is_dense(const View& view) {
  return view.free.size() == 1 && view.free.front().stride == 1;
}

}  // namespace

void read_row(const View& view, std::int64_t partition, float* out) {
  std::byte* row = view.row(partition);
  if (is_dense(view) && view.dtype == Dtype::float32) {
    std::memcpy(out, row, static_cast<std::size_t>(view.free.front().size) * sizeof(float));
    return;
  }
  for_each(view, row, [&](const std::byte* at) { *out++ = load_float(at, view.dtype); });
}

void write_row(const View& view, std::int64_t partition, const float* values) {
  std::byte* row = view.row(partition);
  if (is_dense(view) && view.dtype == Dtype::float32) {
    std::memcpy(row, values, static_cast<std::size_t>(view.free.front().size) * sizeof(float));
    return;
  }
  for_each(view, row, [&](std::byte* at) { store_float(at, view.dtype, *values++); });
}

void read_row(const View& view, std::int64_t partition, std::int64_t* out) {
  for_each(view, view.row(partition), [&](const std::byte* at) { *out++ = load_integer(at, view.dtype); });
}

void write_row(const View& view, std::int64_t partition, const std::int64_t* values) {
  for_each(view, view.row(partition), [&](std::byte* at) { store_integer(at, view.dtype, *values++); });
}

}  // namespace trn::emu
