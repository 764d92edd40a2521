// The simulated machine as the driver sees it: its devices, the launches they take and the record of them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/clock.h"
#include "runtime/launch.h"
#include "runtime/ledger.h"
#include "runtime/memory.h"
#include "target/target.h"

namespace trn::runtime {

struct Device {
  int index = 0;
  std::unique_ptr<Memory> memory;
  double memory_fraction = 1;  // of the target's HBM that may be used
  Clock clock;
};

class System {
 public:
  static constexpr int kMaxDevices = 128;

  // Reserves the address ranges; commits nothing.
  System(std::shared_ptr<const target::Target> target, int num_devices, Memory::AttachmentDeleter deleter);

  int num_devices() const { return num_devices_.load(std::memory_order_relaxed); }
  // Devices past the number are there no more for who asks; their memory stays valid for tensors that outlive them.
  void set_num_devices(int num_devices);
  Device& device(int index) {
    if (index < 0 || index >= num_made_.load(std::memory_order_acquire)) [[unlikely]] {
      throw_no_device(index);
    }
    return *devices_[static_cast<std::size_t>(index)];
  }
  // The device whose HBM holds `ptr`, or nullptr.
  Device* device_of(const void* ptr);

  Launches& launches() { return launches_; }
  Recorder& recorder() { return recorder_; }
  ClockJournal& journal() { return journal_; }
  std::shared_ptr<const target::Target> target() const { return launches_.target(); }
  // Costs follow at once; each device's HBM limit too, within the reserved range.
  void set_target(std::shared_ptr<const target::Target> target);

  void set_memory_fraction(int index, double fraction);
  // Strict mode, of devices that are added later too: fresh memory reads as NaN.
  void set_poison(bool poison);

  // Runs on the simulated clock and, under a profile, in the ledger.
  Interval launch(const LaunchVariant& variant, const Site& site, int device, int stream,
                  std::span<const BlockUse> reads, std::span<const BlockUse> writes);
  // The stream does nothing for so long, and is not free.
  void sleep(int device, int stream, Picoseconds duration);
  // A value goes to the host (or comes from it): the host waits for the stream when blocking.
  void host_copy(const HostSync& sync, int device, int stream, std::int64_t bytes);

 private:
  // Devices whose address ranges were reserved together.
  struct Range {
    char* base = nullptr;
    int first = 0, count = 0;
  };
  void add_devices(int count);
  [[noreturn]] void throw_no_device(int index) const;

  std::atomic<int> num_devices_{0}, num_made_{0};
  std::array<Range, kMaxDevices> ranges_;
  std::atomic<int> num_ranges_{0};
  std::vector<std::unique_ptr<Device>> devices_;
  Memory::AttachmentDeleter deleter_;
  std::mutex devices_mutex_;  // of who adds or changes devices
  bool poison_ = false;
  Launches launches_;
  Recorder recorder_;
  ClockJournal journal_;
};

}  // namespace trn::runtime
