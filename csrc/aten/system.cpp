#include "aten/system.h"

#include <c10/util/Exception.h>
#include <pthread.h>

#include <array>
#include <mutex>

#include "aten/allocator.h"

namespace trn::aten {

namespace {

std::shared_ptr<const target::Target> the_target;
int configured_devices = 0;
std::mutex start_mutex;
std::atomic<bool> bad_fork{false};
thread_local int tls_device = 0;
thread_local std::array<std::int16_t, runtime::System::kMaxDevices> tls_streams{};

}  // namespace

namespace detail {

std::atomic<runtime::System*> running{nullptr};  // leaked: tensors may outlive static destruction

runtime::System& start() {
  TORCH_CHECK(!bad_fork,
              "Cannot re-initialize the trn device in a forked subprocess. To use it with multiprocessing, "
              "use the 'spawn' start method.");
  std::lock_guard lock(start_mutex);
  if (auto* started = running_system()) {
    return *started;
  }
  TORCH_CHECK(the_target, "[torch_trn] no target is configured. Import torch_trn first.");
  try {
    running = new runtime::System(the_target, configured_devices, &delete_attachment);
  } catch (const trn::Error& error) {
    rethrow(error);
  }
  // A lock may have been held at the fork, so the child leaves the machine alone.
  pthread_atfork(nullptr, nullptr, [] {
    bad_fork = true;
    running = nullptr;
  });
  return *running;
}

}  // namespace detail

void configure(std::shared_ptr<const target::Target> target, int num_devices) {
  std::lock_guard lock(start_mutex);
  if (auto* running = running_system()) {
    try {
      running->set_target(target);  // may throw: nothing changes before
    } catch (const trn::Error& error) {
      rethrow(error);
    }
  }
  the_target = std::move(target);
  configured_devices = num_devices;
}

void set_num_devices(int num_devices) {
  std::lock_guard lock(start_mutex);
  TORCH_CHECK_VALUE(num_devices >= 1 && num_devices <= runtime::System::kMaxDevices,
                    "[devices] the number of devices must lie in 1 to ", runtime::System::kMaxDevices, "; got ",
                    num_devices, ".");
  configured_devices = num_devices;
  if (auto* running = running_system()) {
    try {
      running->set_num_devices(num_devices);
    } catch (const trn::Error& error) {
      rethrow(error);
    }
  }
}

std::shared_ptr<const target::Target> configured_target() {
  std::lock_guard lock(start_mutex);
  TORCH_CHECK(the_target, "[torch_trn] no target is configured. Import torch_trn first.");
  return the_target;
}

bool is_started() noexcept {
  return running_system() || bad_fork;
}
bool is_in_bad_fork() noexcept {
  return bad_fork;
}

int device_count() noexcept {
  auto* running = running_system();
  return running ? running->num_devices() : configured_devices;
}

int current_device() noexcept {
  return tls_device;
}

void set_current_device(int index) {
  TORCH_CHECK(index >= 0 && index < device_count(), "[device] no such device; got index ", index, ", limit ",
              device_count() - 1, ". TORCH_TRN_NUM_DEVICES sets how many there are.");
  tls_device = index;
}

void set_current_device_unchecked(int index) noexcept {
  if (index >= 0) {
    tls_device = index;
  }
}

int resolve(c10::Device device) {
  if (!device.has_index() || device.index() < 0) {
    return tls_device;
  }
  TORCH_CHECK(device.index() < device_count(), "[device] no such device; got index ", static_cast<int>(device.index()),
              ", limit ", device_count() - 1, ". TORCH_TRN_NUM_DEVICES sets how many there are.");
  return device.index();
}

int current_stream(int device) noexcept {
  return tls_streams[static_cast<std::size_t>(device)];
}

int exchange_stream(int device, int stream) noexcept {
  auto& slot = tls_streams[static_cast<std::size_t>(device)];
  const int previous = slot;
  slot = static_cast<std::int16_t>(stream);
  return previous;
}

void rethrow(const trn::Error& error) {
  switch (error.category()) {
    case Category::out_of_memory:
      C10_THROW_ERROR(OutOfMemoryError, error.what());
    case Category::invalid_argument:
      C10_THROW_ERROR(ValueError, error.what());
    case Category::unimplemented:
    case Category::unsupported:
      C10_THROW_ERROR(NotImplementedError, error.what());
    default:
      C10_THROW_ERROR(Error, error.what());
  }
}

}  // namespace trn::aten
