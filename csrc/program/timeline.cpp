// Expands a Program into operations on queues, with the dependencies that its tiles or semaphores give.
#include "program/timeline.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "program/hazards.h"
#include "program/instruction_cost.h"
#include "program/split.h"
#include "target/error.h"

namespace trn::program {
namespace {

class Expansion {
 public:
  Expansion(const Program& program, const target::Target& target, Synchronization synchronization)
      : program_(program),
        target_(target),
        synchronization_(synchronization),
        num_cores_(static_cast<std::int16_t>(std::max<std::int64_t>(target.device.num_cores, 1))),
        num_queues_(num_cores_ * kNumEngines),
        copies_fit_(copies_fit(program, target.core)),
        is_tracked_(tracked(program)),
        hbm_(program.buffers.size(), synchronization != Synchronization::scheduled),
        on_chip_(static_cast<std::size_t>(num_cores_),
                 Hazards(program.buffers.size(), synchronization != Synchronization::scheduled)) {}

  Timeline run() {
    for (const Nest& nest : program_.nests) {
      nest_cores_ = std::ceil(most_cores(nest.body, target_.device));
      add_items(nest.body);
    }
    const std::vector<emu::Scheduled> schedule = clock_.run();
    std::vector<std::array<double, kNumEngines>> busy(static_cast<std::size_t>(num_cores_));
    for (std::size_t i = 0; i < schedule.size(); ++i) {
      Event& event = timeline_.events[i];
      event.start_seconds = schedule[i].start_seconds;
      event.end_seconds = schedule[i].end_seconds;
      event.bound_by = schedule[i].bound_by;
      const double seconds = event.end_seconds - event.start_seconds;
      const Engine engine = event.instruction->engine;
      const bool is_shared = engine == Engine::dma && event.instruction->core < 0;
      const auto core = static_cast<std::size_t>(is_shared ? 0 : event.core);
      busy[core][static_cast<std::size_t>(engine)] += seconds;
      if (event.joined_core >= 0) {
        busy[static_cast<std::size_t>(event.joined_core)]
            [static_cast<std::size_t>(event.instruction->joined->engine)] += seconds;
      }
    }
    for (const auto& core : busy) {
      for (std::size_t e = 0; e < core.size(); ++e) {
        timeline_.busy_seconds[e] = std::max(timeline_.busy_seconds[e], core[e]);
      }
    }
    find_critical_path();
    return std::move(timeline_);
  }

 private:
  static constexpr std::int16_t kAllCores = -1;

  // HBM orders instructions only where a program reads what it writes.
  static std::vector<bool> tracked(const Program& program) {
    std::vector<bool> is_read(program.buffers.size()), is_written(program.buffers.size());
    auto visit = [&](auto& self, const std::vector<Item>& items) -> void {
      for (const Item& item : items) {
        if (const auto* loop = std::get_if<std::unique_ptr<Loop>>(&item)) {
          self(self, (*loop)->body);
          continue;
        }
        const auto& instruction = std::get<Instruction>(item);
        for (const Tile& tile : instruction.src) {
          if (tile.buffer >= 0) {
            is_read[static_cast<std::size_t>(tile.buffer)] = true;
          }
        }
        for (const Tile* tile : {&instruction.dst, &instruction.res}) {
          if (tile->buffer >= 0) {
            const auto b = static_cast<std::size_t>(tile->buffer);
            is_written[b] = true;
            is_read[b] = is_read[b] || updates(instruction);
          }
        }
      }
    };
    for (const Nest& nest : program.nests) {
      visit(visit, nest.body);
    }
    std::vector<bool> result(program.buffers.size());
    for (std::size_t b = 0; b < result.size(); ++b) {
      const bool is_on_chip = program.buffers[b].memory == Memory::sbuf || program.buffers[b].memory == Memory::psum;
      result[b] = is_on_chip || (is_read[b] && is_written[b]);
    }
    return result;
  }

  void add_items(const std::vector<Item>& items) {
    for (const Item& item : items) {
      if (const auto* instruction = std::get_if<Instruction>(&item)) {
        add(*instruction);
        continue;
      }
      const Loop& loop = *std::get<std::unique_ptr<Loop>>(item);
      if (core_ == kAllCores && is_split_here(loop)) {
        add_split(loop);
        continue;
      }
      indices_.push_back(0);
      for (std::int64_t i = 0; i < loop.trips; ++i) {
        indices_.back() = i;
        add_items(loop.body);
      }
      indices_.pop_back();
    }
  }

