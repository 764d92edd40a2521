// PSUM's banks.
#include "emu/psum.h"

#include <string>

#include "emu/limits.h"

namespace trn::emu {

Psum::Psum(const target::Core& core)
    : num_partitions_(core.num_partitions),
      bytes_per_partition_(core.psum_bytes_per_partition),
      bank_bytes_(core.psum_bytes_per_partition / core.psum_num_banks),
      bytes_(num_partitions_ * bytes_per_partition_) {}

std::int64_t Psum::allocate(std::int64_t bytes_per_partition, std::string_view name) {
  const std::int64_t bytes = pitch(bytes_per_partition);
  if (used_bytes_ + bytes > bytes_per_partition_) {
    throw Error(Category::out_of_memory, "[psum] " + tile_called(name) + " must fit beside the others; got " +
                                             std::to_string(bytes / bank_bytes_) + " banks, limit " +
                                             std::to_string((bytes_per_partition_ - used_bytes_) / bank_bytes_) +
                                             ". Use smaller tiles or fewer copies.");
  }
  const std::int64_t offset = used_bytes_;
  used_bytes_ += bytes;
  bytes_.refresh(offset * num_partitions_, bytes * num_partitions_);
  return offset;
}

View Psum::view(std::int64_t offset, std::int64_t elements, Dtype dtype, std::int64_t partitions, std::int64_t address,
                const Extents& free, std::string_view name, std::int64_t start_partition) const {
  require_partitions_within("psum", start_partition, partitions, num_partitions_);
  require_within("psum", tile_called(name), "its buffer", partitions, free, address, elements);
  const std::int64_t start = address * target::itemsize(dtype);
  View view{.data = bytes_.at(offset * num_partitions_) + start,
            .memory = Memory::psum,
            .dtype = dtype,
            .partitions = partitions,
            .partition_bytes = pitch(elements * target::itemsize(dtype)),
            .free = free,
            .bank_offset_bytes = start % bank_bytes_,
            .start_partition = start_partition,
            .written_offset = bytes_.written_offset(),
            .raises_unwritten = bytes_.raises_unwritten()};
  view.data += start_partition * view.partition_bytes;
  return view;
}

}  // namespace trn::emu
