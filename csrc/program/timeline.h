// A Program in motion: every instruction's start and end on the engines and DMA queues of a device's cores.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "program/program.h"
#include "target/target.h"

namespace trn::program {

struct Event {
  const Instruction* instruction = nullptr;
  std::int16_t core = 0;
  std::int32_t queue = 0;
  std::int16_t joined_core = -1;  // another core that runs it too, on a queue of its own
  std::int32_t joined_queue = -1;
  double start_seconds = 0, end_seconds = 0;
  std::int32_t bound_by = -1;  // the event that set its start; none: the beginning
};

struct Timeline {
  double seconds = 0;
  std::array<double, kNumEngines> busy_seconds{};  // of the core that is busiest; dma: all cores, which share HBM
  std::vector<Event> events;                       // in program order
  std::vector<std::int32_t> critical_path;         // events, first to last: each set the start of the next
};

enum class Synchronization : std::uint8_t {
  scheduled,   // a compiler's: whoever needs a tile waits for whoever made it, and each engine's instructions are put
               // into an order in which it waits least; copies of tiles limit how far it runs ahead
  automatic,   // the same waits, in program order
  semaphores,  // program order, and only the program's own waits
};

// Walks the loops: for looking into one program, not for counting. The outermost parallel loops are split over the
// device's cores, each with engines of its own; they share HBM. Of a recorded program each instruction runs on the core
// that it names. Tiles that do not fit together overlap nothing.
// Throws `unimplemented` past kMostEvents.
inline constexpr std::int64_t kMostEvents = 4'000'000;
Timeline timeline(const Program& program, const target::Target& target,
                  Synchronization synchronization = Synchronization::scheduled);

}  // namespace trn::program
