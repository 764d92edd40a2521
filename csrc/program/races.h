// Finds instructions that touch the same bytes and that nothing orders.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "program/hazards.h"

namespace trn::program {

// The order that queues and semaphores give: instructions of an engine run one after another; transfers of a DMA queue
// start in order, and have landed for those who wait for an increment on that queue after them.
class Races {
 public:
  // Throws `hardware_constraint` where the instruction would race with an earlier one, or wait for ever; it is not
  // entered then.
  void check(const Program& program, const Instruction& instruction);
  void enter(const Program& program, const Instruction& instruction);

 private:
  using Queue = std::int32_t;
  using Known = std::map<Queue, std::int64_t>;  // by queue: its last instruction that is known to be over
  struct Use {
    Queue queue = 0;
    std::int64_t number = 0;
    Opcode opcode = Opcode::dma_copy;
  };
  struct State {
    std::vector<Use> writers, readers;  // the last of each queue
  };
  struct Increment {
    Queue queue = 0;
    std::int64_t value = 0;
    Known known;
  };

  static Queue queue_of(const Instruction& instruction);
  static std::string describe(Queue queue);
  bool is_ordered(const Use& earlier, Queue later) const;
  // What whoever waits for `value` knows.
  Known released(const Instruction& wait) const;

  Regions<State> regions_{0};
  std::map<Queue, std::int64_t> num_instructions_;
  std::map<Queue, Known> known_;
  std::map<std::int32_t, std::vector<Increment>> semaphores_;
};

}  // namespace trn::program
