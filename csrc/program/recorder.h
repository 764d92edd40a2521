// Instructions that run one by one, kept as a straight-line Program.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "program/count.h"
#include "program/pairs.h"
#include "program/program.h"
#include "program/races.h"
#include "program/timeline.h"

namespace trn::program {

class Recorder {
 public:
  explicit Recorder(Synchronization synchronization, std::int16_t num_cores = 1);

  // Returns its number. Throws `unsupported` past 32767 of them.
  std::int16_t add(Buffer buffer);

  // Where semaphores alone synchronise, and between cores, refuses a race first. What `run` throws was never issued.
  template <class Run>
  void issue(Instruction instruction, Run run) {
    settle(instruction, name(instruction.opcode));
    if (finds_races_) {
      races_.check(program_, instruction);
    }
    run();
    enter(std::move(instruction));
  }

  // An instruction that two cores run together: the first to come is kept, in flight, and the other one runs both.
  void join(Half half);
  // A core that is gone comes to nothing any more.
  void abandon(std::int16_t core) { pairs_.forget_all_of(core); }

  // Waits until what the instruction would touch, or the queue that it would stand in, is in flight no more; `where` is
  // for errors.
  void settle(const Instruction& instruction, std::string_view where);
  // Throws where a core still waits for another one.
  void require_settled(std::string_view where) const;
  // Lets the core that `waiting` waits for run; without it, waiting is an error.
  void set_wait(std::function<void(std::int16_t core, const std::string& waiting)> wait) { wait_ = std::move(wait); }
  // How many instructions two cores have run together.
  std::int64_t num_joined() const { return num_joined_; }

  // Of one core's instructions, or its part of those that two run.
  Counts count(const target::Core& core, std::int16_t rank) const;

  const Program& program() const { return program_; }
  Synchronization synchronization() const { return synchronization_; }
  std::int16_t num_cores() const { return num_cores_; }

 private:
  void enter(Instruction instruction);

  Program program_;
  Synchronization synchronization_;
  std::int16_t num_cores_;
  bool finds_races_;
  Races races_;
  Pairs pairs_;
  std::function<void(std::int16_t, const std::string&)> wait_;
  std::int64_t num_joined_ = 0;
};

}  // namespace trn::program
