#include "aten/host_allocator.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

namespace trn::aten {

namespace {

// Pinned pages are expensive to make on a real host, so freed blocks are kept by size and used again.
class PinnedAllocator final : public at::HostAllocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &c10::detail::deleteNothing, c10::Device(c10::kCPU)};
    }
    const std::size_t size = (bytes + kPage - 1) / kPage * kPage;
    std::lock_guard lock(mutex_);
    void* ptr = nullptr;
    auto& cached = cached_[size];
    if (!cached.empty()) {
      ptr = cached.back();
      cached.pop_back();
    } else {
      ptr = std::aligned_alloc(kPage, size);
      TORCH_CHECK_WITH(OutOfMemoryError, ptr, "[pinned memory] the host has no memory left; got ", size, " bytes.");
      ++stats_.num_host_alloc;
      stats_.allocations.increase(1);
      stats_.allocated_bytes.increase(size);
    }
    blocks_[reinterpret_cast<std::uintptr_t>(ptr)] = size;
    stats_.active_requests.increase(1);
    stats_.active_bytes.increase(size);
    return {ptr, ptr, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* dest, const void* src, std::size_t count) const override { std::memcpy(dest, src, count); }

  // Transfers are done by the time that the call returns, so nothing has to wait for a stream.
  bool record_event(void* ptr, void*, c10::Stream) override { return owns(ptr); }
  void empty_cache() override {
    std::lock_guard lock(mutex_);
    for (auto& [size, list] : cached_) {
      for (void* ptr : list) {
        std::free(ptr);
        ++stats_.num_host_free;
        stats_.allocations.decrease(1);
        stats_.allocated_bytes.decrease(size);
      }
    }
    cached_.clear();
  }
  at::HostStats get_stats() override {
    std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_accumulated_stats() override {
    std::lock_guard lock(mutex_);
    for (auto* stat : {&stats_.active_requests, &stats_.active_bytes, &stats_.allocations, &stats_.allocated_bytes}) {
      stat->reset_accumulated();
    }
  }
  void reset_peak_stats() override {
    std::lock_guard lock(mutex_);
    for (auto* stat : {&stats_.active_requests, &stats_.active_bytes, &stats_.allocations, &stats_.allocated_bytes}) {
      stat->reset_peak();
    }
  }

  bool owns(const void* ptr) const {
    std::lock_guard lock(mutex_);
    const auto address = reinterpret_cast<std::uintptr_t>(ptr);
    auto it = blocks_.upper_bound(address);
    return it != blocks_.begin() && address < std::prev(it)->first + std::prev(it)->second;
  }

 private:
  static void release(void* ptr);
  void give_back(void* ptr) {
    std::lock_guard lock(mutex_);
    auto it = blocks_.find(reinterpret_cast<std::uintptr_t>(ptr));
    stats_.active_requests.decrease(1);
    stats_.active_bytes.decrease(it->second);
    cached_[it->second].push_back(ptr);
    blocks_.erase(it);
  }

  static constexpr std::size_t kPage = 4096;
  mutable std::mutex mutex_;
  std::map<std::uintptr_t, std::size_t> blocks_;  // in use, by address
  std::map<std::size_t, std::vector<void*>> cached_;
  at::HostStats stats_;
};

PinnedAllocator* instance() {
  static auto* allocator = new PinnedAllocator();
  return allocator;
}

void PinnedAllocator::release(void* ptr) {
  instance()->give_back(ptr);
}

}  // namespace

at::HostAllocator* host_allocator() {
  return instance();
}
bool is_pinned(const void* ptr) {
  return ptr && instance()->owns(ptr);
}

}  // namespace trn::aten
