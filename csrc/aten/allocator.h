// Storage memory: the device allocator, and the CPU allocator that serves kernels running on the device's behalf.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Storage.h>
#include <c10/core/StorageImpl.h>

#include <optional>
#include <utility>

#include "runtime/memory.h"

namespace trn::aten {

c10::Allocator* device_allocator();
// Goes before the default CPU allocator; passes through outside a DeviceScope.
void install_cpu_allocator();

// While alive, CPU allocations of this thread come from the device's HBM: a kernel's results are born in place.
class DeviceScope {
 public:
  explicit DeviceScope(int device) : place_(of_this_thread), previous_(std::exchange(place_, Place{device, {}})) {}
  ~DeviceScope() { place_ = previous_; }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  static int current() noexcept { return of_this_thread.device; }  // or -1
  // What this scope's memory is for. Asked once: an operator does not change it on its way.
  static runtime::MemoryCategory category() noexcept;

 private:
  struct Place {
    int device = -1;
    std::optional<runtime::MemoryCategory> category;
  };
  static thread_local constinit Place of_this_thread;
  Place& place_;
  Place previous_;
};

// The block that begins at the storage's data pointer, or nullptr for memory that is not the device's.
runtime::Block* block_of(const c10::StorageImpl& storage);
// A CPU storage over the memory of a device storage; cached on the block, so that it costs nothing the second time.
c10::Storage cpu_twin(const c10::Storage& storage);
// A storage that a CPU kernel made inside a DeviceScope becomes a device storage, in place.
void adopt(c10::StorageImpl& storage, int device);
// Made by a CPU kernel inside a DeviceScope, and not adopted yet.
bool is_fresh(const c10::StorageImpl& storage);
// A twin serves its block's later calls too, and is never adopted: a result that an operator kept from another call (a
// nested tensor's sizes) gets memory of its own.
bool is_twin(const c10::StorageImpl& storage);
c10::Storage device_copy(const c10::StorageImpl& storage, int device);
// The twin was given other memory by a resizing kernel: hand it to the device storage.
void follow_resize(const c10::Storage& storage, const c10::Storage& twin);

// Other memory for a device storage, as CPU's resize: the old bytes stay, on the storage's own device.
void resize_storage(c10::StorageImpl& storage, std::size_t bytes);

void delete_attachment(void* attachment);
using OwnerTagger = void (*)();
// Asked before an out-of-memory error is worded: whose memory is whose.
void set_owner_tagger(OwnerTagger tagger);
[[noreturn]] void throw_out_of_memory(int device, std::size_t bytes);

}  // namespace trn::aten
