#include "aten/allocator.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cstring>

#include "aten/memory_history.h"
#include "aten/site.h"
#include "aten/system.h"
#include "aten/values.h"

namespace trn::aten {

namespace {

using runtime::Block;
using runtime::kNumPools;
using runtime::MemoryCategory;
using runtime::MemoryStats;

std::mutex twin_mutex;
std::atomic<OwnerTagger> owner_tagger{nullptr};

// Threads that first meet a tensor make its twin; they look without the lock.
std::atomic_ref<void*> attachment(Block* block) {
  return std::atomic_ref<void*>(block->attachment);
}

c10::StorageImpl* twin_of(Block* block) {
  return static_cast<c10::StorageImpl*>(attachment(block).load(std::memory_order_acquire));
}

void report(const void* ptr, std::int64_t size, runtime::Device& device) {
  if (C10_UNLIKELY(c10::memoryProfilingEnabled())) {
    const auto stats = device.memory->stats();
    c10::reportMemoryUsageToProfiler(
        const_cast<void*>(ptr), size, static_cast<std::size_t>(stats.allocated_bytes[kNumPools].current),
        static_cast<std::size_t>(stats.reserved_bytes[kNumPools].current), aten::device(device.index));
  }
}

// A tensor has this memory from here on.
void begin(const Block& block, runtime::Device& device) {
  const auto size = static_cast<std::int64_t>(block.size);
  if (C10_UNLIKELY(records_memory())) {
    remember_alloc(device.index, block.ptr, size);
  }
  report(block.ptr, size, device);
}

// Deleter of a device storage's memory: its context is the block, so that no address is looked up.
void release_block(void* context) {
  auto* block = static_cast<Block*>(context);
  runtime::System* machine = running_system();
  if (C10_UNLIKELY(!machine)) {
    return;  // a forked process has a copy of the tensor, and not the device
  }
  if (c10::StorageImpl* twin = twin_of(block)) {
    if (c10::raw::intrusive_ptr::use_count(twin) > 1) {
      // A kernel kept a CPU alias: the memory lives as long as that alias does.
      std::lock_guard lock(twin_mutex);
      attachment(block).store(nullptr, std::memory_order_release);
      twin->set_data_ptr_noswap({block->ptr, block, &release_block, c10::Device(c10::kCPU)});
      c10::raw::intrusive_ptr::decref(twin);
      return;
    }
  }
  if (machine->recorder().active()) {
    machine->recorder().freed(block);
  }
  const auto size = static_cast<std::int64_t>(block->size);
  const bool is_tensor = block->is_tensor;
  runtime::Device& device = machine->device(block->device);
  if (C10_UNLIKELY(is_tensor && records_memory())) {
    remember_free(device.index, block->ptr, size);  // before the address has a new owner
  }
  void* ptr = block->ptr;
  device.memory->free(block);
  if (is_tensor) {
    report(ptr, -size, device);
  }
}

// Deleter of what a CPU kernel allocated: its context is the address, as raw allocation asks of CPU allocators.
void release_address(void* ptr) {
  if (runtime::System* machine = running_system()) {
    release_block(machine->device_of(ptr)->memory->find(ptr));
  }
}

Block* allocate_block(int device, std::size_t bytes, bool is_tensor, MemoryCategory category) {
  auto& dev = system().device(device);
  Block* block = dev.memory->allocate(bytes, category, is_tensor);
  if (C10_UNLIKELY(!block) && is_tensor) {
    throw_out_of_memory(device, bytes);
  }
  if (block && C10_UNLIKELY(dry_run()) && bytes > most_held_bytes()) {
    block->holds_values = false;
  }
  if (block && is_tensor) {
    begin(*block, dev);
  }
  return block;
}

// Bytes of a block that holds values move; of one that does not, that it does not.
void copy_bytes(Block* to, const Block* from, void* dest, const void* src, std::size_t count) {
  if (C10_UNLIKELY((from && !from->holds_values) || (to && !to->holds_values))) {
    if (to) {
      to->holds_values = false;
    }
    return;
  }
  std::memcpy(dest, src, count);
}

Block* block_at(const void* ptr) {
  runtime::System* machine = running_system();
  runtime::Device* device = ptr && machine ? machine->device_of(ptr) : nullptr;
  return device ? device->memory->find(ptr) : nullptr;
}

c10::CachingAllocator::StatArray to_stat_array(const std::array<runtime::Stat, kNumPools + 1>& stats) {
  using c10::CachingAllocator::StatType;
  c10::CachingAllocator::StatArray out;
  auto put = [&](StatType type, const runtime::Stat& stat) {
    auto& to = out[static_cast<std::size_t>(type)];
    to.current = stat.current;
    to.peak = stat.peak;
    to.allocated = stat.allocated;
    to.freed = stat.freed;
  };
  put(StatType::AGGREGATE, stats[kNumPools]);
  put(StatType::SMALL_POOL, stats[runtime::kSmallPool]);
  put(StatType::LARGE_POOL, stats[runtime::kLargePool]);
  return out;
}

class DeviceAllocator final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    const int index = current_device();
    if (bytes == 0) {
      system();
      return {nullptr, nullptr, &c10::detail::deleteNothing, device(index)};
    }
    Block* block = allocate_block(index, bytes, true, current_category());
    return {block->ptr, block, &release_block, device(index)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* dest, const void* src, std::size_t count) const override {
    copy_bytes(block_at(dest), block_at(src), dest, src, count);
  }

