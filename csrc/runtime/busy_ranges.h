// Stretches of simulated time in which something ran, joined where they touch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

namespace trn::runtime {

class BusyRanges {
 public:
  void add(std::int64_t start, std::int64_t end) {
    if (end <= start) {
      return;
    }
    if (!ranges_.empty()) {  // mostly the last one goes on
      auto last = std::prev(ranges_.end());
      if (start >= last->first && start <= last->second) {
        last->second = std::max(last->second, end);
        return;
      }
    }
    auto it = ranges_.upper_bound(start);
    if (it != ranges_.begin() && std::prev(it)->second >= start) {
      --it;
      start = it->first;
    }
    while (it != ranges_.end() && it->first <= end) {
      end = std::max(end, it->second);
      it = ranges_.erase(it);
    }
    ranges_.emplace(start, end);
  }
  // How much of [start, end) lies in the ranges.
  std::int64_t covered(std::int64_t start, std::int64_t end) const {
    std::int64_t sum = 0;
    auto it = ranges_.upper_bound(start);
    if (it != ranges_.begin()) {
      --it;
    }
    for (; it != ranges_.end() && it->first < end; ++it) {
      sum += std::max<std::int64_t>(0, std::min(end, it->second) - std::max(start, it->first));
    }
    return sum;
  }
  // visit(start, end) for each stretch of [start, end) outside the ranges.
  template <class Visit>
  void for_each_gap(std::int64_t start, std::int64_t end, Visit&& visit) const {
    auto it = ranges_.upper_bound(start);
    if (it != ranges_.begin() && std::prev(it)->second > start) {
      start = std::prev(it)->second;
    }
    for (; it != ranges_.end() && it->first < end; ++it) {
      visit(start, it->first);
      start = it->second;
    }
    if (start < end) {
      visit(start, end);
    }
  }
  void forget_before(std::int64_t time) {
    while (!ranges_.empty() && ranges_.begin()->second < time) {
      ranges_.erase(ranges_.begin());
    }
  }
  void clear() { ranges_.clear(); }

 private:
  std::map<std::int64_t, std::int64_t> ranges_;  // start -> end
};

}  // namespace trn::runtime
