// What a collective costs: closed forms of topology, placement, ranks and bytes. docs/collectives.md derives them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/collective_algorithms.h"
#include "runtime/topology.h"

namespace trn::runtime {

enum class CollectiveKind : std::uint8_t {
  all_reduce,
  all_gather,
  reduce_scatter,
  broadcast,
  reduce,
  gather,
  scatter,
  all_to_all,
  message,  // send and recv
  barrier
};
// Of c10d's name, such as "all_gather_into_tensor". Raises for any other.
CollectiveKind kind_of(std::string_view op);

// One call, alike on every rank. `bytes`: the whole tensor of all_reduce, broadcast and reduce; the sum of all ranks'
// parts of all_gather, reduce_scatter, gather and scatter; what the busiest rank sends to (or gets from) all others of
// all_to_all; the message.
struct CollectiveShape {
  CollectiveKind kind = CollectiveKind::all_reduce;
  std::int64_t bytes = 0;
  int root = 0;  // by position in the group
};

struct CollectiveCost {
  std::string algorithm = "none";  // "rdh", "mesh, ring between 4 instances"
  std::int64_t steps = 0;
  double seconds = 0;
  double sent_bytes = 0;  // by the rank that sends most
  double hbm_bytes = 0;   // read and written by the rank that moves most
  double bus_bytes = 0;   // over seconds: bus_bandwidth
};

// The ranks of a group, where they are.
class Group {
 public:
  Group(std::shared_ptr<const Topology> topology, std::vector<int> ranks);

  const Topology& topology() const { return *topology_; }
  const std::vector<int>& ranks() const { return ranks_; }
  std::int64_t size() const { return static_cast<std::int64_t>(ranks_.size()); }
  CollectiveCost cost(const CollectiveShape& shape) const;
  // Bytes that the rank at `position` sends to others by the algorithm: (position, bytes), by position.
  std::vector<std::pair<int, double>> sent_by(int position, const CollectiveShape& shape) const;

 private:
  using Order = std::vector<int>;  // positions in ranks_
  enum class Scope : std::uint8_t {
    instance,  // the members of each instance, all instances at once
    network,   // those of the same place in each instance, all such columns at once
    remote,    // from each member to all of other instances
    rooted,    // all members in the order of `order`, the root first
    flat       // all members in ring order, wherever they are
  };
  struct Part {
    Scope scope = Scope::instance;
    Stage stage;
    bool is_reversed = false;  // who is said to send receives
  };
  struct Plan {
    std::string algorithm;
    std::vector<Part> parts;
    Order order;          // of rooted parts
    double at_least = 0;  // seconds of the largest call that a simpler algorithm serves
  };
  struct Time {
    double seconds = 0, sent_bytes = 0, hbm_bytes = 0;
    std::int64_t steps = 0;
    Time& operator+=(const Time& other);
  };

  Plan plan(const CollectiveShape& shape) const;
  Plan all_reduce(std::int64_t bytes) const;
  Plan halves(Half half, double bytes) const;
  // `made`, or where instances have unlike numbers of ranks one flat ring, if that is faster.
  Plan or_flat(Plan made, const std::vector<Half>& order, double bytes, double device_rate) const;
  Plan rooted(const CollectiveShape& shape) const;
  // By size, as documented: parts of one scope that together move n chunks, of `bytes` in all.
  Plan by_size(Scope scope, const std::vector<Half>& order, double bytes, double device_rate) const;
  Plan with(Algorithm algorithm, Scope scope, const std::vector<Half>& order, double bytes) const;
  std::int64_t members(Scope scope) const;

  Time time(const Plan& plan, double device_rate) const;
  Time time(const Part& part, const Plan& plan, double device_rate) const;
  Time time_of_flows(const Stage& stage, const Order& order, double device_rate) const;
  double device_rate(CollectiveKind kind) const;

  std::shared_ptr<const Topology> topology_;
  std::vector<int> ranks_;
  std::vector<Location> places_;       // by position
  Order ring_;                         // positions in ring order
  std::vector<Order> instances_;       // positions of each instance, by place
  std::vector<Order> rings_;           // the same in ring order
  std::vector<std::size_t> unlike_;    // of those with most members, each that differs
  std::size_t fewest_ = 0, most_ = 0;  // ranks on an instance
  double sharing_ = 1;                 // ranks of the job for each of the group's, on a chip
};

}  // namespace trn::runtime
