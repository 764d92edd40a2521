// SBUF: partitions of bytes, handed out in order, NaN until written.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "emu/view.h"
#include "target/target.h"

namespace trn::emu {

class Sbuf {
 public:
  explicit Sbuf(const target::Core& core);

  void reset() { used_bytes_ = 0; }
  // The same bytes of every partition; returns their offset. `name` is for the error.
  std::int64_t allocate(std::int64_t bytes_per_partition, std::string_view name);
  std::int64_t free_bytes() const { return bytes_per_partition_ - used_bytes_; }
  // Element `address` of an allocation of `elements` per partition.
  View view(std::int64_t offset, std::int64_t elements, Dtype dtype, std::int64_t partitions, std::int64_t address,
            std::vector<Extent> free, std::string_view name) const;

 private:
  std::int64_t num_partitions_, bytes_per_partition_, used_bytes_ = 0;
  std::unique_ptr<std::byte[]> bytes_;
};

}  // namespace trn::emu
