// Who must wait for whom: read after write, write after read and write after write, by what tiles cover.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "emu/clock.h"
#include "program/regions.h"

namespace trn::program {

// What an instruction does to a part of a buffer.
enum class Touch : std::uint8_t {
  read,
  write,
  update,      // reads what it writes: a result in place
  accumulate,  // adds to PSUM, which keeps up with one accumulation after another
};

struct Access {
  std::int16_t buffer = -1;
  Footprint footprint;
  Touch touch = Touch::read;
};

// What an instruction reads and writes at one place of its loops. Tiles of no buffer are left out.
std::vector<Access> accesses(const Program& program, const Instruction& instruction,
                             std::span<const std::int64_t> indices);
// Whether it reads what it writes, or is to be taken so: a barrier comes after all that used its data, and before all
// that will.
bool updates(const Instruction& instruction);
// nc_matmul: whether it adds to what PSUM holds.
bool accumulates(const Instruction& instruction, std::span<const std::int64_t> indices);

// The semaphores that a compiler would set, as dependencies. A buffer's copies take turns: what is written after its
// last content was read goes to the next copy, and waits for those who used that one. Parts that overlap, directly or
// through others, turn together.
class Hazards {
 public:
  // in_order: operations of one queue start in the order of their numbers, so that its last one stands for all.
  Hazards(std::size_t num_buffers, bool in_order) : in_order_(in_order), regions_(num_buffers), turns_(num_buffers) {}

  // Adds what `operation` on `queue` must wait for, and enters it.
  void add(const Access& access, std::int64_t copies, std::int32_t queue, std::int32_t operation,
           std::vector<emu::Dependency>& dependencies);

 private:
  using Users = std::vector<std::pair<std::int32_t, std::int32_t>>;  // queue, operation
  // What a part holds in one of the copies.
  struct Content {
    std::int64_t generation = -1;
    std::int32_t written_by = -1;  // the write that replaced all of the part
    Users writers, readers;

    std::int32_t last_write() const { return writers.empty() ? -1 : writers.back().second; }
  };
  struct State {
    std::vector<Content> copies;

    const Content* newest() const;
  };
  using Part = Regions<State>::Part;
  // The parts of a buffer that turn together, as a union-find forest.
  struct Turns {
    std::vector<std::size_t> parents;
    std::vector<std::int64_t> generations;  // of the roots

    std::size_t root(std::size_t part);
    std::int64_t& generation(const Part& part);
  };

  void enter(Users& users, std::int32_t queue, std::int32_t operation) const;

  bool in_order_;
  Regions<State> regions_;
  std::vector<Turns> turns_;
};

}  // namespace trn::program