  bool initialized() override { return is_started(); }
  void emptyCache(c10::MempoolId_t) override {
    if (is_started()) {
      for (int i = 0; i < device_count(); ++i) {
        system().device(i).memory->empty_cache();
      }
    }
  }
  void recordStream(const c10::DataPtr& ptr, c10::Stream stream) override {
    if (runtime::Device* owner = ptr.get() ? system().device_of(ptr.get()) : nullptr) {
      const int id = static_cast<int>(stream.id());
      owner->memory->record_stream(owner->memory->find(ptr.get()), id,
                                   system().device(resolve(stream.device())).clock.ready(id));
    }
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    c10::CachingDeviceAllocator::DeviceStats out;
    if (!is_started()) {
      return out;
    }
    const MemoryStats stats = system().device(index).memory->stats();
    out.allocation = to_stat_array(stats.allocation);
    out.segment = to_stat_array(stats.segment);
    out.active = to_stat_array(stats.active);
    out.allocated_bytes = to_stat_array(stats.allocated_bytes);
    out.reserved_bytes = to_stat_array(stats.reserved_bytes);
    out.active_bytes = to_stat_array(stats.active_bytes);
    out.requested_bytes = to_stat_array(stats.requested_bytes);
    out.num_alloc_retries = stats.num_alloc_retries;
    out.num_ooms = stats.num_ooms;
    out.num_device_alloc = stats.num_device_alloc;
    out.num_device_free = stats.num_device_free;
    return out;
  }
  void resetAccumulatedStats(c10::DeviceIndex index) override { system().device(index).memory->reset_accumulated(); }
  void resetPeakStats(c10::DeviceIndex index) override { system().device(index).memory->reset_peak(); }
  std::pair<std::size_t, std::size_t> getMemoryInfo(c10::DeviceIndex index) override {
    auto& memory = *system().device(index).memory;
    return {memory.free_bytes(), memory.limit()};
  }
};

// Scratch that does not fit into HBM still gets host memory: whether a *result* fits is decided when it is adopted.
class CpuAllocator final : public c10::Allocator {
 public:
  explicit CpuAllocator(c10::Allocator* base) : base_(base) {}
  c10::DataPtr allocate(std::size_t bytes) override {
    if (const int device = DeviceScope::current(); device >= 0 && bytes != 0) {
      if (Block* block = allocate_block(device, bytes, false, DeviceScope::category())) {
        return {block->ptr, block->ptr, &release_address, c10::Device(c10::kCPU)};
      }
    }
    return base_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release_any; }
  void copy_data(void* dest, const void* src, std::size_t count) const override { base_->copy_data(dest, src, count); }

