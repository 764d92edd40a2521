// The simulated clock of one device: a time per stream and the host's, in integer picoseconds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <mutex>

#include "runtime/busy_ranges.h"
#include "runtime/spin_lock.h"
#include "target/error.h"

namespace trn::runtime {

using Picoseconds = std::int64_t;
inline constexpr double kPicosecondsPerSecond = 1e12;
inline Picoseconds to_picoseconds(double seconds) {
  return static_cast<Picoseconds>(seconds * kPicosecondsPerSecond + 0.5);
}
inline double to_seconds(Picoseconds time) {
  return static_cast<double>(time) / kPicosecondsPerSecond;
}

struct Interval {
  Picoseconds start = 0, end = 0;
};

// The host issues launches in order, one dispatch time apart; each stream runs its launches in order. A launch holds
// its stream for the longer of its dispatch and its device time. Thread-safe.
class Clock {
 public:
  Interval launch(int stream, Picoseconds dispatch, Picoseconds duration) {
    std::lock_guard lock(mutex_);
    auto& ready = at(stream);
    const Picoseconds start = std::max(ready, host_);
    const Picoseconds end = start + std::max(dispatch, duration);
    host_ += dispatch;
    ready = end;
    if (keeps_busy_) {
      busy_.add(start, end);
    }
    return {start, end};
  }
  // Time at which all work submitted to the stream is done.
  Picoseconds ready(int stream) {
    std::lock_guard lock(mutex_);
    return at(stream);
  }
  void wait(int stream, Picoseconds event) {
    std::lock_guard lock(mutex_);
    auto& ready = at(stream);
    ready = std::max(ready, event);
  }
  Picoseconds host() {
    std::lock_guard lock(mutex_);
    return host_;
  }
  // The host waits for an event, a stream or every stream.
  void host_wait(Picoseconds event) {
    std::lock_guard lock(mutex_);
    host_ = std::max(host_, event);
  }
  void synchronize() {
    std::lock_guard lock(mutex_);
    for (auto ready : streams_) {
      host_ = std::max(host_, ready);
    }
  }
  // The end of all work submitted so far.
  Picoseconds latest() {
    std::lock_guard lock(mutex_);
    return std::max(host_, *std::max_element(streams_.begin(), streams_.end()));
  }
  bool reached(Picoseconds event) {
    std::lock_guard lock(mutex_);
    return host_ >= event;
  }
  // From now on when launches ran is kept, for what runs beside them; what ended before `time` is forgotten.
  void keep_busy_since(Picoseconds time) {
    std::lock_guard lock(mutex_);
    keeps_busy_ = true;
    busy_.forget_before(time);
  }
  // How much of [start, end) some stream was at work.
  Picoseconds busy_within(Picoseconds start, Picoseconds end) {
    std::lock_guard lock(mutex_);
    return busy_.covered(start, end);
  }
  int new_stream() {
    std::lock_guard lock(mutex_);
    streams_.push_back(host_);
    return static_cast<int>(streams_.size()) - 1;
  }
  int num_streams() {
    std::lock_guard lock(mutex_);
    return static_cast<int>(streams_.size());
  }

 private:
  Picoseconds& at(int stream) {
    if (stream < 0 || stream >= static_cast<int>(streams_.size())) {
      throw Error(Category::invalid_argument, "[stream] must be one of the device's streams; got " +
                                                  std::to_string(stream) + ", limit " +
                                                  std::to_string(streams_.size() - 1) + ".");
    }
    return streams_[static_cast<std::size_t>(stream)];
  }

  SpinLock mutex_;
  Picoseconds host_ = 0;
  std::deque<Picoseconds> streams_{0};  // stream 0 is the default
  bool keeps_busy_ = false;
  BusyRanges busy_;
};

}  // namespace trn::runtime
