// SBUF: partitions of bytes, handed out in order, NaN until written.
#pragma once

#include <cstdint>
#include <string_view>

#include "emu/tracked_bytes.h"
#include "emu/view.h"
#include "target/integers.h"
#include "target/target.h"

namespace trn::emu {

class Sbuf {
 public:
  explicit Sbuf(const target::Core& core);

  void reset() { used_bytes_ = 0; }
  // Fresh tiles hold NaN (the default), and reading them raises (strict mode).
  void set_checks(bool poisons, bool raises_uninitialized) { bytes_.set_checks(poisons, raises_uninitialized); }
  // The same bytes of every partition; returns their offset. `name` is for the error.
  std::int64_t allocate(std::int64_t bytes_per_partition, std::string_view name);
  std::int64_t free_bytes() const { return bytes_per_partition_ - used_bytes_; }
  // Element `address` of an allocation of `elements` per partition. An allocation's partitions lie side by side on the
  // host, so that a tile of whole rows is one run.
  View view(std::int64_t offset, std::int64_t elements, Dtype dtype, std::int64_t partitions, std::int64_t address,
            const Extents& free, std::string_view name, std::int64_t start_partition = 0) const;

  // Host bytes from one partition of an allocation to the next: four-byte aligned, as element types on the chip need.
  static std::int64_t pitch(std::int64_t bytes) { return target::round_up(bytes, 4); }

 private:
  std::int64_t num_partitions_, bytes_per_partition_, used_bytes_ = 0;
  TrackedBytes bytes_;
};

}  // namespace trn::emu
