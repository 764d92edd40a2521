// Device time of a Program.
//
// A nest is a pipeline: load, engines and store of successive tiles overlap, so that
//   seconds = exposed + longest stage + every instruction of the other stages once + latencies
// where the third term is the fill and drain of the pipeline: the first tile's way to the longest stage, and the last
// one's from there. A stage's time is its total over the nest. A load starts when a copy of its buffer is free, and
// takes a DMA latency besides its transfer, as the store that frees it does: the copies' turns are a stage too, and so
// is a port of NeuronCore-v2, with what both of its engines do there. A load into a buffer with one copy cannot run
// ahead, and is `exposed`. A program whose tiles do not fit together overlaps nothing.
//
// Two DMA latencies are added, the first load's and the last store's; a nest that waits for a temporary of an earlier
// nest pays them again. Rows picked by an index pay one more, the index's. An exposed load pays one each time. A
// scatter that adds fetches rows that the trip before may have written: that half of it is exposed, and pays two each
// time. What an engine wrote is seen some cycles after the instruction's end: a nest adds those of its longest chain.
//
// Work is split over the device's physical cores by the trips of the outermost parallel loop around it; the last round
// may leave cores idle. What lies outside of parallel loops is done once for all cores.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "program/count.h"
#include "program/instruction_cost.h"
#include "program/split.h"

namespace trn::program {
namespace {

struct Work {
  std::array<double, kNumEngines> seconds{};  // dma: what overlaps
  double exposed_seconds = 0;
  double latency_seconds = 0;                   // of DMA
  double chain_seconds = 0;                     // the longest chain of results that wait for one another
  std::map<std::int16_t, double> turn_seconds;  // by on-chip buffer: its copies' turns, one load after another
  std::array<double, kPorts.size()> port_seconds{};
  std::array<double, kNumEngines> first_tile_seconds{};  // each instruction once
  bool waits = false, loads = false, stores = false;
};

class Costing {
 public:
  Costing(const Program& program, const target::Target& target) : program_(program), target_(target) {}

  Work of_nest(const Nest& nest) {
    Work work;
    nest_cores_ = most_cores(nest.body, target_.device);
    seen_seconds_.assign(program_.buffers.size(), 0);
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
    const double seconds = times * busy / clock / cores;
    work.seconds[static_cast<std::size_t>(instruction.engine)] += seconds;
    for (std::size_t p = 0; p < kPorts.size(); ++p) {
      work.port_seconds[p] += holds(kPorts[p], program_, instruction, target_.core) ? seconds : 0;
    }
    work.first_tile_seconds[static_cast<std::size_t>(instruction.engine)] += busy / clock;
    follow(work, instruction, result_latency_seconds(instruction.engine, target_));
  }

  // Until its result is seen: its operands' latencies one after another, and its own.
  void follow(Work& work, const Instruction& instruction, double latency_seconds) {
    double seconds = 0;
    for (const Tile& tile : instruction.src) {
      seconds = std::max(seconds, tile.buffer < 0 ? 0 : seen_seconds_[static_cast<std::size_t>(tile.buffer)]);
    }
    seconds += latency_seconds;
    for (const Tile* tile : {&instruction.dst, &instruction.res}) {
      if (tile->buffer >= 0) {
        double& seen = seen_seconds_[static_cast<std::size_t>(tile->buffer)];
        seen = std::max(seen, seconds);
      }
    }
    work.chain_seconds = std::max(work.chain_seconds, seconds);
  }

  void add_dma(Work& work, const Instruction& instruction, double times, double cores) {
    follow(work, instruction, 0);
    const double seconds = times * dma_seconds(program_, instruction, target_, std::ceil(nest_cores_));
    if (seconds == 0) {
      return;
    }
    const Buffer& dst = program_.buffers[static_cast<std::size_t>(instruction.dst.buffer)];
    (dst.memory == Memory::hbm ? work.stores : work.loads) = true;
    if (transfer_passes(program_, instruction, target_.core) > 1) {
      work.exposed_seconds += seconds;
      work.latency_seconds += (times - 1) * 2 * target_.core.dma_fixed_seconds / cores;
    }
    if ((dst.memory == Memory::sbuf || dst.memory == Memory::psum) && dst.copies < 2) {
      work.exposed_seconds += seconds;
      work.latency_seconds += (times - 1) * target_.core.dma_fixed_seconds / cores;
    } else {
      work.seconds[static_cast<std::size_t>(Engine::dma)] += seconds;
      add_turns(work, dst.memory == Memory::hbm ? instruction.src.front() : instruction.dst, seconds, times, cores);
    }
    work.first_tile_seconds[static_cast<std::size_t>(Engine::dma)] += seconds / times;
    if (is_indexed(instruction.opcode)) {  // the first index comes before the first row
      work.latency_seconds += target_.core.dma_fixed_seconds;
    }
    for (const Tile& tile : instruction.src) {
      work.waits =
          work.waits || (tile.buffer >= 0 && program_.buffers[static_cast<std::size_t>(tile.buffer)].is_temporary);
    }
  }

