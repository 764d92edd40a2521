// The bytes of an on-chip memory: NaN where nothing was written, and in strict mode a mark for each byte that was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace trn::emu {

class TrackedBytes {
 public:
  explicit TrackedBytes(std::int64_t size) : size_(size), bytes_(allocate(size)) {}

  // Before anything is allocated: what was written is forgotten.
  void set_checks(bool poisons, bool raises_uninitialized) {
    if (raises_uninitialized && written_offset_ == 0) {
      bytes_ = allocate(2 * size_);
    }
    poisons_ = poisons || raises_uninitialized;
    written_offset_ = raises_uninitialized ? size_ : 0;
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

 private:
  static std::unique_ptr<std::byte[]> allocate(std::int64_t size) {
    return std::unique_ptr<std::byte[]>(new std::byte[static_cast<std::size_t>(size)]);
  }

  std::int64_t size_;
  std::unique_ptr<std::byte[]> bytes_;  // with the marks behind
  bool poisons_ = true;
  std::int64_t written_offset_ = 0;
};

}  // namespace trn::emu
