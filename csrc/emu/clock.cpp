// An event simulation over queues.
#include "emu/clock.h"

#include <algorithm>
#include <array>
#include <queue>
#include <tuple>
#include <utility>

namespace trn::emu {
namespace {

// The head of a queue. Queues that wait for one resource take turns: the one that has waited longest goes first.
struct Candidate {
  double start_seconds = 0;
  double waits_since_seconds = 0;
  std::int32_t operation = 0;

  auto order() const { return std::tie(start_seconds, waits_since_seconds, operation); }
  bool operator>(const Candidate& other) const { return order() > other.order(); }
};

struct Bound {
  double seconds = 0;
  std::int32_t by = -1;

  void raise(double other, std::int32_t operation) {
    if (other > seconds) {
      seconds = other;
      by = operation;
    }
  }
};

constexpr std::size_t kMostQueues = 2;  // that one operation stands in

// Operations in the order of a relation's first member: of operation i, list[first[i]] to list[first[i + 1]].
struct Successors {
  std::vector<std::int32_t> list;
  std::vector<std::size_t> first;
};

}  // namespace

std::int32_t Clock::add(const Operation& operation, std::span<const Dependency> dependencies) {
  operations_.push_back(operation);
  dependencies_.insert(dependencies_.end(), dependencies.begin(), dependencies.end());
  first_dependency_.push_back(dependencies_.size());
  num_queues_ = std::max({num_queues_, operation.queue + 1, operation.joined + 1});
  num_resources_ = std::max(num_resources_, std::ranges::max(operation.resources) + 1);
  return static_cast<std::int32_t>(operations_.size()) - 1;
}

std::vector<Scheduled> Clock::run() const {
  const std::size_t n = operations_.size();
  const auto queues_of = [&](std::size_t i) { return std::array{operations_[i].queue, operations_[i].joined}; };
  Successors successors{std::vector<std::int32_t>(dependencies_.size()), std::vector<std::size_t>(n + 1)};
  for (const Dependency& dependency : dependencies_) {
    ++successors.first[static_cast<std::size_t>(dependency.operation) + 1];
  }
  for (std::size_t i = 0; i < n; ++i) {
    successors.first[i + 1] += successors.first[i];
  }
  std::vector<std::size_t> next = successors.first;
  std::vector<std::int32_t> waits_for(n), followers(n * kMostQueues, -1);
  std::vector<std::int32_t> last_of_queue(static_cast<std::size_t>(num_queues_), -1);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t d = first_dependency_[i]; d < first_dependency_[i + 1]; ++d) {
      successors.list[next[static_cast<std::size_t>(dependencies_[d].operation)]++] = static_cast<std::int32_t>(i);
    }
    waits_for[i] = static_cast<std::int32_t>(first_dependency_[i + 1] - first_dependency_[i]);
    for (const std::int32_t queue : queues_of(i)) {
      if (queue < 0) {
        continue;
      }
      const std::int32_t last =
          std::exchange(last_of_queue[static_cast<std::size_t>(queue)], static_cast<std::int32_t>(i));
      if (last >= 0) {
        const auto l = static_cast<std::size_t>(last);
        followers[l * kMostQueues + (operations_[l].queue == queue ? 0 : 1)] = static_cast<std::int32_t>(i);
        ++waits_for[i];
      }
    }
  }

  std::vector<Scheduled> schedule(n);
  std::vector<Bound> queues(static_cast<std::size_t>(num_queues_)), resources(static_cast<std::size_t>(num_resources_));
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  auto offer = [&](std::int32_t operation) {
    const auto i = static_cast<std::size_t>(operation);
    Bound bound;
    for (std::size_t d = first_dependency_[i]; d < first_dependency_[i + 1]; ++d) {
      const auto [other, sees_result] = dependencies_[d];
      const auto o = static_cast<std::size_t>(other);
      bound.raise(schedule[o].end_seconds + (sees_result ? operations_[o].latency_seconds : 0), other);
    }
    bound.seconds += operations_[i].startup_seconds;
    double waits_since = 0;
    for (const std::int32_t number : queues_of(i)) {
      if (number >= 0) {
        const Bound& queue = queues[static_cast<std::size_t>(number)];
        bound.raise(queue.seconds, queue.by);
        waits_since = std::max(waits_since, queue.seconds);
      }
    }
    schedule[i] = {bound.seconds, bound.seconds, bound.by};
    candidates.push({bound.seconds, waits_since, operation});
  };
  for (std::size_t i = 0; i < n; ++i) {
    if (waits_for[i] == 0) {
      offer(static_cast<std::int32_t>(i));
    }
  }
  while (!candidates.empty()) {
    const Candidate candidate = candidates.top();
    candidates.pop();
    const auto i = static_cast<std::size_t>(candidate.operation);
    const Operation& operation = operations_[i];
    Scheduled& scheduled = schedule[i];
    Bound free{candidate.start_seconds, scheduled.bound_by};
    for (const std::int32_t number : operation.resources) {
      if (number >= 0) {
        const Bound& resource = resources[static_cast<std::size_t>(number)];
        free.raise(resource.seconds, resource.by);
      }
    }
    if (free.seconds > candidate.start_seconds) {
      scheduled.start_seconds = free.seconds;
      scheduled.bound_by = free.by;
      candidates.push({free.seconds, candidate.waits_since_seconds, candidate.operation});
      continue;
    }
    for (const std::int32_t number : operation.resources) {
      if (number >= 0) {
        resources[static_cast<std::size_t>(number)] = {candidate.start_seconds + operation.busy_seconds,
                                                       candidate.operation};
      }
    }
    scheduled.end_seconds = scheduled.start_seconds + operation.busy_seconds;
    for (const std::int32_t queue : queues_of(i)) {
      if (queue >= 0) {
        queues[static_cast<std::size_t>(queue)] = {scheduled.end_seconds, candidate.operation};
      }
    }
    auto release = [&](std::int32_t other) {
      if (other >= 0 && --waits_for[static_cast<std::size_t>(other)] == 0) {
        offer(other);
      }
    };
    release(followers[i * kMostQueues]);
    release(followers[i * kMostQueues + 1]);
    for (std::size_t s = successors.first[i]; s < successors.first[i + 1]; ++s) {
      release(successors.list[s]);
    }
  }
  return schedule;
}

}  // namespace trn::emu
