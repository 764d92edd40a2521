#include "runtime/collective_cost.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "target/error.h"

namespace trn::runtime {

namespace {

bool is_power_of_two(std::int64_t n) {
  return n > 0 && (n & (n - 1)) == 0;
}

double largest(const std::vector<double>& values) {
  return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}

// Copies straight from source to destination, and sums, which read what they add to. No document counts these.
constexpr double kCopyTouches = 2, kReduceTouches = 6;

}  // namespace

CollectiveKind kind_of(std::string_view op) {
  using enum CollectiveKind;
  static const std::pair<std::string_view, CollectiveKind> kPrefixes[] = {
      {"all_reduce", all_reduce}, {"all_gather", all_gather}, {"reduce_scatter", reduce_scatter},
      {"broadcast", broadcast},   {"reduce", reduce},         {"gather", gather},
      {"scatter", scatter},       {"all_to_all", all_to_all}, {"send", message},
      {"recv", message},          {"barrier", barrier},       {"monitored_barrier", barrier}};
  for (const auto& [prefix, kind] : kPrefixes) {
    if (op.starts_with(prefix)) {
      return kind;
    }
  }
  throw Error(Category::invalid_argument,
              "[collective] the operation must be one of c10d's; got " + std::string(op) + ".");
}

Group::Time& Group::Time::operator+=(const Time& other) {
  seconds += other.seconds;
  sent_bytes += other.sent_bytes;
  hbm_bytes += other.hbm_bytes;
  steps += other.steps;
  return *this;
}

Group::Group(std::shared_ptr<const Topology> topology, std::vector<int> ranks)
    : topology_(std::move(topology)), ranks_(std::move(ranks)) {
  std::map<std::int64_t, Order> by_instance;
  std::map<Location, std::int64_t> on_chip;
  for (const int rank : ranks_) {
    const Location place = topology_->locate(rank);
    by_instance[place.instance].push_back(static_cast<int>(places_.size()));
    ++on_chip[{place.instance, place.chip, 0}];
    places_.push_back(place);
  }
  for (const auto& [chip, count] : on_chip) {
    sharing_ = std::max(sharing_, static_cast<double>(topology_->ranks_on(chip)) / static_cast<double>(count));
  }
  fewest_ = ranks_.size();
  for (const auto& [instance, order] : by_instance) {
    fewest_ = std::min(fewest_, order.size());
    most_ = std::max(most_, order.size());
  }
  std::set<std::vector<Location>> seen;
  for (auto& [instance, order] : by_instance) {
    std::sort(order.begin(), order.end(), [&](int a, int b) { return places_[a] < places_[b]; });
    std::vector<Location> local;
    for (const int position : order) {
      local.push_back({0, places_[position].chip, places_[position].device});
    }
    if (order.size() == most_ && seen.insert(std::move(local)).second) {
      unlike_.push_back(instances_.size());
    }
    Order ring = order;
    std::stable_sort(ring.begin(), ring.end(), [&](int a, int b) {
      return topology_->ring_position(places_[a].chip) < topology_->ring_position(places_[b].chip);
    });
    ring_.insert(ring_.end(), ring.begin(), ring.end());
    instances_.push_back(std::move(order));
    rings_.push_back(std::move(ring));
  }
}

std::int64_t Group::members(Scope scope) const {
  switch (scope) {
    case Scope::instance:
      return static_cast<std::int64_t>(most_);
    case Scope::network:
      return static_cast<std::int64_t>(instances_.size());
    default:
      return size();
  }
}

double Group::device_rate(CollectiveKind kind) const {
  const auto& rates = topology_->target().collectives;
  switch (kind) {
    case CollectiveKind::all_reduce:
    case CollectiveKind::barrier:
      return rates.all_reduce_bytes_per_second;
    case CollectiveKind::reduce_scatter:
    case CollectiveKind::reduce:
      return rates.reduce_scatter_bytes_per_second;
    default:
      return topology_->on_chip().bytes_per_second;
  }
}

// ---- Plans

Group::Plan Group::with(Algorithm algorithm, Scope scope, const std::vector<Half>& order, double bytes) const {
  const std::int64_t n = members(scope);
  Plan plan{runtime::name(algorithm), {}, {}, 0};
  for (const Half half : order) {
    for (const auto& stage : stages(algorithm, half, n, bytes / static_cast<double>(n))) {
      plan.parts.push_back({scope, stage, false});
    }
  }
  return plan;
}

Group::Plan Group::by_size(Scope scope, const std::vector<Half>& order, double bytes, double rate) const {
  const std::int64_t n = members(scope);
  const auto& limits = topology_->target().collectives;
  const auto choose = [&](double size) {
    const Algorithm rings = n % 2 == 0 && scope == Scope::instance ? Algorithm::kangaring : Algorithm::ring;
    return with(size <= static_cast<double>(limits.mesh_max_bytes)                        ? Algorithm::mesh
                : size <= static_cast<double>(limits.rdh_max_bytes) && is_power_of_two(n) ? Algorithm::rdh
                                                                                          : rings,
                scope, order, size);
  };
  if (n == 1) {
    return {};
  }
  Plan plan = choose(bytes);
  for (const std::int64_t limit : {limits.mesh_max_bytes, limits.rdh_max_bytes}) {
    if (bytes > static_cast<double>(limit)) {
      plan.at_least = std::max(plan.at_least, time(choose(static_cast<double>(limit)), rate).seconds);
    }
  }
  if (order.size() == 2 && bytes <= static_cast<double>(limits.mesh_max_bytes)) {
    // Everyone sends all of it to everyone: a hop less, for more bytes.
    Plan one{runtime::name(Algorithm::single_step_mesh), {}, {}, 0};
    one.parts.push_back({scope, {Pattern::all_pairs, 1, bytes, 1, kReduceTouches}, false});
    if (time(one, rate).seconds < time(plan, rate).seconds) {
      return one;
    }
  }
  return plan;
}

namespace {

std::string between(const std::string& local, const std::string& network, std::size_t instances) {
  return local + (local.empty() ? "" : ", ") + network + " between " + std::to_string(instances) + " instances";
}

}  // namespace

Group::Plan Group::halves(Half half, double bytes) const {
  const double rate = device_rate(half == Half::gather ? CollectiveKind::all_gather : CollectiveKind::reduce_scatter);
  if (instances_.size() == 1) {
    return by_size(Scope::instance, {half}, bytes, rate);
  }
  Plan local = by_size(Scope::instance, {half}, bytes, rate);
  Plan across = by_size(Scope::network, {half}, bytes / static_cast<double>(fewest_), rate);
  const std::string label = between(local.algorithm, across.algorithm, instances_.size());
  Plan &first = half == Half::gather ? across : local, &second = half == Half::gather ? local : across;
  // A limit applies to its own parts.
  const double at_least =
      std::max(first.at_least, time(first, rate).seconds) + std::max(second.at_least, time(second, rate).seconds);
  first.parts.insert(first.parts.end(), second.parts.begin(), second.parts.end());
  first.algorithm = label;
  first.at_least = at_least;
  return or_flat(first, {half}, bytes, rate);
}

Group::Plan Group::or_flat(Plan made, const std::vector<Half>& order, double bytes, double rate) const {
  if (fewest_ == most_) {
    return made;
  }
  Plan flat = with(Algorithm::ring, Scope::flat, order, bytes);
  return time(flat, rate).seconds < std::max(time(made, rate).seconds, made.at_least) ? flat : made;
}

Group::Plan Group::all_reduce(std::int64_t all_bytes) const {
  const double rate = device_rate(CollectiveKind::all_reduce), bytes = static_cast<double>(all_bytes);
  const std::vector<Half> both{Half::scatter, Half::gather};
  if (instances_.size() == 1) {
    return by_size(Scope::instance, both, bytes, rate);
  }
  const Plan scatter = by_size(Scope::instance, {Half::scatter}, bytes, rate),
             gather = by_size(Scope::instance, {Half::gather}, bytes, rate),
             across = by_size(Scope::network, both, bytes / static_cast<double>(fewest_), rate);
  Plan plan{between(scatter.algorithm, across.algorithm, instances_.size()), {}, {}, 0};
  for (const auto* part : {&scatter, &across, &gather}) {
    plan.parts.insert(plan.parts.end(), part->parts.begin(), part->parts.end());
    plan.at_least += std::max(part->at_least, time(*part, rate).seconds);
  }
  return or_flat(std::move(plan), both, bytes, rate);
}

Group::Plan Group::rooted(const CollectiveShape& shape) const {
  using enum CollectiveKind;
  const auto kind = shape.kind;
  const double n = static_cast<double>(size()), rate = device_rate(kind), bytes = static_cast<double>(shape.bytes);
  const bool to_root = kind == reduce || kind == gather;
  const double touches = kind == reduce ? kReduceTouches : kCopyTouches;
  Order order = ring_;  // from the root on
  std::rotate(order.begin(), std::find(order.begin(), order.end(), shape.root), order.end());
  const double to_each = kind == gather || kind == scatter ? bytes / n : bytes;
  Plan direct{runtime::name(Algorithm::direct), {}, order, 0};
  direct.parts.push_back({Scope::rooted, {Pattern::fan_out, 1, to_each, 1, touches}, to_root});
  if (kind == gather || kind == scatter || kind == message) {
    return direct;
  }
  Plan ring{runtime::name(Algorithm::ring), {}, order, 0}, tree{runtime::name(Algorithm::tree), {}, order, 0};
  ring.parts.push_back({Scope::rooted, {Pattern::chain, size() - 1, bytes, 1, touches}, to_root});
  for (std::int64_t mask = 1; mask < size(); mask *= 2) {
    tree.parts.push_back({Scope::rooted, {Pattern::doubling, 1, bytes, mask, touches}, to_root});
  }
  const Plan* best = &direct;
  for (const Plan* other : {&tree, &ring}) {
    best = time(*other, rate).seconds < time(*best, rate).seconds ? other : best;
  }
  return *best;
}

Group::Plan Group::plan(const CollectiveShape& shape) const {
  switch (shape.kind) {
    case CollectiveKind::all_reduce:
    case CollectiveKind::barrier:
      return all_reduce(shape.bytes);
    case CollectiveKind::all_gather:
      return halves(Half::gather, static_cast<double>(shape.bytes));
    case CollectiveKind::reduce_scatter:
      return halves(Half::scatter, static_cast<double>(shape.bytes));
    case CollectiveKind::all_to_all: {
      const double each = static_cast<double>(shape.bytes) / static_cast<double>(size() - 1);
      Plan plan{runtime::name(Algorithm::mesh), {}, {}, 0};
      if (std::any_of(instances_.begin(), instances_.end(), [](const Order& order) { return order.size() > 1; })) {
        plan.parts.push_back({Scope::instance, {Pattern::all_pairs, 1, each, 1, kCopyTouches}, false});
      }
      if (instances_.size() > 1) {
        plan.parts.push_back({Scope::remote, {Pattern::all_pairs, 1, each, 1, kCopyTouches}, false});
        plan.algorithm = between(plan.parts.size() > 1 ? plan.algorithm : "", "direct", instances_.size());
      }
      return plan;
    }
    default:
      return rooted(shape);
  }
}

// ---- Time

Group::Time Group::time_of_flows(const Stage& stage, const Order& order, double rate) const {
  const std::int64_t n = num_taking_part(stage, static_cast<std::int64_t>(order.size()));
  const auto members = static_cast<std::size_t>(n);
  std::vector<double> sent(members), received(members), away(members), home(members);
  std::map<std::int64_t, std::size_t> first_load;
  for (std::size_t i = 0; i < members; ++i) {
    first_load.try_emplace(places_[order[i]].instance, 0);
  }
  std::size_t num_loads = 0;
  for (auto& [instance, first] : first_load) {
    first = num_loads;
    num_loads += static_cast<std::size_t>(topology_->num_links());
  }
  std::vector<double> loads(num_loads);
  double latency = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const Location& from = places_[order[i]];
    const std::size_t first = first_load[from.instance];
    for_each_peer(stage, i, n, [&](std::int64_t j) {
      const Location& to = places_[order[j]];
      sent[i] += stage.bytes;
      received[j] += stage.bytes;
      double hops = 0;
      if (from.instance != to.instance) {
        away[i] += stage.bytes;
        home[j] += stage.bytes;
        hops = topology_->network().latency_seconds;
      } else if (from.chip == to.chip) {
        hops = topology_->on_chip().latency_seconds;
      } else {
        hops = topology_->walk(from.chip, to.chip, [&](std::int64_t link, double share) {
          loads[first + static_cast<std::size_t>(link)] += share * stage.bytes;
        });
      }
      latency = std::max(latency, hops);
    });
  }
  const double busiest = std::max(largest(sent), largest(received));
  double seconds = busiest / rate;
  for (std::size_t link = 0; link < num_loads; ++link) {
    if (loads[link] > 0) {
      const auto local = static_cast<std::int64_t>(link) % topology_->num_links();
      seconds = std::max(seconds, sharing_ * loads[link] / topology_->link_bytes_per_second(local));
    }
  }
  if (const double network = std::max(largest(away), largest(home)); network > 0) {
    seconds = std::max(seconds, network / topology_->network_bytes_per_second());
  }
  seconds = std::max(seconds, stage.hbm_touches * busiest / topology_->target().device.hbm_bytes_per_second);
  return {static_cast<double>(stage.steps) * latency + seconds, largest(sent), stage.hbm_touches * busiest,
          stage.steps};
}

