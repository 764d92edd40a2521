// Dependencies by generation.
#include "program/hazards.h"

#include <algorithm>

#include "program/instruction_cost.h"

namespace trn::program {

bool accumulates(const Instruction& instruction, std::span<const std::int64_t> indices) {
  if (instruction.accumulate_depth < 0) {
    return instruction.accumulate_depth == kAccumulate;
  }
  const auto loops = indices.subspan(static_cast<std::size_t>(instruction.accumulate_depth),
                                     static_cast<std::size_t>(instruction.accumulate_loops));
  return std::ranges::any_of(loops, [](std::int64_t index) { return index > 0; });
}

std::vector<Access> accesses(const Program& program, const Instruction& instruction,
                             std::span<const std::int64_t> indices) {
  std::vector<Access> result;
  for (const Tile& tile : instruction.src) {
    if (tile.buffer >= 0) {
      result.push_back({tile.buffer, footprint(program, tile, indices), Touch::read});
    }
  }
  const std::size_t num_reads = result.size();
  const Touch touch = accumulates(instruction, indices) ? Touch::accumulate
                      : adds_to_rows(instruction)       ? Touch::update
                                                        : Touch::write;
  for (const Tile* tile : {&instruction.dst, &instruction.res}) {
    if (tile->buffer < 0) {
      continue;
    }
    Access written{tile->buffer, footprint(program, *tile, indices), touch};
    for (std::size_t i = 0; i < num_reads; ++i) {
      if (touch == Touch::write && result[i].buffer == written.buffer &&
          overlaps(result[i].footprint, written.footprint)) {
        written.touch = Touch::update;
      }
    }
    result.push_back(std::move(written));
  }
  return result;
}

void Hazards::enter(Users& users, const User& user) {
  const auto found = std::ranges::find_if(
      users, [&](const User& other) { return other.queue == user.queue && other.part == user.part; });
  if (found == users.end()) {
    users.push_back(user);
  } else {
    *found = user;
  }
}

void Hazards::add(const Access& access, std::int64_t copies, std::int32_t queue, std::int32_t operation,
                  std::vector<emu::Dependency>& dependencies) {
  auto& own = regions_.at(access.buffer, access.footprint);
  auto& parts = regions_.parts(access.buffer);
  const std::uint64_t mark = ++num_accesses_;
  marks_.resize(std::max(marks_.size(), parts.size()));
  for (const std::size_t number : own.overlapping) {
    marks_[number] = mark;
  }
  auto wait = [&](const Users& users, bool sees_result) {
    for (const User& user : users) {
      const bool keeps_up = access.touch == Touch::accumulate && user.queue == queue;
      if (user.operation != operation && marks_[user.part] == mark && !keeps_up) {
        dependencies.push_back({user.operation, sees_result});
      }
    }
  };
  const auto age = static_cast<std::size_t>(copies - 1);
  for (const std::size_t number : own.overlapping) {
    State& state = parts[number].state;
    const bool is_read = !state.last().readers.empty();
    if (access.touch != Touch::write || !is_read) {
      wait(state.last().writers, true);
    }
    if (access.touch == Touch::update || access.touch == Touch::accumulate) {
      wait(state.last().readers, false);
    } else if (access.touch == Touch::write && is_read && state.generations.size() > age) {
      const Generation& displaced = state.generations[state.generations.size() - 1 - age];
      wait(displaced.writers, true);
      wait(displaced.readers, false);
    }
  }
  const User user{queue, operation, own.overlapping.front()};
  if (access.touch == Touch::read) {
    for (const std::size_t number : own.overlapping) {
      enter(parts[number].state.last().readers, user);
    }
    return;
  }
  State& state = own.state;
  if (access.touch == Touch::write && !state.last().readers.empty()) {
    state.generations.emplace_back();
    if (static_cast<std::int64_t>(state.generations.size()) > copies) {
      state.generations.erase(state.generations.begin());
    }
  }
  enter(state.last().writers, user);
}

}  // namespace trn::program
