// What the devices' clocks were told, in order: enough to run them again with launches of other lengths, or beside the
// clocks of other ranks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "runtime/spin_lock.h"

namespace trn::runtime {

struct ClockStep {
  enum class Kind : std::uint8_t {
    launches,     // entries [begin, end) of the record, one after the other on the stream
    sleep,        // the stream is busy for `value` picoseconds
    mark,         // `name` is the time at which the stream, or the host if that is later, has come here
    wait,         // the stream waits for `name`, a mark or the end of a call
    host_wait,    // the host waits for `name`
    stream_wait,  // the host waits for the stream
    synchronize,  // the host waits for all streams
    new_stream,   // begins where the host is
    issue,        // the call `name` arrives when the stream and the host have come here; `value` is a message's tag
    finish,       // the call `name` runs, on the stream
  };
  Kind kind;
  int device = 0, stream = 0;
  std::uint64_t name = 0;
  std::int64_t value = 0;
  std::size_t begin = 0, end = 0;
};

// What one profile saw. `entries` are the ledger's.
struct ClockRecord {
  std::vector<ClockStep> steps;
  std::vector<std::uint32_t> entries;
};

// Keeps steps while at least one profile asks for them. Thread-safe; free of cost while none does.
class ClockJournal {
 public:
  bool active() const { return num_open_.load(std::memory_order_relaxed) != 0; }

  // The place of the profile's first step.
  std::size_t open() {
    std::lock_guard lock(mutex_);
    ++num_open_;
    joins_ = false;
    return record_.steps.size();
  }
  ClockRecord close(std::size_t first) {
    std::lock_guard lock(mutex_);
    joins_ = false;
    ClockRecord out = record_;
    out.steps.erase(out.steps.begin(), out.steps.begin() + static_cast<std::ptrdiff_t>(first));
    if (--num_open_ == 0) {
      record_ = {};
    }
    return out;
  }

  // A new name of a moment; 0, which stands for no moment, where nobody asks.
  std::uint64_t name() { return active() ? ++last_name_ : 0; }

  void add(ClockStep step) {
    if (active()) {
      std::lock_guard lock(mutex_);
      record_.steps.push_back(step);
      joins_ = false;
    }
  }
  void launch(int device, int stream, std::uint32_t entry) {
    if (!active()) {
      return;
    }
    std::lock_guard lock(mutex_);
    auto& [steps, entries] = record_;
    entries.push_back(entry);
    if (joins_ && steps.back().device == device && steps.back().stream == stream) {
      steps.back().end = entries.size();
      return;
    }
    steps.push_back({ClockStep::Kind::launches, device, stream, 0, 0, entries.size() - 1, entries.size()});
    joins_ = true;
  }

 private:
  SpinLock mutex_;
  std::atomic<int> num_open_{0};
  std::atomic<std::uint64_t> last_name_{0};
  ClockRecord record_;
  bool joins_ = false;  // the last step is of launches, which more may join
};

}  // namespace trn::runtime
