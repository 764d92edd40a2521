// An operand as an engine sees it: partitions of strided elements in one of the memories.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "target/dtype.h"
#include "target/isa.h"

namespace trn::emu {

using target::Dtype;
using target::Memory;

struct Extent {
  std::int64_t size = 1;
  std::int64_t stride = 1;  // elements
};

struct View {
  std::byte* data = nullptr;  // of the first element of partition 0
  Memory memory = Memory::sbuf;
  Dtype dtype = Dtype::float32;
  std::int64_t partitions = 1;
  std::int64_t partition_bytes = 0;    // from one partition to the next; 0 in HBM: one row serves all
  std::vector<Extent> free;            // outermost first
  std::int64_t bank_offset_bytes = 0;  // PSUM: place of `data` in its partition

  std::int64_t free_elements() const {
    std::int64_t product = 1;
    for (const Extent& extent : free) {
      product *= extent.size;
    }
    return product;
  }
  // Elements that a row spans in memory, first to last.
  std::int64_t span() const {
    std::int64_t last = 0;
    for (const Extent& extent : free) {
      last += (extent.size - 1) * extent.stride;
    }
    return last + 1;
  }
  std::byte* row(std::int64_t partition) const { return data + partition * partition_bytes; }
};

// Calls visit(address) for each element of a row, in order.
template <class Visit>
void for_each(const View& view, std::byte* row, Visit visit, std::size_t depth = 0) {
  const auto size = static_cast<std::int64_t>(target::itemsize(view.dtype));
  if (depth == view.free.size()) {
    visit(row);
    return;
  }
  const Extent& extent = view.free[depth];
  if (depth + 1 == view.free.size()) {
    for (std::int64_t i = 0; i < extent.size; ++i) {
      visit(row + i * extent.stride * size);
    }
    return;
  }
  for (std::int64_t i = 0; i < extent.size; ++i) {
    for_each(view, row + i * extent.stride * size, visit, depth + 1);
  }
}

// One partition's row as fp32 and back.
void read_row(const View& view, std::int64_t partition, float* out);
void write_row(const View& view, std::int64_t partition, const float* values);
// The same as integers.
void read_row(const View& view, std::int64_t partition, std::int64_t* out);
void write_row(const View& view, std::int64_t partition, const std::int64_t* values);

}  // namespace trn::emu
