// Device time of a Program.
//
// A nest is a pipeline: load, engines and store of successive tiles overlap, so with n tiles per core
//   seconds = exposed + longest stage + (all other stages) / n
// where the last term is the fill and drain of the pipeline (n = 1: everything in turn). A stage's time is its total
// over the nest. A load into a buffer with one copy cannot run ahead, and is `exposed`. A program whose SBUF tiles do
// not fit together overlaps nothing. Two DMA latencies are added, the first load's and the last store's; a nest that
// waits for a temporary of an earlier nest pays them again. An exposed load pays one each time. A scatter that
// adds fetches rows that the trip before may have written: that half of it is exposed, and pays two each time. Each
// instruction of a nest adds its tensor access overhead once: the first tile runs down the chain of dependent
// instructions.
//
// Work is split over the device's physical cores by the trips of the outermost parallel loop around it; the last round
// may leave cores idle. What lies outside of parallel loops is done once for all cores.
#include <algorithm>
#include <cmath>

#include "program/count.h"
#include "program/instruction_cost.h"
#include "program/split.h"

namespace trn::program {
namespace {

struct Work {
  std::array<double, kNumEngines> seconds{};  // dma: what overlaps
  double exposed_seconds = 0;
  double latency_seconds = 0;
  double num_tiles = 1;  // of one core
  bool waits = false;
};

class Costing {
 public:
  Costing(const Program& program, const target::Target& target) : program_(program), target_(target) {}

  Work of_nest(const Nest& nest) {
    Work work;
    nest_cores_ = most_cores(nest.body, target_.device);
    add_items(work, nest.body, 1, 1, false);
    return work;
  }

 private:
  void add_items(Work& work, const std::vector<Item>& items, double times, double cores, bool is_split) {
    for (const Item& item : items) {
      if (const auto* instruction = std::get_if<Instruction>(&item)) {
        add(work, *instruction, times, cores);
        continue;
      }
      const Loop& loop = *std::get<std::unique_ptr<Loop>>(item);
      const bool splits = !is_split && is_split_here(loop);
      add_items(work, loop.body, times * static_cast<double>(loop.trips),
                splits ? split(perfectly_nested(loop), target_.device).speed_up() : cores, is_split || splits);
    }
  }

  void add(Work& work, const Instruction& instruction, double times, double cores) {
    if (instruction.engine == Engine::dma) {
      add_dma(work, instruction, times, cores);
      return;
    }
    const auto busy = static_cast<double>(cycles(program_, instruction, target_.core));
    const double clock = clock_hz(instruction.engine, target_);
    work.seconds[static_cast<std::size_t>(instruction.engine)] += times * busy / clock / cores;
    work.latency_seconds += static_cast<double>(target_.core.access_overhead_cycles) / clock;
  }

  void add_dma(Work& work, const Instruction& instruction, double times, double cores) {
    const double seconds = times * dma_seconds(program_, instruction, target_, std::ceil(nest_cores_));
    if (seconds == 0) {
      return;
    }
    const Buffer& dst = program_.buffers[static_cast<std::size_t>(instruction.dst.buffer)];
    if (adds_to_rows(instruction)) {
      work.exposed_seconds += seconds + (times - 1) * 2 * target_.core.dma_fixed_seconds / cores;
    }
    if ((dst.memory == Memory::sbuf || dst.memory == Memory::psum) && dst.copies < 2) {
      work.exposed_seconds += seconds + (times - 1) * target_.core.dma_fixed_seconds / cores;
    } else {
      work.seconds[static_cast<std::size_t>(Engine::dma)] += seconds;
    }
    work.num_tiles = std::max(work.num_tiles, times / cores);
    for (const Tile& tile : instruction.src) {
      work.waits =
          work.waits || (tile.buffer >= 0 && program_.buffers[static_cast<std::size_t>(tile.buffer)].is_temporary);
    }
  }

  const Program& program_;
  const target::Target& target_;
  double nest_cores_ = 1;
};

}  // namespace

Duration duration(const Program& program, const target::Target& target) {
  Duration result;
  Costing costing(program, target);
  const bool overlaps = copies_fit(program, target.core);
  bool is_first = true;
  for (const Nest& nest : program.nests) {
    const Work work = costing.of_nest(nest);
    double sum = 0, longest = 0;
    for (std::size_t e = 0; e < work.seconds.size(); ++e) {
      result.busy_seconds[e] += work.seconds[e];
      sum += work.seconds[e];
      longest = std::max(longest, work.seconds[e]);
    }
    result.busy_seconds[static_cast<std::size_t>(Engine::dma)] += work.exposed_seconds;
    const double num_tiles = overlaps ? work.num_tiles : 1;
    result.seconds += work.latency_seconds + work.exposed_seconds + longest + (sum - longest) / num_tiles;
    if (sum + work.exposed_seconds > 0 && (is_first || work.waits)) {
      result.seconds += 2 * target.core.dma_fixed_seconds;
      is_first = false;
    }
  }
  const auto slowest = std::max_element(result.busy_seconds.begin(), result.busy_seconds.end());
  if (*slowest > 0) {
    result.bound_by = static_cast<Engine>(slowest - result.busy_seconds.begin());
  }
  return result;
}

}  // namespace trn::program
