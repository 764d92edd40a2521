#include "runtime/collective_model.h"

#include <algorithm>

#include "target/error.h"

namespace trn::runtime {

namespace {

// The ranks that take part, and what they do: of a message its two ends, the sender first.
std::pair<std::vector<int>, CollectiveShape> shape_of(const CollectiveCall& call) {
  const CollectiveKind kind = kind_of(call.op);
  const auto size = static_cast<int>(call.ranks.size());
  if (call.position < 0 || call.position >= size || call.root >= size || call.bytes < 0) {
    throw Error(Category::invalid_argument,
                "[collective] position and root must lie in the group, and bytes be no less than 0; got " +
                    std::to_string(call.position) + ", " + std::to_string(call.root) + " and " +
                    std::to_string(call.bytes) + ", limit " + std::to_string(size - 1) + ".");
  }
  if (kind != CollectiveKind::message) {
    return {call.ranks, {kind, call.bytes, std::max(call.root, 0)}};
  }
  const int root = call.root < 0 ? (call.position + 1) % size : call.root;  // from any rank: as from the next
  if (root == call.position) {
    return {{call.ranks[static_cast<std::size_t>(call.position)]}, {kind, call.bytes, 0}};
  }
  const int self = call.ranks[static_cast<std::size_t>(call.position)];
  const int peer = call.ranks[static_cast<std::size_t>(root)];
  const bool is_send = call.op.starts_with("send");
  return {is_send ? std::vector<int>{self, peer} : std::vector<int>{peer, self}, {kind, call.bytes, 0}};
}

}  // namespace

CollectiveModel::CollectiveModel(std::shared_ptr<const target::Target> target, const Placement& placement)
    : topology_(std::make_shared<Topology>(std::move(target), placement)) {}

std::shared_ptr<const Group> CollectiveModel::group(const std::vector<int>& ranks) {
  auto& known = groups_[ranks];
  if (!known) {
    known = std::make_shared<Group>(topology_, ranks);
  }
  return known;
}

CollectiveCost CollectiveModel::cost(const CollectiveCall& call) {
  const auto [ranks, shape] = shape_of(call);
  std::lock_guard lock(mutex_);
  const auto members = group(ranks);
  const auto [it, is_new] = costs_.try_emplace({members.get(), shape.kind, shape.bytes, shape.root});
  if (is_new) {
    it->second = members->cost(shape);
  }
  return it->second;
}

std::map<int, double> CollectiveModel::sent(const CollectiveCall& call) {
  const auto [ranks, shape] = shape_of(call);
  std::lock_guard lock(mutex_);
  const auto members = group(ranks);
  const int self = call.ranks[static_cast<std::size_t>(call.position)];
  const auto position = static_cast<int>(std::find(ranks.begin(), ranks.end(), self) - ranks.begin());
  std::map<int, double> out;
  for (const auto& [to, bytes] : members->sent_by(position, shape)) {
    out[ranks[static_cast<std::size_t>(to)]] += bytes;
  }
  return out;
}

}  // namespace trn::runtime
