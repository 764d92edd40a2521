#include "aten/memory_history.h"

#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "aten/system.h"

namespace trn::aten {

namespace {

using Frames = std::shared_ptr<torch::CapturedTraceback>;

struct History {
  std::deque<MemoryEvent> events;
  std::unordered_map<std::uintptr_t, Frames> held;  // by address
};

std::atomic<bool> active{false};
std::mutex history_mutex;
MemoryHistoryOptions options;
std::map<int, History>& histories() {
  static auto* instance = new std::map<int, History>();  // leaked: frames must not be freed after the interpreter
  return *instance;
}

MemoryHistoryOptions current_options() {
  const std::lock_guard lock(history_mutex);
  return options;
}

// Outside of the lock: gathering frames takes the interpreter's.
Frames gather(bool wanted, bool cpp) {
  return wanted ? torch::CapturedTraceback::gather(true, false, cpp) : nullptr;
}

std::int64_t microseconds_now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::microseconds>(now).count();
}

MemoryEvent event_of(const char* action, int device, std::uintptr_t address, std::int64_t size, Frames frames) {
  return {action, address, size, current_stream(device), microseconds_now(), std::move(frames)};
}

// The caller holds the lock, and lets go of what it gets back after it.
[[nodiscard]] Frames append(History& history, MemoryEvent event) {
  if (!options.keeps_events || options.max_events == 0 || options.skipped.contains(event.action)) {
    return std::move(event.frames);
  }
  Frames dropped;
  if (history.events.size() >= options.max_events) {
    dropped = std::move(history.events.front().frames);
    history.events.pop_front();
  }
  history.events.push_back(std::move(event));
  return dropped;
}

}  // namespace

void start_memory_history(MemoryHistoryOptions chosen, bool clear) {
  std::map<int, History> dropped;
  const std::lock_guard lock(history_mutex);
  options = std::move(chosen);
  if (clear) {
    dropped.swap(histories());
  }
  active = true;
}

void stop_memory_history() {
  const std::lock_guard lock(history_mutex);
  active = false;
  for (auto& [device, history] : histories()) {
    history.held.clear();
  }
}

bool records_memory() noexcept {
  return active.load(std::memory_order_relaxed);
}

void remember_alloc(int device, const void* ptr, std::int64_t size) {
  const MemoryHistoryOptions chosen = current_options();
  const auto address = reinterpret_cast<std::uintptr_t>(ptr);
  const Frames frames = gather(chosen.frames_of_state, chosen.cpp_frames);
  Frames dropped, replaced;
  const std::lock_guard lock(history_mutex);
  History& history = histories()[device];
  replaced = std::exchange(history.held[address], frames);
  dropped = append(history, event_of("alloc", device, address, size, chosen.frames_of_allocs ? frames : nullptr));
}

void remember_free(int device, const void* ptr, std::int64_t size) {
  const MemoryHistoryOptions chosen = current_options();
  const auto address = reinterpret_cast<std::uintptr_t>(ptr);
  const Frames frames = gather(chosen.frames_of_frees, chosen.cpp_frames);
  Frames dropped[3];
  const std::lock_guard lock(history_mutex);
  History& history = histories()[device];
  if (const auto found = history.held.find(address); found != history.held.end()) {
    dropped[0] = std::move(found->second);
    history.held.erase(found);
  }
  dropped[1] = append(history, event_of("free_requested", device, address, size, frames));
  dropped[2] = append(history, event_of("free_completed", device, address, size, frames));
}

void remember_out_of_memory(int device, std::int64_t size, std::int64_t free_bytes) {
  const MemoryHistoryOptions chosen = current_options();
  const Frames frames = gather(chosen.frames_of_allocs, chosen.cpp_frames);
  Frames dropped;
  const std::lock_guard lock(history_mutex);
  dropped = append(histories()[device], event_of("oom", device, static_cast<std::uintptr_t>(free_bytes), size, frames));
}

std::vector<MemoryEvent> memory_events(int device) {
  const std::lock_guard lock(history_mutex);
  const auto& events = histories()[device].events;
  return {events.begin(), events.end()};
}

Frames allocation_frames(int device, std::uintptr_t address) {
  const std::lock_guard lock(history_mutex);
  const auto& held = histories()[device].held;
  const auto found = held.find(address);
  return found == held.end() ? nullptr : found->second;
}

}  // namespace trn::aten
