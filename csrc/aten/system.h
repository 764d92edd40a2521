// The process's simulated machine as the seam uses it: current device and stream, and lazy start.
#pragma once

#include <c10/core/Device.h>
#include <c10/macros/Macros.h>

#include <atomic>
#include <memory>
#include <vector>

#include "runtime/system.h"
#include "target/target.h"

namespace trn::aten {

// Set before the first use; nothing is reserved until then.
void configure(std::shared_ptr<const target::Target> target, int num_devices);
// Also of a machine that runs: more devices than there were are added, fewer hide the rest.
void set_num_devices(int num_devices);
std::shared_ptr<const target::Target> configured_target();  // raises when there is none
namespace detail {
extern std::atomic<runtime::System*> running;
runtime::System& start();
}  // namespace detail
// Null before the start, and in a process forked after it.
inline runtime::System* running_system() noexcept {
  return detail::running.load(std::memory_order_acquire);
}
// Starts the machine on first use. Raises in a process forked after the start.
inline runtime::System& system() {
  runtime::System* running = running_system();
  return C10_LIKELY(running) ? *running : detail::start();
}
bool is_started() noexcept;
bool is_in_bad_fork() noexcept;

// No machine needed for these.
int device_count() noexcept;
int current_device() noexcept;
void set_current_device(int index);  // checked
void set_current_device_unchecked(int index) noexcept;
inline c10::Device device(int index) {
  return {c10::DeviceType::PrivateUse1, static_cast<c10::DeviceIndex>(index)};
}
// -1 and a missing index mean the current device.
int resolve(c10::Device device);

int current_stream(int device) noexcept;
int exchange_stream(int device, int stream) noexcept;

// Reports an error of the core as torch's exception of the same category.
[[noreturn]] void rethrow(const trn::Error& error);

}  // namespace trn::aten
