// What happened to device memory while somebody records it, with the frames that did it: torch.cuda's history.
#pragma once

#include <torch/csrc/profiler/combined_traceback.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace trn::aten {

struct MemoryHistoryOptions {
  bool keeps_events = true;  // false: only where the memory that is held now was allocated
  bool frames_of_state = true;
  bool frames_of_allocs = true;
  bool frames_of_frees = true;
  bool cpp_frames = false;
  std::size_t max_events = SIZE_MAX;  // of each device; the oldest go first
  std::set<std::string> skipped;      // actions that leave no event
};

struct MemoryEvent {
  const char* action;      // "alloc", "free_requested", "free_completed", "oom": torch.cuda's words
  std::uintptr_t address;  // of "oom": the bytes that were free
  std::int64_t size;
  int stream;
  std::int64_t microseconds;                         // of the host's clock, since 1970
  std::shared_ptr<torch::CapturedTraceback> frames;  // may be empty
};

void start_memory_history(MemoryHistoryOptions options, bool clear);
void stop_memory_history();  // events stay; where held memory was allocated is forgotten
bool records_memory() noexcept;

void remember_alloc(int device, const void* ptr, std::int64_t size);
void remember_free(int device, const void* ptr, std::int64_t size);
void remember_out_of_memory(int device, std::int64_t size, std::int64_t free_bytes);

std::vector<MemoryEvent> memory_events(int device);
// Where the block that begins at `address` was allocated; empty where that was not recorded.
std::shared_ptr<torch::CapturedTraceback> allocation_frames(int device, std::uintptr_t address);

}  // namespace trn::aten
