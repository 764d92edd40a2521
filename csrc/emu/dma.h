// DMA: tiles between HBM and the chip's memories, with the conversion of dtypes on the way.
#pragma once

#include <cstdint>
#include <string_view>

#include "emu/lanes.h"
#include "emu/view.h"
#include "target/target.h"

namespace trn::emu {

// A tensor in HBM, in logical order.
struct HbmTensor {
  void* data = nullptr;
  std::int64_t elements = 0;
  Dtype dtype = Dtype::float32;

  // [partitions, free...] from element `address`, partitions `partition_stride` elements apart.
  View view(std::int64_t partitions, std::int64_t partition_stride, std::int64_t address, const Extents& free,
            std::string_view name) const;
};

class Dma {
 public:
  explicit Dma(const target::Core& core) : core_(core) {}

  // Both have the same number of partitions and of elements in each; order within a row is kept.
  void copy(const View& dst, const View& src);

  std::int64_t hbm_read_bytes() const { return hbm_read_bytes_; }
  std::int64_t hbm_write_bytes() const { return hbm_write_bytes_; }

 private:
  target::Core core_;
  std::int64_t hbm_read_bytes_ = 0, hbm_write_bytes_ = 0;
  Lanes lanes_;
};

}  // namespace trn::emu
