// An operand as an engine sees it: partitions of strided elements in one of the memories.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
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

// The free dimensions of an operand, outermost first, held in place: an instruction allocates nothing.
class Extents {
 public:
  static constexpr std::size_t kMost = 8;

  Extents() = default;
  Extents(std::initializer_list<Extent> list) {
    for (const Extent& extent : list) {
      push_back(extent);
    }
  }
  Extents(const std::vector<Extent>& list) {
    for (const Extent& extent : list) {
      push_back(extent);
    }
  }
  void push_back(const Extent& extent);  // past kMost: an Error

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const Extent* begin() const { return items_.data(); }
  const Extent* end() const { return items_.data() + size_; }
  const Extent& operator[](std::size_t i) const { return items_[i]; }
  const Extent& front() const { return items_[0]; }
  const Extent& back() const { return items_[size_ - 1]; }

 private:
  std::array<Extent, kMost> items_;
  std::size_t size_ = 0;
};

// Elements that a row touches, relative to the one it starts at: from `lowest` up to and with `highest`.
struct Reach {
  std::int64_t lowest = 0, highest = 0;
};
Reach reach(const Extents& free);

// a * b, held at the ends of a range whose sums do not overflow either: what is out of bounds stays so.
std::int64_t bounded_product(std::int64_t a, std::int64_t b);

struct View {
  std::byte* data = nullptr;  // of the first element of partition 0
  Memory memory = Memory::sbuf;
  Dtype dtype = Dtype::float32;
  std::int64_t partitions = 1;
  std::int64_t partition_bytes = 0;  // from one partition to the next; 0: one row serves all
  Extents free;
  std::int64_t bank_offset_bytes = 0;  // PSUM: place of `data` in its bank
  std::int64_t start_partition = 0;    // on the chip: the partition that `data` lies in
  std::int64_t written_offset = 0;     // from each byte to the mark that it was written; 0: none kept
  bool raises_unwritten = false;       // strict mode: to engines that read

  std::int64_t free_elements() const {
    std::int64_t product = 1;
    for (const Extent& extent : free) {
      product *= extent.size;
    }
    return product;
  }
  std::int64_t elements() const { return partitions * free_elements(); }
  // Whether a row's elements lie side by side, in order.
  bool has_dense_rows() const {
    std::int64_t stride = 1;
    for (std::size_t d = free.size(); d-- > 0; stride *= free[d].size) {
      if (free[d].size != 1 && free[d].stride != stride) {
        return false;
      }
    }
    return true;
  }
  std::byte* row(std::int64_t partition) const { return data + partition * partition_bytes; }
  // One partition of it.
  View only(std::int64_t partition) const {
    View view = *this;
    view.data = row(partition);
    view.partitions = 1;
    return view;
  }
};

// Whether a write to `dst` may change elements of `src` that are read later: they share memory, and not element for
// element.
bool is_hazard(const View& dst, const View& src);

// Where marks are kept: sets them, of all elements or of those whose predicate is not 0 (`reverse`: is 0).
void mark_written(const View& view);
void mark_written(const View& view, const View& predicate, bool reverse);
bool has_unwritten(const View& view);
bool has_written(const View& view);

// Whether a floating element holds what fresh memory holds: for memory without marks, which others write too.
bool looks_fresh(const View& view);

}  // namespace trn::emu
