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

bool updates(const Instruction& instruction) {
  return adds_in_place(instruction) || instruction.opcode == Opcode::core_barrier;
}

std::vector<Access> accesses(const Program& program, const Instruction& instruction,
                             std::span<const std::int64_t> indices) {
  std::vector<Access> result;
  for (const Tile& tile : instruction.src) {
    if (tile.buffer >= 0) {
      result.push_back({program.owner(tile.buffer), footprint(program, tile, indices), Touch::read});
    }
  }
  const std::size_t num_reads = result.size();
  const Touch touch = accumulates(instruction, indices) ? Touch::accumulate
                      : updates(instruction)            ? Touch::update
                                                        : Touch::write;
  for (const Tile* tile : {&instruction.dst, &instruction.res}) {
    if (tile->buffer < 0) {
      continue;
    }
    Access written{program.owner(tile->buffer), footprint(program, *tile, indices), touch};
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

const Hazards::Content* Hazards::State::newest() const {
  const auto found = std::ranges::max_element(copies, {}, &Content::last_write);
  return found == copies.end() || found->writers.empty() ? nullptr : &*found;
}

std::size_t Hazards::Turns::root(std::size_t part) {
  while (parents[part] != part) {
    part = parents[part] = parents[parents[part]];
  }
  return part;
}

std::int64_t& Hazards::Turns::generation(const Part& part) {
  while (parents.size() <= *std::ranges::max_element(part.overlapping)) {
    parents.push_back(parents.size());
    generations.push_back(0);
  }
  const std::size_t own = root(part.overlapping.front());
  for (const std::size_t number : part.overlapping) {
    const std::size_t other = root(number);
    parents[other] = own;
    generations[own] = std::max(generations[own], generations[other]);
  }
  return generations[own];
}

void Hazards::enter(Users& users, std::int32_t queue, std::int32_t operation) const {
  const auto found = in_order_ ? std::ranges::find(users, queue, &Users::value_type::first) : users.end();
  if (found == users.end()) {
    users.emplace_back(queue, operation);
  } else {
    found->second = operation;
  }
}

void Hazards::add(const Access& access, std::int64_t copies, std::int32_t queue, std::int32_t operation,
                  std::vector<emu::Dependency>& dependencies) {
  Part& own = regions_.at(access.buffer, access.footprint);
  std::vector<Part>& parts = regions_.parts(access.buffer);
  for (const std::size_t number : own.overlapping) {
    parts[number].state.copies.resize(static_cast<std::size_t>(copies));
  }
  auto wait = [&](const Users& users, bool sees_result) {
    for (const auto& [from, other] : users) {
      if (other != operation) {
        const bool keeps_up = access.touch == Touch::accumulate && from == queue;
        dependencies.push_back({other, sees_result && !keeps_up});
      }
    }
  };
  std::int64_t& generation = turns_[static_cast<std::size_t>(access.buffer)].generation(own);
  if (access.touch == Touch::write) {
    const bool was_read = std::ranges::any_of(own.overlapping, [&](std::size_t number) {
      const Content& content = parts[number].state.copies[static_cast<std::size_t>(generation % copies)];
      return content.generation == generation && !content.readers.empty();
    });
    generation += was_read ? 1 : 0;
    const auto copy = static_cast<std::size_t>(generation % copies);
    for (const std::size_t number : own.overlapping) {
      wait(parts[number].state.copies[copy].writers, true);
      wait(parts[number].state.copies[copy].readers, false);
    }
    own.state.copies[copy] = {generation, operation, {{queue, operation}}, {}};
    return;
  }
  const Content* newest = nullptr;
  const Content* const whole = own.state.newest();
  const std::int32_t covered_by = whole != nullptr ? whole->written_by : -1;
  for (const std::size_t number : own.overlapping) {
    const Content* const content = parts[number].state.newest();
    if (content == nullptr || content->last_write() < covered_by) {
      continue;
    }
    wait(content->writers, true);
    newest = newest == nullptr || newest->last_write() < content->last_write() ? content : newest;
  }
  const std::int64_t read_generation = newest != nullptr ? newest->generation : generation;
  const auto copy = static_cast<std::size_t>(read_generation % copies);
  Content& content = own.state.copies[copy];
  if (content.generation != read_generation && copies > 1) {
    content = {};
  }
  content.generation = read_generation;
  if (access.touch == Touch::read) {
    enter(content.readers, queue, operation);
    return;
  }
  for (const std::size_t number : own.overlapping) {
    wait(parts[number].state.copies[copy].readers, false);
  }
  // It waits for them: whoever waits for it need not.
  content.writers = {{queue, operation}};
  content.readers.clear();
}

}  // namespace trn::program
