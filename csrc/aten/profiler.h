// The seam to torch.profiler: launches become kernels on a device timeline, in simulated time.
#pragma once

#include <atomic>
#include <cstdint>

namespace trn::aten {

namespace detail {
extern std::atomic<bool> profiler_recording;
}

// True while a torch.profiler session with ProfilerActivity.PrivateUse1 records: one relaxed load.
inline bool profiler_active() noexcept {
  return detail::profiler_recording.load(std::memory_order_relaxed);
}

// One launch, in simulated seconds on the devices' clock. Call on the thread of the operator; the name is copied.
// `correlation` 0 links the kernel to the innermost CPU operator of this thread.
void profiler_on_launch(const char* kernel_name, int device, int stream, double start_seconds, double end_seconds,
                        std::uint64_t correlation = 0);

}  // namespace trn::aten
