// Halves in flight.
#include "program/pairs.h"

#include <algorithm>

#include "emu/exchange.h"
#include "emu/limits.h"
#include "program/hazards.h"
#include "program/instruction_cost.h"

namespace trn::program {
namespace {

bool share_a_pipe(const Half& a, const Half& b) {
  return a.instruction.opcode == b.instruction.opcode && a.pipe == b.pipe;
}

// Engines run in order; so do transfers of a DMA queue that was asked for.
bool share_a_queue(const Instruction& a, const Instruction& b) {
  return a.engine == b.engine && (a.engine != Engine::dma || (a.queue >= 0 && a.queue == b.queue));
}

bool conflict(const Program& program, const Instruction& a, const Instruction& b) {
  const std::vector<Access> of_b = accesses(program, b, {});
  return std::ranges::any_of(accesses(program, a, {}), [&](const Access& x) {
    return std::ranges::any_of(of_b, [&](const Access& y) {
      const bool writes = x.touch != Touch::read || y.touch != Touch::read;
      return writes && x.buffer == y.buffer && overlaps(x.footprint, y.footprint);
    });
  });
}

bool is_one_tile(const Tile& a, const Tile& b) {
  auto equal_dims = [](const Dim& x, const Dim& y) { return x.size == y.size && x.stride == y.stride; };
  return a.buffer == b.buffer && a.offset == b.offset && a.partitions == b.partitions &&
         a.partition_stride == b.partition_stride && std::ranges::equal(a.free, b.free, equal_dims);
}

std::string ranks(const Half& half) {
  return "core " + std::to_string(half.instruction.core) + " sending to " + std::to_string(half.send_to_rank) +
         " and receiving from " + std::to_string(half.recv_from_rank);
}

}  // namespace

std::string describe(const Half& half) {
  return std::string(name(half.instruction.opcode)) + " of core " + std::to_string(half.instruction.core);
}

Instruction joined(const Half& first, const Half& second) {
  const Half& zero = first.instruction.core == 0 ? first : second;
  const Half& one = first.instruction.core == 0 ? second : first;
  Instruction both = zero.instruction;
  both.joined = Place{one.instruction.core, one.instruction.engine, one.instruction.queue};
  both.src.insert(both.src.end(), one.instruction.src.begin(), one.instruction.src.end());
  both.res = one.instruction.dst;
  return both;
}

void run(const Half& first, const Half& second) {
  const Instruction &a = first.instruction, &b = second.instruction;
  const std::string_view where = name(b.opcode);
  if (b.opcode == Opcode::core_barrier) {
    if (!is_one_tile(a.dst, b.dst)) {
      emu::refuse(where, "both cores name the same data", "two tensors, or two parts", "Pass one array to both.");
    }
    return;
  }
  const bool crosses = second.send_to_rank == a.core;
  const std::int64_t of_a = crosses ? b.core : a.core, of_b = crosses ? a.core : b.core;
  if (first.send_to_rank != of_a || first.recv_from_rank != of_a || second.send_to_rank != of_b ||
      second.recv_from_rank != of_b) {
    emu::refuse(where, "what one core sends the other one receives", ranks(first) + ", " + ranks(second),
                "Let each send to the other one, or each to itself.");
  }
  emu::require_one_shape(where, first.src, second.src);
  if (a.alu0 != b.alu0 || (a.engine == Engine::dma) != (b.engine == Engine::dma)) {
    emu::refuse(where, "both cores ask for one operation and one dma_engine", "others", "Pass the same to both.");
  }
  emu::exchange({*first.dma, first.src, first.dst}, {*second.dma, second.src, second.dst}, crosses, b.alu0);
}

Instruction part_of(const Instruction& joined, std::int16_t core) {
  Instruction part = joined;
  part.joined.reset();
  part.res = {};
  const std::size_t half = joined.src.size() / 2;
  if (core == joined.core) {
    part.src.resize(half);
  } else {
    part.core = joined.joined->core;
    part.engine = joined.joined->engine;
    part.queue = joined.joined->queue;
    part.dst = joined.res;
    part.src.erase(part.src.begin(), part.src.begin() + static_cast<std::ptrdiff_t>(half));
  }
  return part;
}

std::optional<Half> Pairs::partner(const Half& half) const {
  const auto found = std::ranges::find_if(in_flight_, [&](const Half& other) {
    return half.instruction.core != other.instruction.core && share_a_pipe(half, other);
  });
  return found == in_flight_.end() ? std::nullopt : std::optional(*found);
}

void Pairs::forget(const Half& half) {
  in_flight_.erase(std::ranges::find_if(in_flight_, [&](const Half& other) {
    return half.instruction.core == other.instruction.core && share_a_pipe(half, other);
  }));
}

void Pairs::forget_all_of(std::int16_t core) {
  in_flight_.remove_if([&](const Half& half) { return half.instruction.core == core; });
}

const Half* Pairs::in_the_way(const Program& program, const Instruction& instruction) const {
  const auto found = std::ranges::find_if(in_flight_, [&](const Half& half) {
    return half.instruction.core == instruction.core &&
           (share_a_queue(half.instruction, instruction) || conflict(program, half.instruction, instruction));
  });
  return found == in_flight_.end() ? nullptr : &*found;
}

}  // namespace trn::program
