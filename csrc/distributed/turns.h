// The ranks of one process take turns: one runs while the others wait for their turn, or for each other.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace trn::distributed {

enum class RankStatus : std::uint8_t { starting, running, ready, waiting, done };
const char* name(RankStatus status);

// What Python must do around turns; the bindings fill it in.
struct TurnHooks {
  // Runs what may block, Python's lock released if this thread holds it.
  void (*blocking)(const std::function<void()>& work) = nullptr;
  // The process's state becomes that of another rank. Called by the thread whose turn begins, without Python's lock.
  std::function<void(int from, int to)> switched;
};

class Turns : public std::enable_shared_from_this<Turns> {
 public:
  Turns(int num_ranks, TurnHooks hooks);

  // The calling thread runs the rank: `body` in its turns. However it ends, the rank is done then. Without Python's
  // lock.
  void run(int rank, const std::function<void()>& body);
  // Others have their turns while the calling rank does `work`, which is to wait in `call`. `ends_by_itself`: the wait
  // needs no other rank. However `work` ends, the caller has its turn again then. On a thread that has no turn it is
  // `work` alone. Without Python's lock.
  void wait(std::string call, bool ends_by_itself, const std::function<void()>& work);
  // Are all ranks done within this time?
  bool wait_until_done(std::chrono::milliseconds limit) const;

  // From now on every wait for another rank raises `why`; who waits already is woken. The first reason stays.
  void end(const std::string& why);
  std::string why_ended() const;
  // The rank that was the first to call `end`; none: a thread that is no rank's, or nobody.
  std::optional<int> ended_by() const;
  void raise_if_ended(const char* name) const;

  struct Rank {
    RankStatus status = RankStatus::starting;
    std::string call;  // that it waits in
    bool ends_by_itself = false;
  };
  std::vector<Rank> ranks() const;
  // Grows whenever something happens between ranks; a run that waits and does not move is a deadlock.
  std::uint64_t num_events() const { return num_events_.load(); }
  void count_event() { ++num_events_; }

  // Called by `end`, until the number is given back.
  std::uint64_t on_end(std::function<void()> wake);
  void forget(std::uint64_t number);

  const TurnHooks& hooks() const { return hooks_; }

 private:
  void take();
  void release(RankStatus status, std::string call, bool ends_by_itself);
  void pass_on();  // under mutex_

  const TurnHooks hooks_;
  mutable std::mutex mutex_;
  std::vector<Rank> ranks_;
  std::deque<std::condition_variable> woken_;  // by rank
  mutable std::condition_variable done_;
  std::deque<int> line_;  // who waits for a turn, first come first served
  int current_ = -1, last_ = -1;
  std::string why_ended_;
  std::optional<int> ended_by_;
  std::vector<std::pair<std::uint64_t, std::function<void()>>> wakers_;
  std::uint64_t next_waker_ = 0;
  std::atomic<std::uint64_t> num_events_{0};
};

// The ranks of the run that is under way, if any.
std::shared_ptr<Turns> current_turns();
void set_current_turns(std::shared_ptr<Turns> turns);

// Does the calling thread run a rank, and is it its turn?
bool has_turn();

// Runs what waits for other ranks or threads: on a rank's thread others have their turns meanwhile.
void wait_in(const std::function<std::string()>& call, const std::function<void()>& work);

}  // namespace trn::distributed