 private:
  static void release_any(void* ptr) {
    if (runtime::System* machine = running_system(); machine && machine->device_of(ptr)) {
      release_address(ptr);
    } else {
      c10::GetDefaultCPUAllocator()->raw_deallocate(ptr);
    }
  }
  c10::Allocator* base_;
};

c10::Allocator* cpu_allocator() {
  static auto* allocator = new CpuAllocator(c10::GetDefaultCPUAllocator());
  return allocator;
}

}  // namespace

c10::Allocator* device_allocator() {
  static auto* allocator = new DeviceAllocator();
  return allocator;
}

void install_cpu_allocator() {
  c10::SetCPUAllocator(cpu_allocator(), 1);
}

thread_local constinit DeviceScope::Place DeviceScope::of_this_thread;

MemoryCategory DeviceScope::category() noexcept {
  Place& place = of_this_thread;
  if (!place.category) {
    place.category = current_category();
  }
  return *place.category;
}

Block* block_of(const c10::StorageImpl& storage) {
  const c10::DataPtr& data = storage.data_ptr();
  void* ptr = data.get();
  if (C10_LIKELY(data.get_deleter() == &release_block)) {
    auto* block = static_cast<Block*>(data.get_context());
    return block->ptr == ptr ? block : nullptr;
  }
  if (!ptr) {
    return nullptr;
  }
  runtime::Device* device = system().device_of(ptr);
  if (!device) {
    return nullptr;
  }
  Block* block = device->memory->find(ptr);
  return block && block->ptr == ptr && block->in_use ? block : nullptr;
}

c10::Storage cpu_twin(const c10::Storage& storage) {
  c10::StorageImpl* impl = storage.unsafeGetStorageImpl();
  Block* block = block_of(*impl);
  TORCH_CHECK(!block || block->holds_values,
              "[dry_run] a CPU kernel reads and writes values; got memory that a dry run left without. Copy values "
              "over the whole tensor first; sparse, quantized and nested tensors have none in a dry run.");
  if (!block) {  // empty, or memory that some other owner lends
    return c10::Storage(c10::make_intrusive<c10::StorageImpl>(
        c10::StorageImpl::use_byte_size_t(), impl->sym_nbytes(),
        c10::DataPtr(impl->data_ptr().get(), c10::Device(c10::kCPU)), cpu_allocator(), true));
  }
  auto* twin = twin_of(block);
  if (C10_UNLIKELY(!twin)) {
    std::lock_guard lock(twin_mutex);
    twin = twin_of(block);
    if (!twin) {
      auto fresh = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), impl->sym_nbytes(),
                                                         c10::DataPtr(block->ptr, c10::Device(c10::kCPU)),
                                                         cpu_allocator(), true);
      twin = fresh.release();
      attachment(block).store(twin, std::memory_order_release);
    }
  }
  if (twin->nbytes() != impl->nbytes()) {
    twin->set_nbytes(impl->nbytes());
  }
  return c10::Storage(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(twin));
}

bool is_fresh(const c10::StorageImpl& storage) {
  return storage.data_ptr().get_deleter() == &release_address;
}

bool is_twin(const c10::StorageImpl& storage) {
  if (is_fresh(storage)) {
    return false;
  }
  Block* block = block_of(storage);
  return block && twin_of(block) == &storage;
}

c10::Storage device_copy(const c10::StorageImpl& storage, int index) {
  Block* block = allocate_block(index, storage.nbytes(), true, current_category());
  std::memcpy(block->ptr, storage.data(), storage.nbytes());
  return c10::Storage(c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), storage.sym_nbytes(),
      c10::DataPtr(block->ptr, block, &release_block, device(index)), device_allocator(), true));
}

