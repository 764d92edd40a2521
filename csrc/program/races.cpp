// Happens-before over queues and semaphores.
#include "program/races.h"

#include <algorithm>

#include "program/instruction_cost.h"
#include "program/opcode.h"
#include "target/error.h"

namespace trn::program {
namespace {

bool is_write(Touch touch) {
  return touch != Touch::read;
}

std::int16_t core_of(const Instruction& instruction) {
  return std::max<std::int16_t>(instruction.core, 0);
}

bool covers(const Footprint& all, const Footprint& part) {
  return all == part || (all.dims.empty() && all.begin <= part.begin && part.end <= all.end);
}

}  // namespace

Races::Queue Races::queue_of(const Place& place) const {
  if (is_automatic_) {
    return place.core * kQueuesPerCore;
  }
  return place.core * kQueuesPerCore + (place.engine == Engine::dma ? kNumEngines + std::max<Queue>(place.queue, 0)
                                                                    : static_cast<Queue>(place.engine));
}

std::vector<Races::Queue> Races::queues_of(const Instruction& instruction) const {
  std::vector<Queue> queues = {queue_of({core_of(instruction), instruction.engine, instruction.queue})};
  if (instruction.joined) {
    queues.push_back(queue_of(*instruction.joined));
  }
  return queues;
}

// An exchange's sources, then its results, are the first core's and the other's in turn; where it is over for one core
// it is for that core's tiles.
std::vector<Races::Queue> Races::users_of(const Instruction& instruction, std::size_t access) const {
  const std::vector<Queue> queues = queues_of(instruction);
  const bool is_by_core =
      is_exchange(instruction.opcode) && instruction.joined && (is_automatic_ || instruction.engine == Engine::dma);
  return is_by_core ? std::vector{queues[access % 2]} : queues;
}

std::string Races::describe(Queue queue) const {
  const Queue core = queue / kQueuesPerCore, own = queue % kQueuesPerCore;
  const std::string of_core = core > 0 ? " of core " + std::to_string(core) : "";
  if (is_automatic_) {
    return "core " + std::to_string(core);
  }
  return (own < kNumEngines ? std::string(target::name(static_cast<Engine>(own)))
                            : "dma queue " + std::to_string(own - kNumEngines)) +
         of_core;
}

bool Races::is_ordered(const Use& earlier, const std::vector<Queue>& later) const {
  return std::ranges::any_of(later, [&](Queue queue) {
    if (earlier.queue == queue && runs_in_turn(queue)) {
      return true;
    }
    const auto known = known_.find(queue);
    if (known == known_.end()) {
      return false;
    }
    const auto found = known->second.find(earlier.queue);
    return found != known->second.end() && found->second >= earlier.number;
  });
}

bool Races::is_told(const Program& program, const Access& access) const {
  const Memory memory = program.buffers[static_cast<std::size_t>(access.buffer)].memory;
  return !is_automatic_ || memory == Memory::hbm;
}

// Of each queue's increments, in order, those without which all others together do not reach the value.
Races::Known Races::released(const Instruction& wait) const {
  Known known;
  const auto found = semaphores_.find({core_of(wait), wait.semaphore});
  if (found == semaphores_.end()) {
    return known;
  }
  std::map<Queue, std::int64_t> sums;
  std::int64_t total = 0;
  for (const Increment& increment : found->second) {
    sums[increment.queue] += increment.value;
    total += increment.value;
  }
  std::map<Queue, std::int64_t> reached;
  for (const Increment& increment : found->second) {
    std::int64_t& sum = reached[increment.queue];
    if (total - sums[increment.queue] + sum < wait.value) {
      for (const auto& [queue, number] : increment.known) {
        known[queue] = std::max(known[queue], number);
      }
    }
    sum += increment.value;
  }
  return known;
}

void Races::check(const Program& program, const Instruction& instruction) {
  if (is_automatic_ && instruction.opcode == Opcode::core_barrier) {
    return;  // after all that either core did
  }
  std::size_t place = 0;
  const std::string remedy = is_automatic_ ? "Let a core_barrier on it come between." : "Increment a semaphore on ";
  for (const Access& access : accesses(program, instruction, {})) {
    const std::vector<Queue> queues = users_of(instruction, place++);
    if (!is_told(program, access)) {
      continue;
    }
    const auto overlapping = regions_.at(access.buffer, access.footprint).overlapping;
    const auto& parts = regions_.parts(access.buffer);
    auto refuse_unordered = [&](const std::vector<Use>& users, std::string_view what) {
      for (const Use& use : users) {
        if (is_ordered(use, queues)) {
          continue;
        }
        const std::string by = describe(use.queue), on = describe(queues.front());
        throw Error(
            Category::hardware_constraint,
            "[" + std::string(name(instruction.opcode)) +
                (is_automatic_ ? "] a barrier orders instructions of different cores that share a tensor; got "
                               : "] a semaphore orders instructions of different queues that share a tile; got ") +
                on + (is_write(access.touch) ? " writing " : " reading ") +
                program.buffers[static_cast<std::size_t>(access.buffer)].name + ", which " +
                std::string(name(use.opcode)) + " on " + by + " may still be " + std::string(what) + ". " + remedy +
                (is_automatic_ ? "" : by + " after it, and wait for it on " + on + "."));
      }
    };
    for (const std::size_t number : overlapping) {
      refuse_unordered(parts[number].state.writers, "writing");
      if (is_write(access.touch)) {
        refuse_unordered(parts[number].state.readers, "reading");
      }
    }
  }
}

// Each knows what the other did before; engines also that this is over.
void Races::enter_joined(const std::vector<Queue>& queues) {
  Known known;
  for (const Queue queue : queues) {
    for (const auto& [other, number] : known_[queue]) {
      known[other] = std::max(known[other], number);
    }
    if (runs_in_turn(queue)) {
      known[queue] = num_instructions_[queue];
    }
  }
  for (const Queue queue : queues) {
    known_[queue] = known;
  }
}

void Races::use(const Program& program, const Instruction& instruction) {
  std::size_t place = 0;
  for (const Access& access : accesses(program, instruction, {})) {
    const std::vector<Queue> queues = users_of(instruction, place++);
    if (!is_told(program, access)) {
      continue;
    }
    auto& part = regions_.at(access.buffer, access.footprint);
    if (is_automatic_ && instruction.opcode == Opcode::core_barrier) {
      for (const std::size_t number : part.overlapping) {
        auto& other = regions_.parts(access.buffer)[number];
        other.state = covers(access.footprint, other.footprint) ? State{} : other.state;
      }
      continue;
    }
    auto& users = is_write(access.touch) ? part.state.writers : part.state.readers;
    for (const Queue queue : queues) {
      const Use entered{queue, num_instructions_[queue], instruction.opcode};
      const auto found = std::ranges::find(users, queue, &Use::queue);
      if (found == users.end()) {
        users.push_back(entered);
      } else {
        *found = entered;
      }
    }
  }
}

void Races::enter(const Program& program, const Instruction& instruction) {
  const std::vector<Queue> queues = queues_of(instruction);
  const Queue queue = queues.front();
  if (instruction.opcode == Opcode::semaphore_wait) {
    for (const auto& [other, number] : released(instruction)) {
      known_[queue][other] = std::max(known_[queue][other], number);
    }
    return;
  }
  if (instruction.opcode == Opcode::semaphore_increment) {
    Increment increment{queue, instruction.value, known_[queue]};
    increment.known[queue] = num_instructions_[queue];
    semaphores_[{core_of(instruction), instruction.semaphore}].push_back(std::move(increment));
    return;
  }
  for (const Queue each : queues) {
    ++num_instructions_[each];
  }
  use(program, instruction);
  if (instruction.joined && !is_automatic_) {
    enter_joined(queues);
  }
}

}  // namespace trn::program
