// Instructions that run one by one, kept as a straight-line Program.
#pragma once

#include <optional>
#include <utility>

#include "program/program.h"
#include "program/races.h"
#include "program/timeline.h"

namespace trn::program {

class Recorder {
 public:
  explicit Recorder(Synchronization synchronization) : synchronization_(synchronization) {
    program_.name = "recorded";
    program_.nests.emplace_back();
    program_.nests.back().name = "body";
  }

  // Returns its number. Throws `unsupported` past 32767 of them.
  std::int16_t add(Buffer buffer);

  // Where semaphores alone synchronise, refuses a race first. What `run` throws was never issued.
  template <class Run>
  void issue(Instruction instruction, Run run) {
    if (synchronization_ == Synchronization::semaphores) {
      races_.check(program_, instruction);
    }
    run();
    if (synchronization_ == Synchronization::semaphores) {
      races_.enter(program_, instruction);
    }
    program_.nests.back().body.emplace_back(std::move(instruction));
  }

  const Program& program() const { return program_; }
  Synchronization synchronization() const { return synchronization_; }

 private:
  Program program_;
  Races races_;
  Synchronization synchronization_;
};

}  // namespace trn::program
