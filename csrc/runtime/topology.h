// Where the ranks of a job are: devices on chips, chips on links, instances on a network, as the target file has them.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "target/target.h"

namespace trn::runtime {

// Rank -> device of the job's system. Devices are numbered along a chip, then chip by chip, then instance by instance.
struct Placement {
  enum class Order : std::uint8_t {
    linear,       // rank r on device r
    round_robin,  // consecutive ranks on consecutive chips
    listed        // rank r on devices[r]
  };
  std::int64_t world_size = 1;
  std::string instance;  // empty: the smallest system of the target that holds the job
  Order order = Order::linear;
  std::vector<std::int64_t> devices;
  auto operator<=>(const Placement&) const = default;
};

struct Location {
  std::int64_t instance = 0;
  std::int64_t chip = 0;    // within the instance
  std::int64_t device = 0;  // within the chip
  auto operator<=>(const Location&) const = default;
};

class Topology {
 public:
  // Raises when the target has no such system, or the placement does not fit it.
  Topology(std::shared_ptr<const target::Target> target, Placement placement);

  const target::Target& target() const { return *target_; }
  const Placement& placement() const { return placement_; }
  const target::Instance& instance() const { return *instance_; }
  std::int64_t num_instances() const { return num_instances_; }
  Location locate(std::int64_t rank) const;
  // Ranks of the whole job on a chip.
  std::int64_t ranks_on(const Location& chip) const;
  // Chips sorted by this are neighbours in a ring: rows of a torus to and fro.
  std::int64_t ring_position(std::int64_t chip) const;

  // Directed links of one instance are numbered. visit(link, share) for those on the way from chip to chip: dimension
  // by dimension, the shorter way round; half each where both are as long. Returns the seconds of all hops.
  template <class Visit>
  double walk(std::int64_t from, std::int64_t to, Visit&& visit) const;
  std::int64_t num_links() const { return instance_->num_chips * links_per_chip_; }
  double link_bytes_per_second(std::int64_t link) const;

  // Of the device, whatever lies between: raises where a chip's devices have no link.
  const target::Link& on_chip() const;
  // Between instances. Raises where the instance has none.
  const target::Link& network() const;
  // A rank's part of its chip's: the ranks of a chip talk at once.
  double network_bytes_per_second() const;

  // "16 ranks, linear, on trn2.48xlarge".
  std::string describe() const;

 private:
  // One dimension of an instance's links: chips `stride` apart, `size` of them.
  struct Dimension {
    const target::Link* link = nullptr;
    std::int64_t size = 1, stride = 1;
    std::int64_t first_link = 0;  // of a chip's
    bool is_ring = true;          // else any to any
    double bytes_per_second = 0;  // of one directed link
  };
  void add_dimensions(const target::Link& link, std::int64_t& stride);

  std::shared_ptr<const target::Target> target_;
  Placement placement_;
  const target::Instance* instance_ = nullptr;
  std::int64_t num_instances_ = 1;
  std::int64_t links_per_chip_ = 0;
  std::vector<Dimension> dimensions_;
  std::vector<std::int64_t> ranks_on_chip_;  // listed placements only
  std::int64_t most_ranks_on_chip_ = 1;
};

template <class Visit>
double Topology::walk(std::int64_t from, std::int64_t to, Visit&& visit) const {
  double seconds = 0;
  std::int64_t at = from;
  for (const auto& dimension : dimensions_) {
    const std::int64_t a = at / dimension.stride % dimension.size, b = to / dimension.stride % dimension.size;
    if (a == b) {
      continue;
    }
    const auto chip = [&](std::int64_t coordinate) { return at + (coordinate - a) * dimension.stride; };
    const auto link = [&](std::int64_t coordinate, std::int64_t direction) {
      return chip(coordinate) * links_per_chip_ + dimension.first_link + direction;
    };
    if (!dimension.is_ring) {
      visit(link(a, 0), 1.0);
      visit(link(b, 1), 1.0);
      seconds += dimension.link->latency_seconds;
    } else {
      const std::int64_t forward = (b - a + dimension.size) % dimension.size, backward = dimension.size - forward;
      const double share = forward == backward ? 0.5 : 1.0;
      if (forward <= backward) {
        for (std::int64_t step = 0; step < forward; ++step) {
          visit(link((a + step) % dimension.size, 0), share);
        }
      }
      if (backward <= forward) {
        for (std::int64_t step = 0; step < backward; ++step) {
          visit(link((a - step + dimension.size) % dimension.size, 1), share);
        }
      }
      seconds += static_cast<double>(forward < backward ? forward : backward) * dimension.link->latency_seconds;
    }
    at = chip(b);
  }
  return seconds;
}

}  // namespace trn::runtime
