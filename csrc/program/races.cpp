// Happens-before over queues and semaphores.
#include "program/races.h"

#include <algorithm>

#include "program/opcode.h"
#include "target/error.h"

namespace trn::program {
namespace {

bool is_write(Touch touch) {
  return touch != Touch::read;
}

}  // namespace

Races::Queue Races::queue_of(const Instruction& instruction) {
  return instruction.engine == Engine::dma ? kNumEngines + std::max<Queue>(instruction.queue, 0)
                                           : static_cast<Queue>(instruction.engine);
}

std::string Races::describe(Queue queue) {
  return queue < kNumEngines ? std::string(target::name(static_cast<Engine>(queue)))
                             : "dma queue " + std::to_string(queue - kNumEngines);
}

bool Races::is_ordered(const Use& earlier, Queue later) const {
  if (earlier.queue == later && later < kNumEngines) {
    return true;
  }
  const auto known = known_.find(later);
  if (known == known_.end()) {
    return false;
  }
  const auto found = known->second.find(earlier.queue);
  return found != known->second.end() && found->second >= earlier.number;
}

// Of each queue's increments, in order, those without which all others together do not reach the value.
Races::Known Races::released(const Instruction& wait) const {
  Known known;
  const auto found = semaphores_.find(wait.semaphore);
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
  const Queue queue = queue_of(instruction);
  for (const Access& access : accesses(program, instruction, {})) {
    const auto overlapping = regions_.at(access.buffer, access.footprint).overlapping;
    const auto& parts = regions_.parts(access.buffer);
    auto refuse_unordered = [&](const std::vector<Use>& users, std::string_view what) {
      for (const Use& use : users) {
        if (!is_ordered(use, queue)) {
          throw Error(Category::hardware_constraint,
                      "[" + std::string(name(instruction.opcode)) +
                          "] a semaphore orders instructions of different queues that share a tile; got " +
                          describe(queue) + (is_write(access.touch) ? " writing " : " reading ") +
                          program.buffers[static_cast<std::size_t>(access.buffer)].name + ", which " +
                          std::string(name(use.opcode)) + " on " + describe(use.queue) + " may still be " +
                          std::string(what) + ". Increment a semaphore on " + describe(use.queue) +
                          " after it, and wait for it on " + describe(queue) + ".");
        }
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

void Races::enter(const Program& program, const Instruction& instruction) {
  const Queue queue = queue_of(instruction);
  if (instruction.opcode == Opcode::semaphore_wait) {
    for (const auto& [other, number] : released(instruction)) {
      known_[queue][other] = std::max(known_[queue][other], number);
    }
    return;
  }
  if (instruction.opcode == Opcode::semaphore_increment) {
    Increment increment{queue, instruction.value, known_[queue]};
    increment.known[queue] = num_instructions_[queue];
    semaphores_[instruction.semaphore].push_back(std::move(increment));
    return;
  }
  const Use use{queue, ++num_instructions_[queue], instruction.opcode};
  for (const Access& access : accesses(program, instruction, {})) {
    State& state = regions_.at(access.buffer, access.footprint).state;
    auto& users = is_write(access.touch) ? state.writers : state.readers;
    const auto found = std::ranges::find(users, queue, &Use::queue);
    if (found == users.end()) {
      users.push_back(use);
    } else {
      *found = use;
    }
  }
}

}  // namespace trn::program
