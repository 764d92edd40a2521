// SBUF's allocation and addressing.
#include "emu/sbuf.h"

#include <cstring>
#include <string>

#include "emu/limits.h"

namespace trn::emu {

Sbuf::Sbuf(const target::Core& core)
    : num_partitions_(core.num_partitions),
      bytes_per_partition_(core.sbuf_bytes_per_partition),
      bytes_(new std::byte[static_cast<std::size_t>(num_partitions_ * bytes_per_partition_)]) {}

std::int64_t Sbuf::allocate(std::int64_t bytes_per_partition, std::string_view name) {
  // Four-byte aligned, as every element type on the chip needs at most.
  const std::int64_t bytes = (bytes_per_partition + 3) / 4 * 4;
  if (bytes > free_bytes()) {
    throw Error(Category::out_of_memory, "[sbuf] tile " + std::string(name) + " must fit beside the others; got " +
                                             std::to_string(bytes) + " bytes per partition, limit " +
                                             std::to_string(free_bytes()) + ". Use smaller tiles or fewer copies.");
  }
  const std::int64_t offset = used_bytes_;
  used_bytes_ += bytes;
  for (std::int64_t p = 0; p < num_partitions_; ++p) {
    // All ones is NaN in every floating type.
    std::memset(bytes_.get() + p * bytes_per_partition_ + offset, 0xFF, static_cast<std::size_t>(bytes));
  }
  return offset;
}

View Sbuf::view(std::int64_t offset, std::int64_t elements, Dtype dtype, std::int64_t partitions, std::int64_t address,
                std::vector<Extent> free, std::string_view name) const {
  require_at_most("sbuf", "a tile has at most " + std::to_string(num_partitions_) + " partitions", partitions,
                  num_partitions_, "Split the tile.");
  View view{.data = bytes_.get() + offset + address * target::itemsize(dtype),
            .memory = Memory::sbuf,
            .dtype = dtype,
            .partitions = partitions,
            .partition_bytes = bytes_per_partition_,
            .free = std::move(free)};
  require_at_most("sbuf", "tile " + std::string(name) + " must end within its buffer", address + view.span(), elements,
                  "Check the tile's offset and strides.");
  require_at_most("sbuf", "tile " + std::string(name) + " must start within its buffer", -address, 0,
                  "Check the tile's offset and strides.");
  return view;
}

}  // namespace trn::emu
