#include "distributed/turns.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "distributed/failure.h"

namespace trn::distributed {

namespace {

// Of a rank's thread.
struct OwnTurn {
  std::shared_ptr<Turns> turns;
  int rank = -1;
  bool has_turn = false;
};
thread_local OwnTurn here;

// A forked child has a copy of its rank's thread alone: nobody passes turns there.
void leave_turns_to_the_parent() {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { here.has_turn = false; }); });
}

std::mutex current_mutex;
std::shared_ptr<Turns>& current() {
  static auto* instance = new std::shared_ptr<Turns>();  // leaked: threads may outlive static destruction
  return *instance;
}

}  // namespace

const char* name(RankStatus status) {
  static constexpr const char* kNames[] = {"starting", "running", "ready", "waiting", "done"};
  return kNames[static_cast<int>(status)];
}

Turns::Turns(int num_ranks, TurnHooks hooks) : hooks_(std::move(hooks)), ranks_(static_cast<std::size_t>(num_ranks)) {
  woken_.resize(ranks_.size());
}

void Turns::run(int rank, const std::function<void()>& body) {
  struct Stay {
    Turns& turns;
    ~Stay() noexcept(false) {
      turns.release(RankStatus::done, "", false);
      here = {};
    }
  };
  leave_turns_to_the_parent();
  here = {shared_from_this(), rank, false};
  const Stay until_done{*this};
  take();
  body();
}

void Turns::wait(std::string call, bool ends_by_itself, const std::function<void()>& work) {
  struct Wait {
    Turns& turns;
    ~Wait() noexcept(false) { turns.take(); }  // an interpreter that ends unwinds its threads
  };
  if (!here.has_turn || here.turns.get() != this) {
    work();
    return;
  }
  release(RankStatus::waiting, std::move(call), ends_by_itself);
  const Wait until_done{*this};
  work();
}

bool Turns::wait_until_done(std::chrono::milliseconds limit) const {
  std::unique_lock lock(mutex_);
  return done_.wait_for(lock, limit, [this] {
    return std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.status == RankStatus::done; });
  });
}

void Turns::release(RankStatus status, std::string call, bool ends_by_itself) {
  {
    std::lock_guard lock(mutex_);
    ranks_[static_cast<std::size_t>(here.rank)] = {status, std::move(call), ends_by_itself};
    here.has_turn = false;
    if (current_ == here.rank) {
      pass_on();
    }
  }
  count_event();
  if (status == RankStatus::done) {
    done_.notify_all();
  }
}

void Turns::pass_on() {
  current_ = -1;
  if (!line_.empty()) {
    current_ = line_.front();
    line_.pop_front();
    woken_[static_cast<std::size_t>(current_)].notify_one();
  }
}

void Turns::take() {
  const int rank = here.rank;
  int from = -1;
  {
    std::unique_lock lock(mutex_);
    auto& own = ranks_[static_cast<std::size_t>(rank)];
    own = {RankStatus::ready, "", false};
    count_event();
    if (current_ < 0 && line_.empty()) {
      current_ = rank;
    } else {
      line_.push_back(rank);
      woken_[static_cast<std::size_t>(rank)].wait(lock, [&] { return current_ == rank; });
    }
    own.status = RankStatus::running;
    from = std::exchange(last_, rank);
  }
  here.has_turn = true;
  if (from != rank && hooks_.switched) {
    hooks_.switched(from, rank);
  }
}

void Turns::end(const std::string& why) {
  std::vector<std::pair<std::uint64_t, std::function<void()>>> wakers;
  {
    std::lock_guard lock(mutex_);
    if (why_ended_.empty()) {
      why_ended_ = why;
      ended_by_ = here.turns.get() == this ? std::optional(here.rank) : std::nullopt;
    }
    wakers = wakers_;
  }
  for (const auto& [number, wake] : wakers) {
    wake();
  }
}

std::string Turns::why_ended() const {
  std::lock_guard lock(mutex_);
  return why_ended_;
}

std::optional<int> Turns::ended_by() const {
  std::lock_guard lock(mutex_);
  return ended_by_;
}

void Turns::raise_if_ended(const char* name) const {
  if (const std::string why = why_ended(); !why.empty()) {
    raise("[" + std::string(name) + "] every rank must be there; got: " + why);
  }
}

std::vector<Turns::Rank> Turns::ranks() const {
  std::lock_guard lock(mutex_);
  return ranks_;
}

std::uint64_t Turns::on_end(std::function<void()> wake) {
  std::lock_guard lock(mutex_);
  wakers_.emplace_back(++next_waker_, std::move(wake));
  return next_waker_;
}

void Turns::forget(std::uint64_t number) {
  std::lock_guard lock(mutex_);
  std::erase_if(wakers_, [&](const auto& waker) { return waker.first == number; });
}

std::shared_ptr<Turns> current_turns() {
  std::lock_guard lock(current_mutex);
  return current();
}

void set_current_turns(std::shared_ptr<Turns> turns) {
  std::lock_guard lock(current_mutex);
  current() = std::move(turns);
}

bool has_turn() {
  return here.has_turn;
}

void wait_in(const std::function<std::string()>& call, const std::function<void()>& work) {
  if (!here.has_turn) {
    work();
    return;
  }
  const auto turns = here.turns;
  turns->hooks().blocking([&] { turns->wait(call(), false, work); });
}

}  // namespace trn::distributed