  // A run of trips for each core.
  void add_split(const Loop& outer) {
    const std::vector<const Loop*> loops = perfectly_nested(outer);
    const Split parts = split(loops, target_.device);
    const std::size_t depth = indices_.size();
    indices_.resize(depth + loops.size());
    for (std::int64_t trip = 0; trip < parts.trips; ++trip) {
      core_ = static_cast<std::int16_t>(trip / parts.rounds);
      std::int64_t rest = trip;
      for (std::size_t l = loops.size(); l-- > 0; rest /= loops[l]->trips) {
        indices_[depth + l] = rest % loops[l]->trips;
      }
      add_items(loops.back()->body);
    }
    indices_.resize(depth);
    core_ = kAllCores;
  }

  void add(const Instruction& instruction) {
    if (static_cast<std::int64_t>(clock_.size()) == kMostEvents) {
      throw Error(Category::unimplemented, "[timeline] a program of at most " + std::to_string(kMostEvents) +
                                               " instructions has a timeline; got more in " + program_.name +
                                               ". Use its counts, or a smaller shape.");
    }
    const auto operation = static_cast<std::int32_t>(clock_.size());
    const std::int16_t core = std::max<std::int16_t>({core_, instruction.core, 0});
    const bool is_dma = instruction.engine == Engine::dma;
    const std::int32_t queue = queue_of({core, instruction.engine, instruction.queue}, instruction.dst,
                                        instruction.src.empty() ? nullptr : &instruction.src.front());
    emu::Operation timed{.queue = queue};
    Event event{.instruction = &instruction, .core = core, .queue = queue};
    if (instruction.joined) {
      event.joined_core = instruction.joined->core;
      event.joined_queue = timed.joined =
          queue_of(*instruction.joined, instruction.res, instruction.src.empty() ? nullptr : &instruction.src.back());
    }
    dependencies_.clear();
    if (instruction.opcode == Opcode::semaphore_wait) {
      wait(instruction, core, queue, operation);
    } else if (instruction.opcode == Opcode::semaphore_increment) {
      increment(instruction, core, queue, operation);
    } else {
      if (synchronization_ != Synchronization::semaphores) {
        wait_for_tiles(instruction, queue, operation);
      }
      if (synchronization_ == Synchronization::scheduled && !is_dma) {
        timed.queue = -1;
        timed.resources[0] = num_cores_ + queue;
      }
      if (is_dma) {
        time_transfer(instruction, timed);
      } else {
        const double clock_hz = program::clock_hz(instruction.engine, target_);
        timed.busy_seconds = static_cast<double>(cycles(program_, instruction, target_.core)) / clock_hz;
        timed.latency_seconds = result_latency_seconds(instruction.engine, target_);
        hold_ports(instruction, core, timed);
      }
    }
    clock_.add(timed, dependencies_);
    last_of_queue_[queue] = operation;
    if (timed.joined >= 0) {
      last_of_queue_[timed.joined] = operation;
    }
    timeline_.events.push_back(event);
  }

  // Resources of the clock: a core's DMA engines, its engines, its ports.
  void hold_ports(const Instruction& instruction, std::int16_t core, emu::Operation& timed) const {
    constexpr auto kNumPorts = static_cast<std::int32_t>(kPorts.size());
    for (std::int32_t p = 0; p < kNumPorts; ++p) {
      const auto i = static_cast<std::size_t>(p);
      if (holds(kPorts[i], program_, instruction, target_.core)) {
        timed.resources[i + 1] = num_cores_ * (1 + kNumEngines) + core * kNumPorts + p;
      }
    }
  }

  void time_transfer(const Instruction& instruction, emu::Operation& timed) {
    const int passes = transfer_passes(program_, instruction, target_.core);
    // Of a recorded program each core has its own DMA engines; of a split one the cores draw on all of them together.
    const double cores = instruction.core < 0 ? nest_cores_ : instruction.joined ? 2 : 1;
    timed.resources[0] = std::max<std::int16_t>(instruction.core, 0);
    timed.startup_seconds = passes * target_.core.dma_fixed_seconds;
    timed.busy_seconds = passes * dma_seconds(program_, instruction, target_, cores);
    for (const std::int32_t queue : {timed.queue, timed.joined}) {
      if (const auto found = last_wait_.find(queue); found != last_wait_.end()) {
        dependencies_.push_back({found->second, false});
      }
    }
  }

