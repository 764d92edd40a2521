// The simulated clock: operations on in-order queues, started as early as their queue, what they share and what they
// wait for allow.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace trn::emu {

struct Dependency {
  std::int32_t operation = 0;
  bool sees_result = true;  // waits until its result is visible; otherwise until it has ended
};

// Times are in seconds.
struct Operation {
  std::int32_t queue = -1;   // operations of a queue start in the order in which they were added
  std::int32_t joined = -1;  // a second queue that it also stands in, and holds up as long
  // What several operations share, one at a time: an engine, the DMA engines, a memory's port. -1: none.
  std::array<std::int32_t, 3> resources = {-1, -1, -1};
  double startup_seconds = 0;  // from the last event that it waits for to its start; others use the resources meanwhile
  double busy_seconds = 0;     // of queue and resources
  double latency_seconds = 0;  // from its end until others see the result
};

struct Scheduled {
  double start_seconds = 0, end_seconds = 0;
  std::int32_t bound_by = -1;  // the operation whose end or result set the start; none: the beginning
};

class Clock {
 public:
  // Returns the operation's number. What it waits for was added before.
  std::int32_t add(const Operation& operation, std::span<const Dependency> dependencies);
  std::size_t size() const { return operations_.size(); }

  // Start and end of every operation. Whichever can start first does; queues take turns at a resource.
  std::vector<Scheduled> run() const;

 private:
  std::vector<Operation> operations_;
  std::vector<Dependency> dependencies_;  // of operation i: [first_dependency_[i], first_dependency_[i + 1])
  std::vector<std::size_t> first_dependency_ = {0};
  std::int32_t num_queues_ = 0, num_resources_ = 0;
};

}  // namespace trn::emu
