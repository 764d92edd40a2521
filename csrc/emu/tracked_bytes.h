// The bytes of an on-chip memory: NaN where nothing was written, and a mark for each byte that was where marks are
// kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace trn::emu {

class TrackedBytes {
 public:
  explicit TrackedBytes(std::int64_t size) : size_(size), bytes_(allocate(size)) {}

  // Both before anything is allocated: what was written is forgotten.
  void set_checks(bool poisons, bool raises_uninitialized) {
    poisons_ = poisons || raises_uninitialized;
    raises_unwritten_ = raises_uninitialized;
    if (raises_uninitialized) {
      keep_marks();
    }
  }
  void keep_marks() {
    if (written_offset_ == 0) {
      bytes_ = allocate(2 * size_);
      written_offset_ = size_;
    }
  }
  void refresh(std::int64_t offset, std::int64_t bytes) {
    if (poisons_) {
      // All ones is NaN in every floating type.
      std::memset(at(offset), 0xFF, static_cast<std::size_t>(bytes));
    }
    if (written_offset_ != 0) {
      std::memset(at(offset + written_offset_), 0, static_cast<std::size_t>(bytes));
    }
  }
  std::byte* at(std::int64_t offset) const { return bytes_.get() + offset; }
  std::int64_t written_offset() const { return written_offset_; }
  bool raises_unwritten() const { return raises_unwritten_; }

 private:
  static std::unique_ptr<std::byte[]> allocate(std::int64_t size) {
    return std::unique_ptr<std::byte[]>(new std::byte[static_cast<std::size_t>(size)]);
  }

  std::int64_t size_;
  std::unique_ptr<std::byte[]> bytes_;  // with the marks behind
  bool poisons_ = true, raises_unwritten_ = false;
  std::int64_t written_offset_ = 0;
};

}  // namespace trn::emu
