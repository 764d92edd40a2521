// DMA: tiles between HBM and the chip's memories, with the conversion of dtypes on the way.
#pragma once

#include <cstdint>
#include <span>
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
  explicit Dma(const target::Core& core, const Numerics& numerics = {}) : core_(core), numerics_(numerics) {}

  // Reading what nothing wrote to HBM raises (strict mode).
  void set_checks(bool raises_uninitialized) { raises_uninitialized_ = raises_uninitialized; }

  // Both have as many elements; their order is kept.
  void copy(const View& dst, const View& src);

  // dst += src, in fp32 or as integers
  void accumulate(const View& dst, const View& src);
  // dst = the sum of 1 to 16 sources, or another reduction of them, in fp32
  void compute(const View& dst, std::span<const View> srcs, target::Alu reduce_op = target::Alu::add);
  // dst[i, j, ...] = src with its dimensions (partitions first) in the order `axes`: (1, 0), (2, 1, 0) or (3, 1, 2, 0).
  void transpose(const View& dst, const View& src, std::span<const int> axes);
  // dst: [P, n * e] on the chip; src: an HBM view whose partitions are the tensor's rows, e elements each; index: SBUF
  // [P, n]. A row past the end raises, or is skipped.
  void gather(const View& dst, const View& src, const View& index, bool skips_out_of_bounds = false);
  // The same the other way round; with `accumulates` rows are added in fp32, one after another.
  void scatter(const View& dst, const View& src, const View& index, bool accumulates, bool skips_out_of_bounds = false);

  // Strict mode: raises where nothing wrote a source.
  void require_written(std::string_view where, const View& src) const;

  std::int64_t hbm_read_bytes() const { return hbm_read_bytes_; }
  std::int64_t hbm_write_bytes() const { return hbm_write_bytes_; }

 private:
  void count(const View& dst, const View& src);
  template <class Move>
  void indexed(std::string_view where, const View& rows, const View& tile, const View& index, bool skips, bool fills,
               Move move);

  target::Core core_;
  Numerics numerics_;
  bool raises_uninitialized_ = false;
  std::int64_t hbm_read_bytes_ = 0, hbm_write_bytes_ = 0;
  Lanes lanes_;
};

}  // namespace trn::emu
