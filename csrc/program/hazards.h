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
// nc_matmul: whether it adds to what PSUM holds.
bool accumulates(const Instruction& instruction, std::span<const std::int64_t> indices);

// The semaphores that a compiler would set, as dependencies. Copies of a buffer rotate: a new content goes to the copy
// that was used longest ago, and waits for those who used that one.
class Hazards {
 public:
  explicit Hazards(std::size_t num_buffers) : regions_(num_buffers) {}

  // Adds what `operation` on `queue` must wait for, and enters it.
  void add(const Access& access, std::int64_t copies, std::int32_t queue, std::int32_t operation,
           std::vector<emu::Dependency>& dependencies);

 private:
  // The last operation of a queue on a part. A part keeps those of all parts that it shares bytes with.
  struct User {
    std::int32_t queue = 0, operation = 0;
    std::size_t part = 0;
  };
  using Users = std::vector<User>;
  // One content of one part, from its first write to the next content's.
  struct Generation {
    Users writers, readers;
  };
  struct State {
    std::vector<Generation> generations{1};  // oldest first, at most as many as there are copies
    Generation& last() { return generations.back(); }
  };
  static void enter(Users& users, const User& user);

  Regions<State> regions_;
  std::vector<std::uint64_t> marks_;  // by part: the last access that shares bytes with it
  std::uint64_t num_accesses_ = 0;
};

}  // namespace trn::program
