#include "runtime/collectives.h"

namespace trn::runtime {

void CollectiveLog::open(int profile) {
  std::lock_guard lock(mutex_);
  open_[profile] = counts_;
}

std::map<Collective, std::int64_t> CollectiveLog::close(int profile) {
  std::lock_guard lock(mutex_);
  std::map<Collective, std::int64_t> seen;
  const auto begin = open_.extract(profile);
  for (const auto& [collective, count] : counts_) {
    const auto before = begin.mapped().find(collective);
    if (const std::int64_t more = count - (before == begin.mapped().end() ? 0 : before->second)) {
      seen[collective] = more;
    }
  }
  if (open_.empty()) {
    counts_.clear();
  }
  return seen;
}

void CollectiveLog::add(const Collective& collective) {
  std::lock_guard lock(mutex_);
  if (!open_.empty()) {
    ++counts_[collective];
  }
}

CollectiveLog& collective_log() {
  static auto* log = new CollectiveLog();  // leaked: groups may outlive static destruction
  return *log;
}

}  // namespace trn::runtime
