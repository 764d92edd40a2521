#include "runtime/system.h"

#include <sys/mman.h>

#include <string>

#include "target/error.h"

namespace trn::runtime {

namespace {
constexpr std::size_t kRangeBytes = std::size_t{256} << 30;  // address space per device, more than any chip's HBM
}

System::System(std::shared_ptr<const target::Target> target, int num_devices, Memory::AttachmentDeleter deleter)
    : deleter_(deleter), launches_(target) {
  const auto hbm_bytes = static_cast<std::size_t>(target->device.hbm_bytes);
  if (hbm_bytes > kRangeBytes) {
    throw Error(Category::unsupported, "[target] device.hbm_bytes exceeds the address range of a device; got " +
                                           std::to_string(hbm_bytes) + ", limit " + std::to_string(kRangeBytes) + ".");
  }
  devices_.reserve(kMaxDevices);  // other threads read it while devices are added
  set_num_devices(num_devices);
}

void System::set_num_devices(int num_devices) {
  if (num_devices < 1 || num_devices > kMaxDevices) {
    throw Error(Category::invalid_argument, "[devices] the number of devices must lie in 1 to " +
                                                std::to_string(kMaxDevices) + "; got " + std::to_string(num_devices) +
                                                ".");
  }
  const std::lock_guard lock(devices_mutex_);
  if (const int missing = num_devices - static_cast<int>(devices_.size()); missing > 0) {
    add_devices(missing);
  }
  num_devices_.store(num_devices, std::memory_order_release);
}

void System::add_devices(int count) {
  void* reserved = mmap(nullptr, kRangeBytes * static_cast<std::size_t>(count), PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) {
    throw Error(Category::out_of_memory, "[devices] cannot reserve the address range of " + std::to_string(count) +
                                             " devices. Set TORCH_TRN_NUM_DEVICES to fewer.");
  }
  auto* base = static_cast<char*>(reserved);
  const int first = static_cast<int>(devices_.size());
  const auto hbm_bytes = static_cast<std::size_t>(target()->device.hbm_bytes);
  for (int i = 0; i < count; ++i) {
    auto device = std::make_unique<Device>();
    device->index = first + i;
    device->memory =
        std::make_unique<Memory>(first + i, base + kRangeBytes * static_cast<std::size_t>(i), kRangeBytes, deleter_);
    device->memory->set_limit(hbm_bytes);
    device->memory->set_poison(poison_);
    device->clock.keep_in(journal_, first + i);
    devices_.push_back(std::move(device));
  }
  const int range = num_ranges_.load();
  ranges_[static_cast<std::size_t>(range)] = {base, first, count};
  num_made_.store(first + count, std::memory_order_release);
  num_ranges_.store(range + 1, std::memory_order_release);
}

void System::throw_no_device(int index) const {
  throw Error(Category::invalid_argument, "[device] no such device; got index " + std::to_string(index) + ", limit " +
                                              std::to_string(num_devices() - 1) +
                                              ". TORCH_TRN_NUM_DEVICES sets how many there are.");
}

Device* System::device_of(const void* ptr) {
  const auto* address = static_cast<const char*>(ptr);
  const int num_ranges = num_ranges_.load(std::memory_order_acquire);
  for (int i = 0; i < num_ranges; ++i) {
    const Range& range = ranges_[static_cast<std::size_t>(i)];
    if (address >= range.base && address < range.base + kRangeBytes * static_cast<std::size_t>(range.count)) {
      const auto offset = static_cast<std::size_t>(address - range.base) / kRangeBytes;
      return devices_[static_cast<std::size_t>(range.first) + offset].get();
    }
  }
  return nullptr;
}

void System::set_target(std::shared_ptr<const target::Target> target) {
  const auto hbm_bytes = static_cast<std::size_t>(target->device.hbm_bytes);
  if (hbm_bytes > kRangeBytes) {
    throw Error(Category::unsupported, "[target] device.hbm_bytes exceeds the address range of a device; got " +
                                           std::to_string(hbm_bytes) + ", limit " + std::to_string(kRangeBytes) + ".");
  }
  const std::lock_guard lock(devices_mutex_);
  launches_.set_target(std::move(target));
  for (auto& device : devices_) {
    device->memory->set_limit(static_cast<std::size_t>(device->memory_fraction * static_cast<double>(hbm_bytes)));
  }
}

void System::set_memory_fraction(int index, double fraction) {
  const std::lock_guard lock(devices_mutex_);
  Device& limited = device(index);
  limited.memory_fraction = fraction;
  limited.memory->set_limit(static_cast<std::size_t>(fraction * static_cast<double>(target()->device.hbm_bytes)));
}

void System::set_poison(bool poison) {
  const std::lock_guard lock(devices_mutex_);
  poison_ = poison;
  for (auto& device : devices_) {
    device->memory->set_poison(poison);
  }
}

Interval System::launch(const LaunchVariant& variant, const Site& site, int device, int stream,
                        std::span<const BlockUse> reads, std::span<const BlockUse> writes) {
  Device& dev = *devices_[static_cast<std::size_t>(device)];
  const Interval interval =
      dev.clock.launch(stream, launches_.dispatch(), variant.duration.load(std::memory_order_relaxed));
  if (recorder_.active()) {
    const std::uint32_t entry = recorder_.launch(variant, site, device, stream, interval, reads, writes, *dev.memory);
    journal_.launch(device, stream, entry);
  }
  return interval;
}

void System::sleep(int device, int stream, Picoseconds duration) {
  devices_[static_cast<std::size_t>(device)]->clock.launch(stream, 0, duration);
  journal_.add({ClockStep::Kind::sleep, device, stream, 0, duration});
}

void System::host_copy(const HostSync& sync, int device, int stream, std::int64_t bytes) {
  Device& dev = *devices_[static_cast<std::size_t>(device)];
  if (sync.blocking) {
    dev.clock.host_wait_for_stream(stream);
  }
  if (recorder_.active()) {
    HostSync own = sync;
    own.device = static_cast<std::uint8_t>(device);
    recorder_.host_sync(own, bytes);
  }
}

}  // namespace trn::runtime
