// The simulated clock of one device: a time per stream and the host's, in integer picoseconds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "runtime/busy_ranges.h"
#include "runtime/clock_journal.h"
#include "runtime/spin_lock.h"
#include "target/error.h"

namespace trn::runtime {

using Picoseconds = std::int64_t;
inline constexpr double kPicosecondsPerSecond = 1e12;
inline Picoseconds to_picoseconds(double seconds) {
  constexpr double kLongest = 4e6;  // two of them fit in 64 bits
  if (!(seconds >= 0 && seconds <= kLongest)) {
    throw Error(Category::invalid_argument,
                "[clock] a simulated time must lie in 0 to 4e6 seconds; got " + std::to_string(seconds) + ".");
  }
  return static_cast<Picoseconds>(seconds * kPicosecondsPerSecond + 0.5);
}
inline double to_seconds(Picoseconds time) {
  return static_cast<double>(time) / kPicosecondsPerSecond;
}

struct Interval {
  Picoseconds start = 0, end = 0;
};

// A time with its name in the journal, 0 where it has none.
struct Moment {
  Picoseconds time = 0;
  std::uint64_t name = 0;
};

// The host issues launches in order, one dispatch time apart; each stream runs its launches in order. A launch holds
// its stream for the longer of its dispatch and its device time. Thread-safe.
class Clock {
 public:
  // From now on the journal has what this clock is told, but for launches: those have names that others know.
  void keep_in(ClockJournal& journal, int device) {
    journal_ = &journal;
    device_ = device;
  }

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
  void wait(int stream, const Moment& event) {
    std::lock_guard lock(mutex_);
    auto& ready = at(stream);
    ready = std::max(ready, event.time);
    note({ClockStep::Kind::wait, device_, stream, event.name});
  }
  // When the work submitted to the stream is done, or the host is here if that is later.
  Moment mark(int stream) {
    std::lock_guard lock(mutex_);
    const Moment here{std::max(at(stream), host_), new_name()};
    note({ClockStep::Kind::mark, device_, stream, here.name});
    return here;
  }
  // The same of a call that arrives; `tag` is a message's.
  Moment arrive(int stream, int tag) {
    std::lock_guard lock(mutex_);
    const Moment here{std::max(at(stream), host_), new_name()};
    note({ClockStep::Kind::issue, device_, stream, here.name, tag});
    return here;
  }
  Picoseconds host() {
    std::lock_guard lock(mutex_);
    return host_;
  }
  // The host waits for an event, a stream or every stream.
  void host_wait(const Moment& event) {
    std::lock_guard lock(mutex_);
    host_ = std::max(host_, event.time);
    note({ClockStep::Kind::host_wait, device_, 0, event.name});
  }
  void host_wait_for_stream(int stream) {
    std::lock_guard lock(mutex_);
    host_ = std::max(host_, at(stream));
    note({ClockStep::Kind::stream_wait, device_, stream});
  }
  void synchronize() {
    std::lock_guard lock(mutex_);
    for (auto ready : streams_) {
      host_ = std::max(host_, ready);
    }
    note({ClockStep::Kind::synchronize, device_});
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
  // Of a pool: past kPoolSize they are the earlier ones in turn, as other accelerators' are.
  int pool_stream() {
    constexpr std::size_t kPoolSize = 32;
    std::lock_guard lock(mutex_);
    if (pool_.size() < kPoolSize) {
      pool_.push_back(new_stream());
      return pool_.back();
    }
    return pool_[next_of_pool_++ % kPoolSize];
  }
  // Nobody else's until it is given back.
  int take_stream() {
    std::lock_guard lock(mutex_);
    if (given_back_.empty()) {
      return new_stream();
    }
    const int stream = given_back_.back();
    given_back_.pop_back();
    return stream;
  }
  void give_back(int stream) {
    std::lock_guard lock(mutex_);
    given_back_.push_back(stream);
  }

 private:
  int new_stream() {
    streams_.push_back(host_);
    const int stream = static_cast<int>(streams_.size()) - 1;
    note({ClockStep::Kind::new_stream, device_, stream});
    return stream;
  }
  void note(ClockStep step) {
    if (journal_) {
      journal_->add(step);
    }
  }
  std::uint64_t new_name() { return journal_ ? journal_->name() : 0; }
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
  std::vector<Picoseconds> streams_{0};  // stream 0 is the default
  std::vector<int> pool_, given_back_;
  std::size_t next_of_pool_ = 0;
  bool keeps_busy_ = false;
  BusyRanges busy_;
  ClockJournal* journal_ = nullptr;
  int device_ = 0;
};

// A stream of one owner's own.
class OwnStream {
 public:
  OwnStream() = default;
  explicit OwnStream(Clock& clock) : clock_(&clock), stream_(clock.take_stream()) {}
  ~OwnStream() {
    if (clock_) {
      clock_->give_back(stream_);
    }
  }
  OwnStream(OwnStream&& other) noexcept : clock_(std::exchange(other.clock_, nullptr)), stream_(other.stream_) {}
  OwnStream& operator=(OwnStream other) noexcept {
    std::swap(clock_, other.clock_);
    std::swap(stream_, other.stream_);
    return *this;
  }
  int id() const { return stream_; }

 private:
  Clock* clock_ = nullptr;
  int stream_ = 0;
};

}  // namespace trn::runtime
