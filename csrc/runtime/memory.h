// One device's HBM: an address range, committed segment by segment up to the target's HBM, under a caching allocator.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/spin_lock.h"

namespace trn::runtime {

enum class MemoryCategory : std::uint8_t { parameters, gradients, optimizer_state, activations, temporaries };
inline constexpr int kNumMemoryCategories = 5;
const char* name(MemoryCategory category);

// current / peak / allocated / freed, as torch.cuda and TorchNeuron report them.
struct Stat {
  std::int64_t current = 0, peak = 0, allocated = 0, freed = 0;
  void increase(std::int64_t amount) {
    current += amount;
    allocated += amount;
    if (current > peak) {
      peak = current;
    }
  }
  void decrease(std::int64_t amount) {
    current -= amount;
    freed += amount;
  }
  void reset_peak() { peak = current; }
  void reset_accumulated() { allocated = freed = 0; }
};

enum Pool : std::uint8_t { kSmallPool, kLargePool, kNumPools };

struct MemoryStats {
  // Index kNumPools is the sum of both pools.
  std::array<Stat, kNumPools + 1> allocation, segment, active;
  std::array<Stat, kNumPools + 1> allocated_bytes, reserved_bytes, active_bytes, requested_bytes;
  std::int64_t num_alloc_retries = 0, num_ooms = 0, num_device_alloc = 0, num_device_free = 0;
  std::array<std::int64_t, kNumMemoryCategories> bytes_by_category{};
  // At the moment of the allocated_bytes peak.
  std::array<std::int64_t, kNumMemoryCategories> peak_bytes_by_category{};
};

struct Segment;

// A piece of HBM handed to one storage. Lives as long as its segment, so a freed block keeps its attachment for reuse.
struct Block {
  void* ptr = nullptr;
  std::size_t size = 0;       // rounded
  std::size_t requested = 0;  // what the caller asked for; 0 when free
  Segment* segment = nullptr;
  // Owned by the layer above (the CPU twin of the storage); freed through Memory's attachment deleter.
  void* attachment = nullptr;
  std::uint64_t sequence = 0;  // order of allocation, to attribute a later tag to an earlier peak
  // Fusion: the launch that produced the contents (see ledger.h).
  std::uint64_t fusion_group = 0;
  std::uint32_t producer_entry = 0;
  std::int64_t producer_bytes = 0;
  std::uint64_t producer_ledger = 0;
  MemoryCategory category = MemoryCategory::temporaries;
  std::uint8_t device = 0;
  bool in_use = false;
  bool is_tensor = false;    // false: scratch of a running kernel, not yet any tensor's memory
  bool holds_values = true;  // false: only sizes are known of what was written here
  bool read_outside_group = false;
  std::vector<std::pair<int, std::int64_t>> stream_uses;  // (stream, ready picoseconds) from record_stream
};

struct Segment {
  char* base = nullptr;
  std::size_t size = 0;
  std::size_t block_size = 0;
  Pool pool = kSmallPool;
  std::int64_t num_used = 0;
  std::vector<Block> blocks;
};

// Thread-safe. Sizes below 16 MiB are rounded up to a class (four to the octave, 256 bytes at least), larger ones to
// the segment granule only; requests below 1 MiB share segments of 2 MiB (TorchNeuron's documented pools and rounding).
class Memory {
 public:
  using AttachmentDeleter = void (*)(void*);

  // `base` is the start of this device's address range of `capacity` bytes; all of it may be used until set_limit().
  Memory(int device, char* base, std::size_t capacity, AttachmentDeleter deleter);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // nullptr when the device is out of memory, after cached segments were released (the caller words the error).
  Block* allocate(std::size_t bytes, MemoryCategory category, bool is_tensor);
  void free(Block* block);
  // Scratch becomes a tensor's memory: from here on the statistics count it.
  void adopt(Block* block, std::size_t requested);
  void tag(Block* block, MemoryCategory category);
  // The block whose memory holds `ptr`, or nullptr.
  Block* find(const void* ptr);
  bool contains(const void* ptr) const { return ptr >= base_ && ptr < base_ + capacity_; }

  // A freed block that `stream` uses waits until the host's simulated clock has come to when that stream is ready.
  void record_stream(Block* block, int stream, std::int64_t ready_picoseconds);
  void reclaim(std::int64_t host_picoseconds);

  void empty_cache();
  MemoryStats stats() const;
  // Allocated bytes per category now, and the sequence number of the latest allocation.
  void categories(std::array<std::int64_t, kNumMemoryCategories>& bytes, std::uint64_t& sequence) const;
  void reset_peak();
  void reset_accumulated();
  void set_limit(std::size_t bytes);  // at most the capacity
  std::size_t capacity() const { return capacity_; }
  std::size_t limit() const;
  // The limit less what segments hold, cached blocks included.
  std::size_t free_bytes() const;
  std::int64_t allocated_bytes() const;
  void set_poison(bool poison);  // strict mode: fresh memory reads as NaN

  struct BlockView {
    std::uintptr_t address;
    std::size_t size, requested;
    bool in_use, is_tensor;
    MemoryCategory category;
  };
  struct SegmentView {
    std::uintptr_t address;
    std::size_t size;
    Pool pool;
    std::vector<BlockView> blocks;
  };
  std::vector<SegmentView> snapshot() const;
  // "category: bytes in n tensors" lines, largest first, for the out-of-memory error.
  std::string holders_table() const;

 private:
  Segment* new_segment(std::size_t block_size, std::size_t segment_size, Pool pool);
  Block* take(std::size_t block_size, Pool pool);
  bool release_cached();
  void count_tensor(Block* block);
  void uncount_tensor(Block* block);
  void push_free(Block* block);

  static constexpr std::size_t kGranule = std::size_t{2} << 20;

  int device_;
  char* base_;
  std::size_t capacity_;
  std::size_t limit_;
  AttachmentDeleter delete_attachment_;
  bool poison_ = false;
  mutable SpinLock mutex_;
  std::map<std::size_t, std::vector<Block*>> free_large_;  // by block size, above 16 MiB
  std::array<std::vector<std::vector<Block*>>, kNumPools> free_by_class_;
  std::map<std::size_t, std::size_t> free_ranges_;  // offset -> size, of the address range
  std::vector<Segment*> granules_;                  // address / 2 MiB -> segment
  std::map<Segment*, std::unique_ptr<Segment>> segments_;
  std::vector<Block*> waiting_;  // freed, but a recorded stream is behind
  MemoryStats stats_;
  std::uint64_t next_sequence_ = 0;
  std::uint64_t peak_sequence_ = 0;
};

}  // namespace trn::runtime
