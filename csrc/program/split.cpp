// Splits of parallel loops.
#include "program/split.h"

#include <algorithm>

#include "target/integers.h"

namespace trn::program {

std::vector<const Loop*> perfectly_nested(const Loop& outer) {
  std::vector<const Loop*> loops = {&outer};
  while (loops.back()->body.size() == 1) {
    const auto* inner = std::get_if<std::unique_ptr<Loop>>(&loops.back()->body.front());
    if (inner == nullptr || !(*inner)->parallel) {
      break;
    }
    loops.push_back(inner->get());
  }
  return loops;
}

Split split(const std::vector<const Loop*>& loops, const target::Device& device) {
  Split result;
  for (const Loop* loop : loops) {
    result.trips *= loop->trips;
  }
  const std::int64_t cores = std::max<std::int64_t>(device.num_cores, 1);
  result.rounds = std::max<std::int64_t>(target::ceil_div(result.trips, cores), 1);
  return result;
}

double most_cores(const std::vector<Item>& items, const target::Device& device) {
  double most = 1;
  for (const Item& item : items) {
    if (const auto* found = std::get_if<std::unique_ptr<Loop>>(&item)) {
      const Loop& loop = **found;
      most = std::max(
          most, is_split_here(loop) ? split(perfectly_nested(loop), device).speed_up() : most_cores(loop.body, device));
    }
  }
  return most;
}

bool copies_fit(const Program& program, const target::Core& core) {
  const std::int64_t bank_bytes = core.psum_bytes_per_partition / std::max<std::int64_t>(core.psum_num_banks, 1);
  std::int64_t sbuf_bytes = 0, psum_banks = 0;
  for (const Buffer& buffer : program.buffers) {
    const std::int64_t bytes = buffer.elements_per_partition * target::itemsize(buffer.dtype);
    if (buffer.memory == Memory::sbuf) {
      sbuf_bytes += buffer.copies * bytes;
    } else if (buffer.memory == Memory::psum) {
      psum_banks += buffer.copies * target::ceil_div(bytes, bank_bytes);
    }
  }
  return sbuf_bytes <= core.sbuf_bytes_per_partition && psum_banks <= core.psum_num_banks;
}

}  // namespace trn::program
