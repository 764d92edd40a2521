#include "runtime/system.h"

#include <sys/mman.h>

#include <string>

#include "target/error.h"

namespace trn::runtime {

namespace {
constexpr std::size_t kRangeBytes = std::size_t{256} << 30;  // address space per device, more than any chip's HBM
}

System::System(std::shared_ptr<const target::Target> target, int num_devices, Memory::AttachmentDeleter deleter)
    : num_devices_(num_devices), launches_(target) {
  if (num_devices < 1 || num_devices > kMaxDevices) {
    throw Error(Category::invalid_argument, "[devices] the number of devices must be positive; got " +
                                                std::to_string(num_devices) + ", limit " + std::to_string(kMaxDevices) +
                                                ".");
  }
  const auto hbm_bytes = static_cast<std::size_t>(target->device.hbm_bytes);
  if (hbm_bytes > kRangeBytes) {
    throw Error(Category::unsupported, "[target] device.hbm_bytes exceeds the address range of a device; got " +
                                           std::to_string(hbm_bytes) + ", limit " + std::to_string(kRangeBytes) + ".");
  }
  void* range = mmap(nullptr, kRangeBytes * static_cast<std::size_t>(num_devices), PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) {
    throw Error(Category::out_of_memory, "[devices] cannot reserve the address range of " +
                                             std::to_string(num_devices) +
                                             " devices. Set TORCH_TRN_NUM_DEVICES to fewer.");
  }
  base_ = static_cast<char*>(range);
  for (int i = 0; i < num_devices; ++i) {
    auto device = std::make_unique<Device>();
    device->index = i;
    device->memory =
        std::make_unique<Memory>(i, base_ + kRangeBytes * static_cast<std::size_t>(i), kRangeBytes, deleter);
    device->memory->set_limit(hbm_bytes);
    devices_.push_back(std::move(device));
  }
}

Device& System::device(int index) {
  if (index < 0 || index >= num_devices_) {
    throw Error(Category::invalid_argument, "[device] no such device; got index " + std::to_string(index) + ", limit " +
                                                std::to_string(num_devices_ - 1) +
                                                ". TORCH_TRN_NUM_DEVICES sets how many there are.");
  }
  return *devices_[static_cast<std::size_t>(index)];
}

Device* System::device_of(const void* ptr) {
  const auto* address = static_cast<const char*>(ptr);
  if (address < base_ || address >= base_ + kRangeBytes * static_cast<std::size_t>(num_devices_)) {
    return nullptr;
  }
  return devices_[static_cast<std::size_t>(address - base_) / kRangeBytes].get();
}

void System::set_target(std::shared_ptr<const target::Target> target) {
  const auto hbm_bytes = static_cast<std::size_t>(target->device.hbm_bytes);
  if (hbm_bytes > kRangeBytes) {
    throw Error(Category::unsupported, "[target] device.hbm_bytes exceeds the address range of a device; got " +
                                           std::to_string(hbm_bytes) + ", limit " + std::to_string(kRangeBytes) + ".");
  }
  for (auto& device : devices_) {
    device->memory->set_limit(hbm_bytes);
  }
  launches_.set_target(std::move(target));
}

Interval System::launch(const LaunchVariant& variant, const Site& site, int device, int stream,
                        std::span<const BlockUse> reads, std::span<const BlockUse> writes) {
  Device& dev = *devices_[static_cast<std::size_t>(device)];
  const Interval interval =
      dev.clock.launch(stream, launches_.dispatch(), variant.duration.load(std::memory_order_relaxed));
  if (recorder_.active()) {
    recorder_.launch(variant, site, device, stream, interval, reads, writes, *dev.memory);
  }
  return interval;
}

void System::host_copy(const HostSync& sync, int device, int stream, std::int64_t bytes) {
  Device& dev = *devices_[static_cast<std::size_t>(device)];
  if (sync.blocking) {
    dev.clock.host_wait(dev.clock.ready(stream));
  }
  if (recorder_.active()) {
    recorder_.host_sync(sync, bytes);
  }
}

}  // namespace trn::runtime
