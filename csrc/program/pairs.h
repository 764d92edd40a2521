// Instructions that the two cores of a logical one run together. The first core to come does not stop: what it shares
// is in flight until the other one has come too, and whatever touches that waits.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "emu/dma.h"
#include "emu/view.h"
#include "program/program.h"

namespace trn::program {

// What one core calls.
struct Half {
  Instruction instruction;  // of its own core
  // sendrecv, sendrecv_compute, of which those of one pipe meet in order
  std::int64_t pipe = 0;
  std::int64_t send_to_rank = 0, recv_from_rank = 0;
  emu::Dma* dma = nullptr;
  emu::View src = {}, dst = {};
  std::shared_ptr<const void> owner = {};  // of HBM's tiles
};

// "core_barrier of core 0"
std::string describe(const Half& half);
// One instruction of both.
Instruction joined(const Half& first, const Half& second);
// Both halves; throws where they do not go together, before anything has changed.
void run(const Half& first, const Half& second);
// A core's own part of it.
Instruction part_of(const Instruction& joined, std::int16_t core);

class Pairs {
 public:
  // The other core's oldest half that this one goes with.
  std::optional<Half> partner(const Half& half) const;
  void keep(Half half) { in_flight_.push_back(std::move(half)); }
  void forget(const Half& half);
  void forget_all_of(std::int16_t core);
  // What is in flight and the instruction's core may not touch: tiles, or the queue that it holds up.
  const Half* in_the_way(const Program& program, const Instruction& instruction) const;
  const Half* first() const { return in_flight_.empty() ? nullptr : &in_flight_.front(); }

 private:
  std::list<Half> in_flight_;  // as they came
};

}  // namespace trn::program