  // The copies of an on-chip tile take turns: each is busy from the start of a transfer to its end.
  void add_turns(Work& work, const Tile& tile, double seconds, double times, double cores) {
    const Buffer& buffer = program_.buffers[static_cast<std::size_t>(tile.buffer)];
    if (buffer.memory != Memory::sbuf && buffer.memory != Memory::psum) {
      return;
    }
    const auto copies = static_cast<double>(buffer.copies);
    const double num_turns = std::max(times / cores - copies, 0.0) / copies;
    work.turn_seconds[tile.buffer] += num_turns * (seconds / times + target_.core.dma_fixed_seconds);
  }

  const Program& program_;
  const target::Target& target_;
  double nest_cores_ = 1;
  std::vector<double> seen_seconds_;  // by buffer: from when its tile is done until it is seen
};

// The pipeline's length: the longest stage, and the first tile's way through the others.
double pipelined_seconds(const Work& work, bool overlaps) {
  const double sum = std::accumulate(work.seconds.begin(), work.seconds.end(), 0.0);
  const double first_tile = std::accumulate(work.first_tile_seconds.begin(), work.first_tile_seconds.end(), 0.0);
  auto first_tile_of = [&](Engine engine) { return work.first_tile_seconds[static_cast<std::size_t>(engine)]; };
  const auto slowest = static_cast<std::size_t>(std::ranges::max_element(work.seconds) - work.seconds.begin());
  double longest = work.seconds[slowest] + first_tile - work.first_tile_seconds[slowest];
  for (std::size_t p = 0; p < kPorts.size(); ++p) {
    const auto [first, second] = kPorts[p].engines;
    const double others = first_tile - first_tile_of(first) - first_tile_of(second);
    longest = std::max(longest, work.port_seconds[p] + others);
  }
  double seconds = overlaps ? std::min(longest, sum) : sum;
  for (const auto& [buffer, turns] : work.turn_seconds) {
    seconds = std::max(seconds, turns + first_tile - first_tile_of(Engine::dma));
  }
  return seconds;
}

}  // namespace

Duration duration(const Program& program, const target::Target& target) {
  Duration result;
  Costing costing(program, target);
  const bool overlaps = copies_fit(program, target.core);
  bool has_loaded = false, has_stored = false;
  for (const Nest& nest : program.nests) {
    const Work work = costing.of_nest(nest);
    for (std::size_t e = 0; e < work.seconds.size(); ++e) {
      result.busy_seconds[e] += work.seconds[e];
    }
    result.busy_seconds[static_cast<std::size_t>(Engine::dma)] += work.exposed_seconds;
    result.seconds +=
        work.chain_seconds + work.latency_seconds + work.exposed_seconds + pipelined_seconds(work, overlaps);
    const bool pays_load = work.loads && (!has_loaded || work.waits),
               pays_store = work.stores && (!has_stored || work.waits);
    result.seconds += (pays_load + pays_store) * target.core.dma_fixed_seconds;
    has_loaded = has_loaded || work.loads;
    has_stored = has_stored || work.stores;
  }
  const auto slowest = std::max_element(result.busy_seconds.begin(), result.busy_seconds.end());
  if (*slowest > 0) {
    result.bound_by = static_cast<Engine>(slowest - result.busy_seconds.begin());
  }
  return result;
}

Program faster(Program first, Program second, const target::Target& target) {
  const bool is_second = duration(second, target).seconds < duration(first, target).seconds;
  return is_second ? std::move(second) : std::move(first);
}

}  // namespace trn::program
