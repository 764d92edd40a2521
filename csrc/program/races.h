// Finds instructions that touch the same bytes and that nothing orders.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "program/hazards.h"
#include "program/timeline.h"

namespace trn::program {

// The order that queues and semaphores give: instructions of an engine run one after another; transfers of a DMA queue
// start in order, and have landed for those who wait for an increment on that queue after them. Where synchronization
// is automatic a core orders its own, and only what two cores do to HBM can race: a barrier orders what they did to
// its data.
class Races {
 public:
  explicit Races(Synchronization synchronization) : is_automatic_(synchronization != Synchronization::semaphores) {}

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
  static constexpr Queue kQueuesPerCore = 64;

  Queue queue_of(const Place& place) const;
  std::vector<Queue> queues_of(const Instruction& instruction) const;
  // Those on which the instruction's access, by its place in accesses(), is known to be over.
  std::vector<Queue> users_of(const Instruction& instruction, std::size_t access) const;
  std::string describe(Queue queue) const;
  // Whether a queue's next instruction starts when those before it are over.
  bool runs_in_turn(Queue queue) const { return is_automatic_ || queue % kQueuesPerCore < kNumEngines; }
  bool is_ordered(const Use& earlier, const std::vector<Queue>& later) const;
  bool is_told(const Program& program, const Access& access) const;
  // What whoever waits for `value` knows.
  Known released(const Instruction& wait) const;
  void enter_joined(const std::vector<Queue>& queues);
  void use(const Program& program, const Instruction& instruction);

  bool is_automatic_;
  Regions<State> regions_{0};
  std::map<Queue, std::int64_t> num_instructions_;
  std::map<Queue, Known> known_;
  std::map<std::pair<std::int16_t, std::int32_t>, std::vector<Increment>> semaphores_;  // of a core
};

}  // namespace trn::program
