// DMA transfers.
#include "emu/dma.h"

#include <cstring>
#include <string>

#include "emu/convert.h"
#include "emu/limits.h"

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

View HbmTensor::view(std::int64_t partitions, std::int64_t partition_stride, std::int64_t address,
                     std::vector<Extent> free, std::string_view name) const {
  const std::int64_t size = target::itemsize(dtype);
  View view{.data = static_cast<std::byte*>(data) + address * size,
            .memory = Memory::hbm,
            .dtype = dtype,
            .partitions = partitions,
            .partition_bytes = partition_stride * size,
            .free = std::move(free)};
  const std::int64_t end = address + (partitions - 1) * partition_stride + view.span();
  require_at_most("dma", "a tile of " + std::string(name) + " must end within the tensor", end, elements,
                  "Check the tile's offset and strides.");
  require_at_most("dma", "a tile of " + std::string(name) + " must start within the tensor", -address, 0,
                  "Check the tile's offset and strides.");
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
  const auto n = static_cast<std::size_t>(dst.free_elements());
  const auto size = static_cast<std::size_t>(target::itemsize(src.dtype));
  if (src.dtype == dst.dtype) {
    bytes_.resize(n * size);
  } else if (is_integer(src.dtype)) {
    integers_.resize(n);
  } else {
    row_.resize(n);
  }
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    if (src.dtype == dst.dtype) {
      std::byte* at = bytes_.data();
      for_each(src, src.row(p), [&](const std::byte* from) {
        std::memcpy(at, from, size);
        at += size;
      });
      at = bytes_.data();
      for_each(dst, dst.row(p), [&](std::byte* to) {
        std::memcpy(to, at, size);
        at += size;
      });
    } else if (is_integer(src.dtype)) {
      read_row(src, p, integers_.data());
      write_row(dst, p, integers_.data());
    } else {
      read_row(src, p, row_.data());
      write_row(dst, p, row_.data());
    }
  }
  hbm_read_bytes_ += src.memory == Memory::hbm ? distinct_bytes(src) : 0;
  hbm_write_bytes_ += dst.memory == Memory::hbm ? distinct_bytes(dst) : 0;
}

}  // namespace trn::emu
