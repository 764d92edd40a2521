// Footprints and their overlaps.
#include "program/footprint.h"

#include <algorithm>

namespace trn::program {
namespace {

constexpr std::int64_t kMostExactBytes = std::int64_t{1} << 26;

// visit(begin) for each run
template <class Visit>
void for_each_run(const Footprint& footprint, std::int64_t begin, std::size_t d, Visit visit) {
  if (d == footprint.dims.size()) {
    visit(begin);
    return;
  }
  for (std::int64_t i = 0; i < footprint.dims[d].size; ++i) {
    for_each_run(footprint, begin + i * footprint.dims[d].stride, d + 1, visit);
  }
}

bool share_a_byte(const Footprint& a, const Footprint& b) {
  const std::int64_t begin = std::max(a.begin, b.begin), end = std::min(a.end, b.end);
  if (end - begin > kMostExactBytes) {
    return true;
  }
  auto clipped = [&](const Footprint& footprint, auto visit) {
    for_each_run(footprint, footprint.begin, 0, [&](std::int64_t at) {
      const std::int64_t from = std::max(at, begin), to = std::min(at + footprint.run_bytes, end);
      if (from < to) {
        visit(from - begin, to - begin);
      }
    });
  };
  std::vector<bool> covered(static_cast<std::size_t>(end - begin));
  clipped(a,
          [&](std::int64_t from, std::int64_t to) { std::fill(covered.begin() + from, covered.begin() + to, true); });
  bool found = false;
  clipped(b, [&](std::int64_t from, std::int64_t to) {
    found = found || std::find(covered.begin() + from, covered.begin() + to, true) != covered.begin() + to;
  });
  return found;
}

}  // namespace

Footprint footprint(const Program& program, const Tile& tile, std::span<const std::int64_t> indices) {
  const Buffer& buffer = program.buffers[static_cast<std::size_t>(tile.buffer)];
  const std::int64_t itemsize = target::itemsize(buffer.dtype);
  const bool is_on_chip = buffer.memory == Memory::sbuf || buffer.memory == Memory::psum;
  Footprint result{.run_bytes = itemsize};
  result.begin = tile.offset;
  for (std::size_t d = 0; d < std::min(tile.loop_strides.size(), indices.size()); ++d) {
    result.begin += tile.loop_strides[d] * indices[d];
  }
  result.begin *= itemsize;
  std::vector<Dim> dims;
  if (is_on_chip) {
    result.first_partition = tile.start_partition;
    result.num_partitions = tile.partitions;
  } else {
    dims.push_back({tile.partitions, tile.partition_stride * itemsize});
  }
  for (const Dim& dim : tile.free) {
    dims.push_back({dim.size, dim.stride * itemsize});
  }
  std::int64_t before = 0, span = 0;  // of the first byte's place and behind it
  for (Dim& dim : dims) {
    if (dim.stride < 0) {
      before += (dim.size - 1) * dim.stride;
      dim.stride = -dim.stride;
    }
    span += (dim.size - 1) * dim.stride;
  }
  result.begin += before;
  result.end = result.begin + span + itemsize;
  std::erase_if(dims, [](const Dim& dim) { return dim.size == 1 || dim.stride == 0; });
  std::ranges::stable_sort(dims, std::ranges::greater{}, &Dim::stride);
  while (!dims.empty() && dims.back().stride <= result.run_bytes) {
    result.run_bytes += (dims.back().size - 1) * dims.back().stride;
    dims.pop_back();
  }
  result.dims = std::move(dims);
  return result;
}

bool overlaps(const Footprint& a, const Footprint& b) {
  const bool shares_partitions = a.first_partition < b.first_partition + b.num_partitions &&
                                 b.first_partition < a.first_partition + a.num_partitions;
  if (!shares_partitions || a.end <= b.begin || b.end <= a.begin) {
    return false;
  }
  return (a.dims.empty() && b.dims.empty()) || a == b || share_a_byte(a, b);
}

}  // namespace trn::program
