// PSUM: partitions of banks, handed out in whole banks, NaN until written.
#pragma once

#include <cstdint>
#include <string_view>

#include "emu/tracked_bytes.h"
#include "emu/view.h"
#include "target/integers.h"
#include "target/target.h"

namespace trn::emu {

class Psum {
 public:
  explicit Psum(const target::Core& core);

  void reset() { used_bytes_ = 0; }
  // Fresh tiles hold NaN (the default), and reading them raises (strict mode).
  void set_checks(bool poisons, bool raises_uninitialized) { bytes_.set_checks(poisons, raises_uninitialized); }
  void keep_marks() { bytes_.keep_marks(); }  // also outside strict mode
  // Starts on a bank. Returns the offset.
  std::int64_t allocate(std::int64_t bytes_per_partition, std::string_view name);
  std::int64_t bank_bytes() const { return bank_bytes_; }
  View view(std::int64_t offset, std::int64_t elements, Dtype dtype, std::int64_t partitions, std::int64_t address,
            const Extents& free, std::string_view name, std::int64_t start_partition = 0) const;

  // Host bytes from one partition of an allocation to the next: whole banks.
  std::int64_t pitch(std::int64_t bytes) const { return target::round_up(bytes, bank_bytes_); }

 private:
  std::int64_t num_partitions_, bytes_per_partition_, bank_bytes_, used_bytes_ = 0;
  TrackedBytes bytes_;
};

}  // namespace trn::emu
