#include "runtime/collectives.h"

#include <algorithm>
#include <iterator>

namespace trn::runtime {

CollectiveRecord CollectiveRecord::of_device(int device) const {
  CollectiveRecord own;
  std::ranges::copy_if(totals, std::inserter(own.totals, own.totals.end()),
                       [&](const auto& total) { return total.first.device == device; });
  for (Event event : timeline) {
    if (event.call->device == device) {
      event.call = &own.totals.find(*event.call)->first;
      own.timeline.push_back(event);
    }
  }
  for (const auto& [name, call] : named) {
    if (call->device == device) {
      own.named[name] = &own.totals.find(*call)->first;
    }
  }
  for (const auto& [sum, into] : {std::pair{&exposed, &own.exposed}, std::pair{&held_up, &own.held_up}}) {
    if (const auto found = sum->find(device); found != sum->end()) {
      into->insert(*found);
    }
  }
  return own;
}

std::uint32_t Collectives::add_group(const std::string& name, std::vector<int> ranks) {
  std::lock_guard lock(mutex_);
  const std::pair<std::string, std::vector<int>> group{name, std::move(ranks)};
  const auto known = std::find(groups_.begin(), groups_.end(), group);
  if (known != groups_.end()) {
    return static_cast<std::uint32_t>(known - groups_.begin());
  }
  // A group whose job nobody announced is at least as large as its ranks say.
  const std::int64_t least = group.second.empty() ? 1 : *std::max_element(group.second.begin(), group.second.end()) + 1;
  if (least > placement_.world_size) {
    placement_.world_size = least;
    model_.reset();
  }
  groups_.push_back(group);
  return static_cast<std::uint32_t>(groups_.size() - 1);
}

std::string Collectives::group_name(std::uint32_t group) {
  std::lock_guard lock(mutex_);
  return groups_.at(group).first;
}

std::vector<int> Collectives::group_ranks(std::uint32_t group) {
  std::lock_guard lock(mutex_);
  return groups_.at(group).second;
}

void Collectives::set_world_size(std::int64_t world_size) {
  std::lock_guard lock(mutex_);
  placement_.world_size = world_size;
  model_.reset();
}

void Collectives::set_placement(const target::Target* target, Placement placement) {
  if (target) {
    const Topology checked(std::make_shared<target::Target>(*target), placement);
  }
  std::lock_guard lock(mutex_);
  placement_ = std::move(placement);
  model_.reset();
}

Placement Collectives::placement() {
  std::lock_guard lock(mutex_);
  return placement_;
}

std::shared_ptr<CollectiveModel> Collectives::model(System& system) {
  const auto target = system.target();
  std::lock_guard lock(mutex_);
  if (!model_ || model_target_ != target) {
    model_ = std::make_shared<CollectiveModel>(target, placement_);
    model_target_ = target;
  }
  return model_;
}

Flight Collectives::issue(System& system, Collective call, int compute_stream, int tag) {
  Clock& clock = system.device(call.device).clock;
  Flight flight{std::move(call), 0, {}};
  flight.arrival = clock.arrive(compute_stream, tag);
  std::lock_guard lock(mutex_);
  if (!open_.empty()) {
    flight.number = next_number_++;
    Issued& issued = issued_[flight.number] = {flight.call, {}, flight.arrival.time};
    for (const auto& [profile, open] : open_) {
      issued.profiles.insert(profile);
    }
  }
  clock.keep_busy_since(open_.empty() && issued_.empty() ? flight.arrival.time : 0);
  return flight;
}

Moment Collectives::finish(System& system, const Flight& flight, Picoseconds latest) {
  const Collective& call = flight.call;
  Clock& clock = system.device(call.device).clock;
  const auto cost = model(system)->cost({call.op, group_ranks(call.group), call.position, call.root, call.bytes});
  const bool is_message = kind_of(call.op) == CollectiveKind::message;
  // Calls of a group follow each other; messages pass one another.
  const Picoseconds arrival = flight.arrival.time;
  const Picoseconds able = is_message ? arrival : std::max(arrival, clock.ready(call.stream));
  const Picoseconds begin = std::max(latest, able);
  const Picoseconds end = begin + to_picoseconds(cost.seconds);
  system.journal().add({ClockStep::Kind::finish, call.device, call.stream, flight.arrival.name});
  clock.wait(call.stream, {end, flight.arrival.name});
  std::lock_guard lock(mutex_);
  const auto issued = issued_.extract(flight.number);
  if (!issued.empty()) {
    auto& ran = ran_[call.device];
    ran.push_back({call, std::move(issued.mapped().profiles), able, begin, end, flight.arrival.name});
    if (ran.size() >= settle_at_) {
      settle(system, call.device);
      settle_at_ = std::max<std::size_t>(64, 2 * ran.size());  // a host far behind costs no more per call
    }
  }
  return {end, flight.arrival.name};
}

void Collectives::add(const Ran& ran, int profile, Clock& clock, const Settled& settled) {
  CollectiveRecord& record = open_.at(profile).record;
  const auto idle = [&](Picoseconds start, Picoseconds end) { return end - start - clock.busy_within(start, end); };
  const auto [row, is_new] = record.totals.try_emplace(ran.call);
  ++row->second.count;
  row->second.exposed += idle(ran.begin, ran.end);
  row->second.waited += idle(ran.able, ran.begin);
  settled.ran.for_each_gap(ran.begin, ran.end, [&](Picoseconds start, Picoseconds end) {
    record.exposed[ran.call.device] += idle(start, end);
  });
  settled.held_up.for_each_gap(ran.able, ran.end, [&](Picoseconds start, Picoseconds end) {
    record.held_up[ran.call.device] += idle(start, end);
  });
  if (ran.name) {
    record.named[ran.name] = &row->first;
  }
  if (open_.at(profile).timeline) {
    record.timeline.push_back({&row->first, ran.able, ran.begin, ran.end});
  }
}

void Collectives::settle(System& system, int device) {
  Clock& clock = system.device(device).clock;
  const Picoseconds host = clock.host();  // every later launch begins here or later
  Settled& settled = settled_[device];
  std::erase_if(ran_[device], [&](const Ran& ran) {
    if (ran.end > host) {
      return false;
    }
    for (const int profile : ran.profiles) {
      add(ran, profile, clock, settled);
    }
    settled.add(ran);
    return true;
  });
  Picoseconds needed = host;
  for (const auto& ran : ran_[device]) {
    needed = std::min(needed, ran.able);
  }
  for (const auto& [number, issued] : issued_) {
    needed = std::min(needed, issued.arrival);
  }
  settled.ran.forget_before(needed);
  settled.held_up.forget_before(needed);
  clock.keep_busy_since(needed);
}

void Collectives::open(int profile, bool timeline) {
  std::lock_guard lock(mutex_);
  open_[profile].timeline = timeline;
}

CollectiveRecord Collectives::close(System& system, int profile) {
  std::lock_guard lock(mutex_);
  for (auto& [device, ran] : ran_) {
    settle(system, device);
    Settled settled = settled_[device];
    for (auto& one : ran) {
      if (one.profiles.erase(profile)) {
        add(one, profile, system.device(device).clock, settled);
        settled.add(one);
      }
    }
    std::erase_if(ran, [](const Ran& one) { return one.profiles.empty(); });
  }
  CollectiveRecord record = std::move(open_.at(profile).record);
  for (auto& [number, issued] : issued_) {
    if (issued.profiles.erase(profile)) {
      ++record.totals[issued.call].count;  // it has yet to run
    }
  }
  std::erase_if(issued_, [](const auto& item) { return item.second.profiles.empty(); });
  open_.erase(profile);
  return record;
}

Collectives& collectives() {
  static auto* all = new Collectives();  // leaked: groups may outlive static destruction
  return *all;
}

}  // namespace trn::runtime