Group::Time Group::time(const Part& part, const Plan& plan, double rate) const {
  const bool is_round = part.stage.pattern == Pattern::next || part.stage.pattern == Pattern::both;
  switch (part.scope) {
    case Scope::instance: {
      Time slowest;
      for (const std::size_t i : unlike_) {
        const Time one = time_of_flows(part.stage, is_round ? rings_[i] : instances_[i], rate);
        slowest = one.seconds > slowest.seconds ? one : slowest;
      }
      return slowest;
    }
    case Scope::network:
    case Scope::remote: {
      double sent = sent_bytes(part.stage, members(part.scope));
      if (part.scope == Scope::remote) {
        sent = part.stage.bytes * static_cast<double>(ranks_.size() - fewest_);
      }
      const double hbm = part.stage.hbm_touches * sent;
      return {static_cast<double>(part.stage.steps) * topology_->network().latency_seconds +
                  std::max(sent / std::min(rate, topology_->network_bytes_per_second()),
                           hbm / topology_->target().device.hbm_bytes_per_second),
              sent, hbm, part.stage.steps};
    }
    case Scope::rooted:
      return time_of_flows(part.stage, plan.order, rate);
    default:
      return time_of_flows(part.stage, ring_, rate);
  }
}

Group::Time Group::time(const Plan& plan, double rate) const {
  Time total;
  for (const auto& part : plan.parts) {
    total += time(part, plan, rate);
  }
  return total;
}