void adopt(c10::StorageImpl& storage, int index) {
  c10::DataPtr& data = storage._mutable_data_ptr_no_checks();
  if (data.device().is_privateuseone()) {
    return;
  }
  Block* block = block_of(storage);
  if (block && block->device == index) {
    auto& dev = system().device(index);
    dev.memory->adopt(block, storage.nbytes());
    begin(*block, dev);
    data.release_context();
    data = {block->ptr, block, &release_block, device(index)};
  } else if (storage.nbytes() == 0) {
    data = {nullptr, nullptr, &c10::detail::deleteNothing, device(index)};
  } else {
    // Made outside the device's memory (a worker thread, or HBM was full).
    Block* fresh = allocate_block(index, storage.nbytes(), true, current_category());
    std::memcpy(fresh->ptr, data.get(), storage.nbytes());
    data = {fresh->ptr, fresh, &release_block, device(index)};
  }
  storage.set_allocator(device_allocator());
}

void follow_resize(const c10::Storage& storage, const c10::Storage& twin) {
  c10::StorageImpl* impl = storage.unsafeGetStorageImpl();
  c10::StorageImpl* grown = twin.unsafeGetStorageImpl();
  Block* old_block = block_of(*impl);
  const int index = resolve(impl->device());
  c10::DataPtr data = std::move(grown->_mutable_data_ptr_no_checks());
  const std::size_t bytes = grown->nbytes();
  if (old_block && twin_of(old_block) == grown) {
    std::lock_guard lock(twin_mutex);
    attachment(old_block).store(nullptr, std::memory_order_release);
    c10::raw::intrusive_ptr::decref(grown);
  }
  impl->set_data_ptr_noswap(std::move(data));
  impl->set_nbytes(bytes);
  adopt(*impl, index);
}

void resize_storage(c10::StorageImpl& storage, std::size_t bytes) {
  TORCH_CHECK(storage.resizable(), "Trying to resize storage that is not resizable");
  const c10::DeviceGuard guard(device(resolve(storage.device())));
  c10::DataPtr data = device_allocator()->allocate(bytes);
  if (storage.data() && bytes) {
    copy_bytes(block_at(data.get()), block_of(storage), data.get(), storage.data(), std::min(bytes, storage.nbytes()));
  }
  storage.set_data_ptr_noswap(std::move(data));
  storage.set_nbytes(bytes);
}

void delete_attachment(void* attachment) {
  c10::raw::intrusive_ptr::decref(static_cast<c10::StorageImpl*>(attachment));
}

void set_owner_tagger(OwnerTagger tagger) {
  owner_tagger = tagger;
}

void throw_out_of_memory(int index, std::size_t bytes) {
  if (const OwnerTagger tag_owners = owner_tagger) {
    tag_owners();
  }
  auto& memory = *system().device(index).memory;
  if (records_memory()) {
    remember_out_of_memory(index, static_cast<std::int64_t>(bytes), static_cast<std::int64_t>(memory.free_bytes()));
  }
  const auto stats = memory.stats();
  const double gib = 1 << 30;
  C10_THROW_ERROR(
      OutOfMemoryError,
      c10::str("[", device(index), " HBM] out of memory. An allocation must fit; got ",
               static_cast<double>(bytes) / gib, " GiB, limit ", static_cast<double>(memory.free_bytes()) / gib,
               " GiB free of ", static_cast<double>(memory.limit()) / gib, " GiB (",
               static_cast<double>(stats.allocated_bytes[kNumPools].current) / gib, " GiB in tensors, ",
               static_cast<double>(stats.reserved_bytes[kNumPools].current) / gib,
               " GiB reserved). Use a smaller batch, activation checkpointing or sharding.\n", memory.holders_table()));
}

}  // namespace trn::aten