  // DMA queues: as the instruction says, or one for each on-chip tile that is loaded or stored.
  std::int32_t queue_of(const Place& place, const Tile& dst, const Tile* src) {
    if (place.engine != Engine::dma) {
      return place.core * kNumEngines + static_cast<std::int32_t>(place.engine);
    }
    std::int32_t key = -1 - place.queue;
    if (place.queue < 0) {
      const bool is_load = program_.buffers[static_cast<std::size_t>(dst.buffer)].memory != Memory::hbm;
      key = is_load || src == nullptr ? dst.buffer : src->buffer;
    }
    const auto [found, is_new] = dma_queues_.try_emplace({place.core, key}, num_queues_);
    num_queues_ += is_new ? 1 : 0;
    return found->second;
  }

  void wait_for_tiles(const Instruction& instruction, std::int32_t queue, std::int32_t operation) {
    for (const Access& access : accesses(program_, instruction, indices_)) {
      const auto b = static_cast<std::size_t>(access.buffer);
      const Buffer& buffer = program_.buffers[b];
      if (!is_tracked_[b]) {
        continue;
      }
      if (buffer.memory != Memory::sbuf && buffer.memory != Memory::psum) {
        hbm_.add(access, 1, queue, operation, dependencies_);
        continue;
      }
      const std::int64_t copies = copies_fit_ ? std::max<std::int64_t>(buffer.copies, 1) : 1;
      for (std::size_t c = 0; c < on_chip_.size(); ++c) {
        if (core_ == kAllCores || static_cast<std::size_t>(core_) == c) {
          on_chip_[c].add(access, copies, queue, operation, dependencies_);
        }
      }
    }
    std::ranges::sort(dependencies_, [](const emu::Dependency& a, const emu::Dependency& b) {
      return a.operation != b.operation ? a.operation < b.operation : a.sees_result > b.sees_result;
    });
    const auto repeated = std::ranges::unique(dependencies_, {}, &emu::Dependency::operation);
    dependencies_.erase(repeated.begin(), repeated.end());
  }

  // After all that its queue did before.
  void increment(const Instruction& instruction, std::int16_t core, std::int32_t queue, std::int32_t operation) {
    if (const auto last = last_of_queue_.find(queue); last != last_of_queue_.end()) {
      dependencies_.push_back({last->second, true});
    }
    semaphores_[{core, instruction.semaphore}].emplace_back(instruction.value, operation);
  }

  // Until the increments before it, in program order, have brought the semaphore to its value.
  void wait(const Instruction& instruction, std::int16_t core, std::int32_t queue, std::int32_t operation) {
    std::int64_t value = 0;
    for (const auto& [added, other] : semaphores_[{core, instruction.semaphore}]) {
      if (value >= instruction.value) {
        break;
      }
      value += added;
      dependencies_.push_back({other, true});
    }
    last_wait_[queue] = operation;
  }

  void find_critical_path() {
    const auto& events = timeline_.events;
    if (events.empty()) {
      return;
    }
    const auto last = std::ranges::max_element(events, {}, &Event::end_seconds);
    timeline_.seconds = last->end_seconds;
    for (auto at = static_cast<std::int32_t>(last - events.begin()); at >= 0;
         at = events[static_cast<std::size_t>(at)].bound_by) {
      timeline_.critical_path.push_back(at);
    }
    std::ranges::reverse(timeline_.critical_path);
  }

  const Program& program_;
  const target::Target& target_;
  const Synchronization synchronization_;
  const std::int16_t num_cores_;
  std::int32_t num_queues_;
  const bool copies_fit_;
  const std::vector<bool> is_tracked_;
  Hazards hbm_;
  std::vector<Hazards> on_chip_;
  emu::Clock clock_;
  Timeline timeline_;
  std::vector<std::int64_t> indices_;
  std::vector<emu::Dependency> dependencies_;
  std::map<std::pair<std::int16_t, std::int32_t>, std::int32_t> dma_queues_;
  std::map<std::int32_t, std::int32_t> last_of_queue_, last_wait_;  // by queue
  // of a core: increments, operations
  std::map<std::pair<std::int16_t, std::int32_t>, std::vector<std::pair<std::int64_t, std::int32_t>>> semaphores_;
  double nest_cores_ = 1;
  std::int16_t core_ = kAllCores;
};

}  // namespace

Timeline timeline(const Program& program, const target::Target& target, Synchronization synchronization) {
  return Expansion(program, target, synchronization).run();
}

}  // namespace trn::program
