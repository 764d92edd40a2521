// DMA transfers.
#include "emu/dma.h"

#include <algorithm>
#include <string>

#include "emu/convert.h"
#include "emu/limits.h"
#include "emu/transfer.h"

namespace trn::emu {
namespace {

// What leaves or enters HBM: a row that serves all partitions, or an element that is repeated, moves once.
std::int64_t distinct_bytes(const View& view) {
  std::int64_t elements = view.partition_bytes == 0 ? 1 : view.partitions;
  for (const Extent& extent : view.free) {
    elements *= extent.stride == 0 ? 1 : extent.size;
  }
  return elements * target::itemsize(view.dtype);
}

}  // namespace

View HbmTensor::view(std::int64_t partitions, std::int64_t partition_stride, std::int64_t address, const Extents& free,
                     std::string_view name) const {
  const std::int64_t size = target::itemsize(dtype);
  View view{.data = static_cast<std::byte*>(data) + address * size,
            .memory = Memory::hbm,
            .dtype = dtype,
            .partitions = partitions,
            .partition_bytes = partition_stride * size,
            .free = free};
  const std::int64_t end = address + (partitions - 1) * partition_stride + view.span();
  require_within("dma", "a tile of ", name, "the tensor", address, end, elements);
  return view;
}

void Dma::copy(const View& dst, const View& src) {
  require_equal("dma", "both ends have the same partitions", src.partitions, dst.partitions,
                "Give both tiles one shape.");
  require_equal("dma", "both ends have the same elements per partition", src.free_elements(), dst.free_elements(),
                "Give both tiles one shape.");
  if (dst.memory != Memory::hbm || src.memory != Memory::hbm) {
    require_at_most("dma", "a tile spans at most every partition", dst.partitions, core_.num_partitions,
                    "Split the tile.");
  }
  if (src.dtype == dst.dtype) {
    transfer(dst, src);
  } else if (is_integer(src.dtype)) {
    lanes_.run<std::int64_t, 1>(dst, {&src},
                                [](auto in, std::int64_t* out, std::int64_t n) { std::copy(in[0], in[0] + n, out); });
  } else {
    lanes_.run<float, 1>(dst, {&src}, [](auto in, float* out, std::int64_t n) { std::copy(in[0], in[0] + n, out); });
  }
  hbm_read_bytes_ += src.memory == Memory::hbm ? distinct_bytes(src) : 0;
  hbm_write_bytes_ += dst.memory == Memory::hbm ? distinct_bytes(dst) : 0;
}

}  // namespace trn::emu