CollectiveCost Group::cost(const CollectiveShape& shape) const {
  CollectiveCost cost;
  if (size() < 2) {
    return cost;
  }
  const Plan made = plan(shape);
  const Time total = time(made, device_rate(shape.kind));
  const double n = static_cast<double>(size()), bytes = static_cast<double>(shape.bytes);
  cost.algorithm = made.algorithm;
  cost.steps = total.steps;
  cost.seconds = topology_->target().collectives.start_seconds + std::max(total.seconds, made.at_least);
  cost.sent_bytes = total.sent_bytes;
  cost.hbm_bytes = total.hbm_bytes;
  switch (shape.kind) {
    case CollectiveKind::all_reduce:
      cost.bus_bytes = 2 * bytes * (n - 1) / n;
      break;
    case CollectiveKind::all_gather:
    case CollectiveKind::reduce_scatter:
    case CollectiveKind::gather:
    case CollectiveKind::scatter:
      cost.bus_bytes = bytes * (n - 1) / n;
      break;
    default:
      cost.bus_bytes = bytes;
  }
  return cost;
}

std::vector<std::pair<int, double>> Group::sent_by(int position, const CollectiveShape& shape) const {
  std::map<int, double> sent;
  if (size() < 2) {
    return {};
  }
  const Plan made = plan(shape);
  const auto within = [&](const Part& part, const Order& order) {
    const auto n = static_cast<std::int64_t>(order.size());
    const auto self = std::find(order.begin(), order.end(), position) - order.begin();
    for (std::int64_t from = part.is_reversed ? 0 : self; from < (part.is_reversed ? n : self + 1); ++from) {
      for_each_peer(part.stage, from, n, [&](std::int64_t to) {
        if (to >= n) {
          return;  // of an instance with fewer ranks
        }
        if (!part.is_reversed) {
          sent[order[to]] += part.stage.bytes;
        } else if (to == self) {
          sent[order[from]] += part.stage.bytes;
        }
      });
    }
  };
  std::size_t instance = 0, place = 0;
  for (std::size_t i = 0; i < instances_.size(); ++i) {
    const auto found = std::find(instances_[i].begin(), instances_[i].end(), position);
    if (found != instances_[i].end()) {
      instance = i;
      place = static_cast<std::size_t>(found - instances_[i].begin());
    }
  }
  for (const auto& part : made.parts) {
    const bool is_round = part.stage.pattern == Pattern::next || part.stage.pattern == Pattern::both;
    switch (part.scope) {
      case Scope::instance:
        within(part, is_round ? rings_[instance] : instances_[instance]);
        break;
      case Scope::network: {
        Order column;
        for (const auto& order : instances_) {
          if (place < order.size()) {
            column.push_back(order[place]);
          }
        }
        within(part, column);
        break;
      }
      case Scope::remote:
        for (std::size_t i = 0; i < instances_.size(); ++i) {
          for (const int to : instances_[i]) {
            if (i != instance) {
              sent[to] += part.stage.bytes;
            }
          }
        }
        break;
      case Scope::rooted:
        within(part, made.order);
        break;
      default:
        within(part, ring_);
    }
  }
  return {sent.begin(), sent.end()};
}

}  // namespace trn::runtime
