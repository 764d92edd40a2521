#include "runtime/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "target/error.h"

namespace trn::runtime {

namespace {

constexpr std::size_t kMinBlock = 256;
constexpr std::size_t kSmallLimit = std::size_t{1} << 20;
constexpr std::size_t kClassLimit = std::size_t{16} << 20;
constexpr std::size_t kUncommitBytes = std::size_t{32} << 20;

// Four classes to the octave: 256, 320, 384, 448, 512, 640, ...
std::size_t class_index(std::size_t bytes) {
  if (bytes <= kMinBlock) {
    return 0;
  }
  const int octave = std::bit_width(bytes - 1) - 1;  // 2^octave < bytes <= 2^(octave+1)
  const int quarter = octave - 2;
  const std::size_t step = ((bytes - 1 - (std::size_t{1} << octave)) >> quarter) + 1;  // 1..4
  return static_cast<std::size_t>(octave - 8) * 4 + step;
}

std::size_t class_size(std::size_t index) {
  const std::size_t octave = index / 4 + 8;
  return (std::size_t{1} << octave) + (index % 4) * (std::size_t{1} << (octave - 2));
}

std::size_t round_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

std::string mib(std::size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

}  // namespace

const char* name(MemoryCategory category) {
  static constexpr const char* kNames[] = {"parameters", "gradients", "optimizer_state", "activations", "temporaries"};
  return kNames[static_cast<int>(category)];
}

Memory::Memory(int device, char* base, std::size_t capacity, AttachmentDeleter deleter)
    : device_(device),
      base_(base),
      capacity_(capacity / kGranule * kGranule),
      limit_(capacity_),
      delete_attachment_(deleter) {
  for (auto& lists : free_by_class_) {
    lists.resize(class_index(kClassLimit) + 1);
  }
  free_ranges_[0] = capacity_;
  granules_.resize(capacity_ / kGranule);
}

Memory::~Memory() {
  for (auto& [key, segment] : segments_) {
    for (auto& block : segment->blocks) {
      if (block.attachment) {
        delete_attachment_(block.attachment);
      }
    }
  }
}

Segment* Memory::new_segment(std::size_t block_size, std::size_t segment_size, Pool pool) {
  if (static_cast<std::size_t>(stats_.reserved_bytes[kNumPools].current) + segment_size > limit_) {
    return nullptr;
  }
  auto range =
      std::find_if(free_ranges_.begin(), free_ranges_.end(), [&](auto& r) { return r.second >= segment_size; });
  if (range == free_ranges_.end()) {
    return nullptr;
  }
  const std::size_t offset = range->first;
  const std::size_t rest = range->second - segment_size;
  free_ranges_.erase(range);
  if (rest) {
    free_ranges_[offset + segment_size] = rest;
  }
  auto segment = std::make_unique<Segment>();
  segment->base = base_ + offset;
  if (mprotect(segment->base, segment_size, PROT_READ | PROT_WRITE) != 0) {
    free_ranges_[offset] = segment_size;
    return nullptr;
  }
  segment->size = segment_size;
  segment->block_size = block_size;
  segment->pool = pool;
  segment->blocks.resize(segment_size / block_size);
  char* ptr = segment->base;
  for (auto& block : segment->blocks) {
    block.ptr = ptr;
    block.size = block_size;
    block.segment = segment.get();
    block.device = static_cast<std::uint8_t>(device_);
    ptr += block_size;
  }
  for (std::size_t g = offset / kGranule; g < (offset + segment_size) / kGranule; ++g) {
    granules_[g] = segment.get();
  }
  for (int p : {static_cast<int>(pool), static_cast<int>(kNumPools)}) {
    stats_.segment[p].increase(1);
    stats_.reserved_bytes[p].increase(static_cast<std::int64_t>(segment_size));
  }
  ++stats_.num_device_alloc;
  Segment* raw = segment.get();
  segments_[raw] = std::move(segment);
  return raw;
}

void Memory::push_free(Block* block) {
  if (block->size > kClassLimit) {
    free_large_[block->size].push_back(block);
  } else {
    free_by_class_[block->segment->pool][class_index(block->size)].push_back(block);
  }
}

Block* Memory::take(std::size_t bytes, Pool pool) {
  if (bytes > kClassLimit) {
    // A cached block up to a quarter too large is reused; beyond that the memory would be wasted.
    auto it = free_large_.lower_bound(bytes);
    if (it != free_large_.end() && it->first <= bytes + bytes / 4) {
      Block* block = it->second.back();
      it->second.pop_back();
      if (it->second.empty()) {
        free_large_.erase(it);
      }
      return block;
    }
    Segment* segment = new_segment(bytes, bytes, pool);
    return segment ? &segment->blocks.front() : nullptr;
  }
  const std::size_t index = class_index(bytes);
  auto& list = free_by_class_[pool][index];
  if (list.empty()) {
    const std::size_t block_size = class_size(index);
    const std::size_t num_blocks = block_size < 2 * kGranule ? 4 : 1;
    const std::size_t segment_size = pool == kSmallPool ? kGranule : round_up(num_blocks * block_size, kGranule);
    Segment* segment = new_segment(block_size, segment_size, pool);
    if (!segment) {
      return nullptr;
    }
    for (auto it = segment->blocks.rbegin(); it != segment->blocks.rend(); ++it) {
      list.push_back(&*it);
    }
  }
  Block* block = list.back();
  list.pop_back();
  return block;
}

Block* Memory::allocate(std::size_t bytes, MemoryCategory category, bool is_tensor) {
  std::lock_guard lock(mutex_);
  const Pool pool = bytes < kSmallLimit ? kSmallPool : kLargePool;
  const std::size_t size = bytes > kClassLimit ? round_up(bytes, kGranule) : bytes;
  Block* block = size <= capacity_ ? take(size, pool) : nullptr;
  if (!block) {
    ++stats_.num_alloc_retries;
    if (release_cached() && size <= capacity_) {
      block = take(size, pool);
    }
    if (!block) {
      ++stats_.num_ooms;
      return nullptr;
    }
  }
  block->in_use = true;
  block->requested = bytes;
  block->category = category;
  block->sequence = ++next_sequence_;
  block->fusion_group = 0;
  block->producer_ledger = 0;
  block->read_outside_group = false;
  block->holds_values = true;
  ++block->segment->num_used;
  block->is_tensor = is_tensor;
  if (is_tensor) {
    count_tensor(block);
  }
  if (poison_) {
    std::memset(block->ptr, 0xFF, bytes);
  }
  return block;
}

void Memory::count_tensor(Block* block) {
  const auto size = static_cast<std::int64_t>(block->size);
  const std::int64_t peak = stats_.allocated_bytes[kNumPools].peak;
  stats_.bytes_by_category[static_cast<int>(block->category)] += size;
  for (const int p : {static_cast<int>(block->segment->pool), static_cast<int>(kNumPools)}) {
    stats_.allocation[p].increase(1);
    stats_.allocated_bytes[p].increase(size);
    stats_.requested_bytes[p].increase(static_cast<std::int64_t>(block->requested));
  }
  if (stats_.allocated_bytes[kNumPools].peak > peak) {
    stats_.peak_bytes_by_category = stats_.bytes_by_category;
    peak_sequence_ = next_sequence_;
  }
}

void Memory::uncount_tensor(Block* block) {
  const auto size = static_cast<std::int64_t>(block->size);
  stats_.bytes_by_category[static_cast<int>(block->category)] -= size;
  for (const int p : {static_cast<int>(block->segment->pool), static_cast<int>(kNumPools)}) {
    stats_.allocation[p].decrease(1);
    stats_.allocated_bytes[p].decrease(size);
    stats_.requested_bytes[p].decrease(static_cast<std::int64_t>(block->requested));
  }
}

void Memory::adopt(Block* block, std::size_t requested) {
  std::lock_guard lock(mutex_);
  if (!block->is_tensor) {
    block->is_tensor = true;
    block->requested = requested;
    count_tensor(block);
  }
}

void Memory::tag(Block* block, MemoryCategory category) {
  std::lock_guard lock(mutex_);
  if (!block->in_use || !block->is_tensor || block->category == category) {
    return;
  }
  const auto size = static_cast<std::int64_t>(block->size);
  stats_.bytes_by_category[static_cast<int>(block->category)] -= size;
  stats_.bytes_by_category[static_cast<int>(category)] += size;
  if (block->sequence <= peak_sequence_) {  // it was alive at the peak
    stats_.peak_bytes_by_category[static_cast<int>(block->category)] -= size;
    stats_.peak_bytes_by_category[static_cast<int>(category)] += size;
  }
  block->category = category;
}

void Memory::free(Block* block) {
  std::lock_guard lock(mutex_);
  block->in_use = false;
  --block->segment->num_used;
  if (block->is_tensor) {
    uncount_tensor(block);
    block->is_tensor = false;
  }
  block->requested = 0;
  if (block->size >= kUncommitBytes) {
    // The address stays cached, the host's pages do not: a freed large tensor costs the host nothing, as on the CPU.
    madvise(block->ptr, block->size, MADV_DONTNEED);
  }
  if (block->stream_uses.empty()) {
    push_free(block);
  } else {
    waiting_.push_back(block);
  }
}

Block* Memory::find(const void* ptr) {
  if (!contains(ptr)) {
    return nullptr;
  }
  const auto offset = static_cast<std::size_t>(static_cast<const char*>(ptr) - base_);
  Segment* segment = granules_[offset / kGranule];
  if (!segment) {
    return nullptr;
  }
  if (segment->blocks.size() == 1) {
    return segment->blocks.data();
  }
  // Segments of several blocks are small: 32 bits divide faster.
  const auto within = static_cast<std::uint32_t>(static_cast<const char*>(ptr) - segment->base);
  const auto index = within / static_cast<std::uint32_t>(segment->block_size);
  return index < segment->blocks.size() ? &segment->blocks[index] : nullptr;
}

void Memory::record_stream(Block* block, int stream, std::int64_t ready_picoseconds) {
  std::lock_guard lock(mutex_);
  block->stream_uses.emplace_back(stream, ready_picoseconds);
}

void Memory::reclaim(std::int64_t host_picoseconds) {
  std::lock_guard lock(mutex_);
  std::erase_if(waiting_, [&](Block* block) {
    for (const auto& [stream, ready] : block->stream_uses) {
      if (ready > host_picoseconds) {
        return false;
      }
    }
    block->stream_uses.clear();
    push_free(block);
    return true;
  });
}

bool Memory::release_cached() {
  auto releasable = [](const Block* block) { return block->segment->num_used == 0 && block->stream_uses.empty(); };
  for (Block* block : waiting_) {
    ++block->segment->num_used;  // a waiting block keeps its segment
  }
  for (auto& lists : free_by_class_) {
    for (auto& list : lists) {
      std::erase_if(list, releasable);
    }
  }
  free_large_.clear();
  bool any = false;
  for (auto it = segments_.begin(); it != segments_.end();) {
    Segment* segment = it->first;
    if (segment->num_used) {
      ++it;
      continue;
    }
    for (auto& block : segment->blocks) {
      if (block.attachment) {
        delete_attachment_(block.attachment);
      }
    }
    madvise(segment->base, segment->size, MADV_DONTNEED);
    mprotect(segment->base, segment->size, PROT_NONE);
    std::size_t offset = static_cast<std::size_t>(segment->base - base_);
    std::size_t size = segment->size;
    for (std::size_t g = offset / kGranule; g < (offset + size) / kGranule; ++g) {
      granules_[g] = nullptr;
    }
    for (int p : {static_cast<int>(segment->pool), static_cast<int>(kNumPools)}) {
      stats_.segment[p].decrease(1);
      stats_.reserved_bytes[p].decrease(static_cast<std::int64_t>(size));
    }
    ++stats_.num_device_free;
    auto next = free_ranges_.lower_bound(offset);
    if (next != free_ranges_.end() && next->first == offset + size) {
      size += next->second;
      next = free_ranges_.erase(next);
    }
    if (next != free_ranges_.begin()) {
      auto previous = std::prev(next);
      if (previous->first + previous->second == offset) {
        offset = previous->first;
        size += previous->second;
        free_ranges_.erase(previous);
      }
    }
    free_ranges_[offset] = size;
    it = segments_.erase(it);
    any = true;
  }
  for (Block* block : waiting_) {
    --block->segment->num_used;
  }
  return any;
}

void Memory::empty_cache() {
  std::lock_guard lock(mutex_);
  release_cached();
}

MemoryStats Memory::stats() const {
  std::lock_guard lock(mutex_);
  // A freed block is inactive at once: nothing waits for an event of the host's.
  MemoryStats stats = stats_;
  stats.active = stats.allocation;
  stats.active_bytes = stats.allocated_bytes;
  return stats;
}

void Memory::categories(std::array<std::int64_t, kNumMemoryCategories>& bytes, std::uint64_t& sequence) const {
  std::lock_guard lock(mutex_);
  bytes = stats_.bytes_by_category;
  sequence = next_sequence_;
}

void Memory::reset_peak() {
  std::lock_guard lock(mutex_);
  for (auto* group : {&stats_.allocation, &stats_.segment, &stats_.allocated_bytes, &stats_.reserved_bytes,
                      &stats_.requested_bytes}) {
    for (auto& stat : *group) {
      stat.reset_peak();
    }
  }
  stats_.peak_bytes_by_category = stats_.bytes_by_category;
  peak_sequence_ = next_sequence_;
}

void Memory::reset_accumulated() {
  std::lock_guard lock(mutex_);
  for (auto* group : {&stats_.allocation, &stats_.segment, &stats_.allocated_bytes, &stats_.reserved_bytes,
                      &stats_.requested_bytes}) {
    for (auto& stat : *group) {
      stat.reset_accumulated();
    }
  }
  stats_.num_alloc_retries = stats_.num_ooms = 0;
  stats_.num_device_alloc = stats_.num_device_free = 0;
}

void Memory::set_limit(std::size_t bytes) {
  std::lock_guard lock(mutex_);
  limit_ = std::min(bytes, capacity_);
  if (static_cast<std::size_t>(stats_.reserved_bytes[kNumPools].current) > limit_) {
    release_cached();  // what is cached would be reused past the limit
  }
}

std::size_t Memory::limit() const {
  const std::lock_guard lock(mutex_);
  return limit_;
}

std::int64_t Memory::allocated_bytes() const {
  const std::lock_guard lock(mutex_);
  return stats_.allocated_bytes[kNumPools].current;
}

void Memory::set_poison(bool poison) {
  const std::lock_guard lock(mutex_);
  poison_ = poison;
}

std::size_t Memory::free_bytes() const {
  std::lock_guard lock(mutex_);
  const auto used = static_cast<std::size_t>(stats_.reserved_bytes[kNumPools].current);
  return limit_ > used ? limit_ - used : 0;
}

std::vector<Memory::SegmentView> Memory::snapshot() const {
  std::lock_guard lock(mutex_);
  std::vector<SegmentView> out;
  for (const auto& [key, segment] : segments_) {
    SegmentView view{reinterpret_cast<std::uintptr_t>(segment->base), segment->size, segment->pool, {}};
    for (const auto& block : segment->blocks) {
      view.blocks.push_back({reinterpret_cast<std::uintptr_t>(block.ptr), block.size, block.requested, block.in_use,
                             block.is_tensor, block.category});
    }
    out.push_back(std::move(view));
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.address < b.address; });
  return out;
}

std::string Memory::holders_table() const {
  std::lock_guard lock(mutex_);
  std::array<std::size_t, kNumMemoryCategories> bytes{}, tensors{}, largest{};
  std::size_t cached = 0;
  for (const auto& [key, segment] : segments_) {
    for (const auto& block : segment->blocks) {
      if (!block.is_tensor) {
        cached += block.size;
        continue;
      }
      const auto c = static_cast<std::size_t>(block.category);
      bytes[c] += block.size;
      ++tensors[c];
      largest[c] = std::max(largest[c], block.size);
    }
  }
  std::array<std::size_t, kNumMemoryCategories> order{0, 1, 2, 3, 4};
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return bytes[a] > bytes[b]; });
  std::string table = "  category            bytes          tensors   largest\n";
  for (auto c : order) {
    char line[160];
    std::snprintf(line, sizeof line, "  %-18s  %-13s  %-8zu  %s\n", name(static_cast<MemoryCategory>(c)),
                  mib(bytes[c]).c_str(), tensors[c], mib(largest[c]).c_str());
    table += line;
  }
  return table + "  cached, unused      " + mib(cached) + "\n";
}

}  // namespace trn::runtime
