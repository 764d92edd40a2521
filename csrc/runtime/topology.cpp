#include "runtime/topology.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "target/error.h"
#include "target/integers.h"

namespace trn::runtime {

namespace {

[[noreturn]] void reject(const std::string& text) {
  throw Error(Category::invalid_argument, "[placement] " + text);
}

// A link of the network's kind, or nullptr.
const target::Link* network_of(const target::Instance& instance) {
  for (const auto& link : instance.links) {
    if (link.topology == "network") {
      return &link;
    }
  }
  return nullptr;
}

// Do the instance's own links reach all of its chips?
bool is_joined(const target::Instance& instance) {
  std::int64_t joined = 1;
  for (const auto& link : instance.links) {
    joined *= link.topology == "network" ? 1 : std::max<std::int64_t>(link.num_chips, 1);
  }
  return joined == instance.num_chips;
}

// The smallest that holds `num_devices`, else the largest that a network joins; of equal ones the file's first.
const target::Instance* smallest(const target::Target& target, std::int64_t num_devices) {
  const target::Instance *fits = nullptr, *largest = nullptr;
  for (const auto& instance : target.instances) {
    if (!is_joined(instance)) {
      continue;
    }
    if (instance.num_chips * target.chip.num_devices >= num_devices &&
        (!fits || instance.num_chips < fits->num_chips)) {
      fits = &instance;
    }
    if (network_of(instance) && (!largest || instance.num_chips > largest->num_chips)) {
      largest = &instance;
    }
  }
  return fits ? fits : largest;
}

std::string names(const target::Target& target) {
  std::string out;
  for (const auto& instance : target.instances) {
    out += (out.empty() ? "" : ", ") + instance.name;
  }
  return out.empty() ? "none" : out;
}

}  // namespace

Topology::Topology(std::shared_ptr<const target::Target> target, Placement placement)
    : target_(std::move(target)), placement_(std::move(placement)) {
  const std::int64_t world_size = placement_.world_size, per_chip = target_->chip.num_devices;
  std::int64_t num_devices = world_size;
  if (placement_.order == Placement::Order::listed) {
    const auto& devices = placement_.devices;
    if (static_cast<std::int64_t>(devices.size()) < world_size) {
      reject("must name a device for every rank; got " + std::to_string(devices.size()) + " devices, limit " +
             std::to_string(world_size) + " ranks. List one for each.");
    }
    if (std::set<std::int64_t>(devices.begin(), devices.end()).size() != devices.size() ||
        *std::min_element(devices.begin(), devices.end()) < 0) {
      reject("must give each rank a device of its own, counted from 0; got one twice or below 0. Correct the list.");
    }
    num_devices = *std::max_element(devices.begin(), devices.end()) + 1;
  }
  if (placement_.instance.empty()) {
    instance_ = smallest(*target_, num_devices);
    if (!instance_) {
      reject("the target must have a system for all devices of the job; got " + std::to_string(num_devices) +
             " devices on " + target_->name + ", whose instances no network joins: " + names(*target_) +
             ". Add one to a target file of your own.");
    }
  } else {
    for (const auto& instance : target_->instances) {
      if (instance.name == placement_.instance) {
        instance_ = &instance;
      }
    }
    if (!instance_) {
      reject("instance must be one of " + target_->name + "'s; got " + placement_.instance + ", limit " +
             names(*target_) + ". Name one of these, or none for the smallest that holds the job.");
    }
  }
  const std::int64_t capacity = instance_->num_chips * per_chip;
  num_instances_ = target::ceil_div(num_devices, capacity);
  if (num_instances_ > 1) {
    network();
  }
  std::int64_t stride = 1;
  for (const auto& link : instance_->links) {
    if (link.topology != "network") {
      add_dimensions(link, stride);
    }
  }
  if (stride != instance_->num_chips && num_devices > per_chip) {
    throw Error(Category::invalid_argument, "[topology] the links of an instance must join its chips; got " +
                                                std::to_string(stride) + " of " + instance_->name + ", limit " +
                                                std::to_string(instance_->num_chips) +
                                                ". Correct num_chips of its links in the target file.");
  }
  if (placement_.order == Placement::Order::listed) {
    ranks_on_chip_.assign(static_cast<std::size_t>(num_instances_ * instance_->num_chips), 0);
    for (std::int64_t rank = 0; rank < world_size; ++rank) {
      ++ranks_on_chip_[static_cast<std::size_t>(placement_.devices[static_cast<std::size_t>(rank)] / per_chip)];
    }
    most_ranks_on_chip_ = *std::max_element(ranks_on_chip_.begin(), ranks_on_chip_.end());
  } else {
    most_ranks_on_chip_ = ranks_on(Location{});
  }
}

void Topology::add_dimensions(const target::Link& link, std::int64_t& stride) {
  const bool is_torus = link.topology == "torus_2d", is_ring = is_torus || link.topology == "ring";
  std::vector<std::int64_t> sizes{link.num_chips};
  if (is_torus) {  // as square as possible
    auto rows = static_cast<std::int64_t>(std::sqrt(static_cast<double>(link.num_chips)));
    while (link.num_chips % rows) {
      --rows;
    }
    sizes = {link.num_chips / rows, rows};
  }
  for (const std::int64_t size : sizes) {
    // A chip has two directed links out of it per ring, or one out and one in.
    const double links_out = is_ring ? 2.0 * static_cast<double>(sizes.size()) : 1.0;
    dimensions_.push_back({&link, size, stride, links_per_chip_, is_ring, link.bytes_per_second / links_out});
    links_per_chip_ += 2;
    stride *= size;
  }
}

Location Topology::locate(std::int64_t rank) const {
  if (rank < 0 || rank >= placement_.world_size) {
    reject("ranks must be of the job; got rank " + std::to_string(rank) + ", limit " +
           std::to_string(placement_.world_size - 1) + ".");
  }
  const std::int64_t per_chip = target_->chip.num_devices;
  std::int64_t device = rank;
  if (placement_.order == Placement::Order::listed) {
    device = placement_.devices[static_cast<std::size_t>(rank)];
  } else if (placement_.order == Placement::Order::round_robin) {
    const std::int64_t chips = target::ceil_div(placement_.world_size, per_chip);
    device = rank % chips * per_chip + rank / chips;
  }
  const std::int64_t chip = device / per_chip;
  return {chip / instance_->num_chips, chip % instance_->num_chips, device % per_chip};
}

std::int64_t Topology::ranks_on(const Location& place) const {
  const std::int64_t per_chip = target_->chip.num_devices, world_size = placement_.world_size;
  const std::int64_t chip = place.instance * instance_->num_chips + place.chip;
  switch (placement_.order) {
    case Placement::Order::listed:
      return ranks_on_chip_.at(static_cast<std::size_t>(chip));
    case Placement::Order::round_robin: {
      const std::int64_t chips = target::ceil_div(world_size, per_chip);
      return target::ceil_div(world_size - chip, chips);
    }
    default:
      return std::clamp<std::int64_t>(world_size - chip * per_chip, 0, per_chip);
  }
}

std::int64_t Topology::ring_position(std::int64_t chip) const {
  std::int64_t position = 0;
  bool back = false;
  for (auto it = dimensions_.rbegin(); it != dimensions_.rend(); ++it) {
    const std::int64_t coordinate = chip / it->stride % it->size;
    position = position * it->size + (back ? it->size - 1 - coordinate : coordinate);
    back = it->is_ring && position % 2 == 1;
  }
  return position;
}

double Topology::link_bytes_per_second(std::int64_t link) const {
  return dimensions_[static_cast<std::size_t>(link % links_per_chip_ / 2)].bytes_per_second;
}

const target::Link& Topology::on_chip() const {
  if (target_->chip.links.empty()) {
    throw Error(Category::invalid_argument, "[topology] a chip must have a link between its devices; got none on " +
                                                target_->name + ". Add a [[chip.link]] to the target file.");
  }
  return target_->chip.links.front();
}

const target::Link& Topology::network() const {
  if (const auto* link = network_of(*instance_)) {
    return *link;
  }
  throw Error(Category::invalid_argument,
              "[placement] a job of several instances needs a network between them; got " +
                  std::to_string(placement_.world_size) + " ranks on " + instance_->name + ", limit " +
                  std::to_string(instance_->num_chips * target_->chip.num_devices) +
                  ". Choose a larger instance, or add a link of topology network to the target file.");
}

double Topology::network_bytes_per_second() const {
  return network().bytes_per_second / static_cast<double>(most_ranks_on_chip_);
}

std::string Topology::describe() const {
  static constexpr const char* kOrders[] = {"linear", "round-robin", "listed"};
  const std::int64_t ranks = placement_.world_size;
  return std::to_string(ranks) + (ranks == 1 ? " rank, " : " ranks, ") + kOrders[static_cast<int>(placement_.order)] +
         ", on " + (num_instances_ > 1 ? std::to_string(num_instances_) + " x " : "") + instance_->name;
}

}  // namespace trn::runtime
