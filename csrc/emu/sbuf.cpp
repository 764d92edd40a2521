// SBUF's allocation and addressing.
#include "emu/sbuf.h"

#include <string>

#include "emu/limits.h"

namespace trn::emu {

Sbuf::Sbuf(const target::Core& core)
    : num_partitions_(core.num_partitions),
      bytes_per_partition_(core.sbuf_bytes_per_partition),
      bytes_(num_partitions_ * bytes_per_partition_) {}

std::int64_t Sbuf::allocate(std::int64_t bytes_per_partition, std::string_view name) {
  const std::int64_t bytes = pitch(bytes_per_partition);
  if (bytes > free_bytes()) {
    throw Error(Category::out_of_memory, "[sbuf] " + tile_called(name) + " must fit beside the others; got " +
                                             std::to_string(bytes) + " bytes per partition, limit " +
                                             std::to_string(free_bytes()) + ". Use smaller tiles or fewer copies.");
  }
  const std::int64_t offset = used_bytes_;
  used_bytes_ += bytes;
  bytes_.refresh(offset * num_partitions_, bytes * num_partitions_);
  return offset;
}

View Sbuf::view(std::int64_t offset, std::int64_t elements, Dtype dtype, std::int64_t partitions, std::int64_t address,
                const Extents& free, std::string_view name, std::int64_t start_partition) const {
  require_partitions_within("sbuf", start_partition, partitions, num_partitions_);
  require_within("sbuf", tile_called(name), "its buffer", partitions, free, address, elements);
  View view{.data = bytes_.at(offset * num_partitions_) + address * target::itemsize(dtype),
            .memory = Memory::sbuf,
            .dtype = dtype,
            .partitions = partitions,
            .partition_bytes = pitch(elements * target::itemsize(dtype)),
            .free = free,
            .start_partition = start_partition,
            .written_offset = bytes_.written_offset(),
            .raises_unwritten = bytes_.raises_unwritten()};
  view.data += start_partition * view.partition_bytes;
  return view;
}

}  // namespace trn::emu
