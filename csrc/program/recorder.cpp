// The recorded program's buffers, and what two cores run together.
#include "program/recorder.h"

#include <limits>

#include "program/instruction_cost.h"
#include "target/error.h"

namespace trn::program {

Recorder::Recorder(Synchronization synchronization, std::int16_t num_cores)
    : synchronization_(synchronization),
      num_cores_(num_cores),
      finds_races_(num_cores > 1 || synchronization == Synchronization::semaphores),
      races_(synchronization) {
  program_.name = "recorded";
  program_.nests.emplace_back();
  program_.nests.back().name = "body";
}

std::int16_t Recorder::add(Buffer buffer) {
  constexpr std::size_t kMost = std::numeric_limits<std::int16_t>::max();
  if (program_.buffers.size() == kMost) {
    throw Error(Category::unsupported, "[recorder] a core has at most " + std::to_string(kMost) +
                                           " tiles and tensors; got one more, " + buffer.name + ". Use parts of them.");
  }
  program_.buffers.push_back(std::move(buffer));
  return static_cast<std::int16_t>(program_.buffers.size() - 1);
}

void Recorder::enter(Instruction instruction) {
  if (finds_races_) {
    races_.enter(program_, instruction);
  }
  program_.nests.back().body.emplace_back(std::move(instruction));
}

void Recorder::settle(const Instruction& instruction, std::string_view where) {
  while (const Half* waiting = pairs_.in_the_way(program_, instruction)) {
    const std::string what = describe(*waiting);
    if (!wait_) {
      throw Error(Category::invalid_argument,
                  "[" + std::string(where) + "] what a core shares with another one is used when both " +
                      "have come; got " + what + ", which the other one has not called yet. Call it there first, or " +
                      "let LogicalCore.run drive both.");
    }
    wait_(instruction.core, what);
  }
}

void Recorder::require_settled(std::string_view where) const {
  if (const Half* waiting = pairs_.first()) {
    throw Error(Category::invalid_argument,
                "[" + std::string(where) + "] both cores come to what they run together; got " + describe(*waiting) +
                    ", which the other one has not called. Call it there too.");
  }
}

Counts Recorder::count(const target::Core& core, std::int16_t rank) const {
  Counts counts;
  for (const Item& item : program_.nests.back().body) {
    const auto& instruction = std::get<Instruction>(item);
    if (instruction.joined) {
      add_instruction(counts, program_, part_of(instruction, rank), core, 1);
    } else if (instruction.core == rank) {
      add_instruction(counts, program_, instruction, core, 1);
    }
  }
  return counts;
}

void Recorder::join(Half half) {
  settle(half.instruction, name(half.instruction.opcode));
  std::optional<Half> other = pairs_.partner(half);
  if (!other) {
    pairs_.keep(std::move(half));
    return;
  }
  Instruction both = joined(*other, half);
  if (finds_races_) {
    races_.check(program_, both);
  }
  run(*other, half);
  pairs_.forget(*other);
  ++num_joined_;
  enter(std::move(both));
}

}  // namespace trn::program
