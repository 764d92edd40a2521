// Costs of collectives for one target and placement, each distinct call computed once. Thread-safe.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "runtime/collective_cost.h"

namespace trn::runtime {

// A call as one rank of a group made it; `bytes` as in CollectiveShape. Of a message, `root` is the other end.
struct CollectiveCall {
  std::string op;  // c10d's name
  std::vector<int> ranks;
  int position = 0;  // this rank's in the group
  int root = -1;
  std::int64_t bytes = 0;
  auto operator<=>(const CollectiveCall&) const = default;
};

class CollectiveModel {
 public:
  CollectiveModel(std::shared_ptr<const target::Target> target, const Placement& placement);

  const Topology& topology() const { return *topology_; }
  CollectiveCost cost(const CollectiveCall& call);
  // Rank of the job -> bytes that this rank sends it by the algorithm.
  std::map<int, double> sent(const CollectiveCall& call);

 private:
  std::shared_ptr<const Group> group(const std::vector<int>& ranks);

  std::shared_ptr<const Topology> topology_;
  std::mutex mutex_;
  std::map<std::vector<int>, std::shared_ptr<const Group>> groups_;
  // Group, kind, bytes, root
  std::map<std::tuple<const Group*, CollectiveKind, std::int64_t, int>, CollectiveCost> costs_;
};

}  // namespace trn::runtime
