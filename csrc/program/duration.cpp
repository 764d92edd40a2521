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
// may leave cores idle. What lies outside of parallel loops is done once for all cores. HBM is the device's: the cores
// of a nest draw on one rate, each limited by its own DMA engines. A descriptor
// shorter than `saturating` bytes costs like (bytes + saturating) / 2 of them: half the saturating size is spent
// on its start.
#include <algorithm>
#include <cmath>

#include "program/count.h"
#include "program/instruction_cost.h"

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
    nest_cores_ = most_cores(nest.body);
    add_items(work, nest.body, 1, 1, false);
    return work;
  }

  // Do all SBUF tiles with all their copies fit?
  bool fits() const {
    std::int64_t bytes = 0;
    for (const Buffer& buffer : program_.buffers) {
      if (buffer.memory == Memory::sbuf) {
        bytes += buffer.copies * buffer.elements_per_partition * target::itemsize(buffer.dtype);
      }
    }
    return bytes <= target_.core.sbuf_bytes_per_partition;
  }

 private:
  // The outermost parallel loop on the way to an instruction is split over the cores. Loops of one trip are no loops.
  static bool is_split_here(const Loop& loop) { return loop.parallel && loop.trips > 1; }

  void add_items(Work& work, const std::vector<Item>& items, double times, double cores, bool is_split) {
    for (const Item& item : items) {
      if (const auto* instruction = std::get_if<Instruction>(&item)) {
        add(work, *instruction, times, cores);
        continue;
      }
      const Loop& loop = *std::get<std::unique_ptr<Loop>>(item);
      const bool splits = !is_split && is_split_here(loop);
      add_items(work, loop.body, times * static_cast<double>(loop.trips), splits ? speed_up(loop) : cores,
                is_split || splits);
    }
  }

  double most_cores(const std::vector<Item>& items) const {
    double most = 1;
    for (const Item& item : items) {
      if (const auto* loop = std::get_if<std::unique_ptr<Loop>>(&item)) {
        most = std::max(most, is_split_here(**loop) ? speed_up(**loop) : most_cores((*loop)->body));
      }
    }
    return most;
  }

  // Physical cores that a loop keeps busy on average: trips over rounds. Perfectly nested parallel loops are one.
  double speed_up(const Loop& outer) const {
    std::int64_t trips = outer.trips;
    for (const Loop* loop = &outer; loop->body.size() == 1;) {
      const auto* inner = std::get_if<std::unique_ptr<Loop>>(&loop->body.front());
      if (inner == nullptr || !(*inner)->parallel) {
        break;
      }
      loop = inner->get();
      trips *= loop->trips;
    }
    const std::int64_t cores = std::max<std::int64_t>(target_.device.num_cores, 1);
    const std::int64_t rounds = (trips + cores - 1) / cores;
    return static_cast<double>(trips) / static_cast<double>(std::max<std::int64_t>(rounds, 1));
  }

  void add(Work& work, const Instruction& instruction, double times, double cores) {
    if (instruction.engine == Engine::dma) {
      add_dma(work, instruction, times, cores);
      return;
    }
    const auto busy = static_cast<double>(cycles(program_, instruction, target_.core));
    const double clock = clock_hz(instruction.engine);
    work.seconds[static_cast<std::size_t>(instruction.engine)] += times * busy / clock / cores;
    work.latency_seconds += static_cast<double>(target_.core.access_overhead_cycles) / clock;
  }

  void add_dma(Work& work, const Instruction& instruction, double times, double cores) {
    const Transfer moved = transfer(program_, instruction);
    if (moved.descriptors == 0) {
      return;
    }
    const auto saturating = static_cast<double>(target_.core.dma_saturating_bytes);
    const double run = static_cast<double>(moved.bytes) / static_cast<double>(moved.descriptors);
    const double charged = static_cast<double>(moved.descriptors) * std::max(run, (run + saturating) / 2);
    const Buffer& dst = program_.buffers[static_cast<std::size_t>(instruction.dst.buffer)];
    const Buffer& src = program_.buffers[static_cast<std::size_t>(instruction.src.front().buffer)];
    double rate = std::min(target_.device.hbm_bytes_per_second * target_.device.hbm_efficiency,
                           std::ceil(nest_cores_) * target_.core.dma_bytes_per_second);
    if (dst.memory == Memory::host || src.memory == Memory::host) {
      rate = std::min(rate, target_.device.host_bytes_per_second);
    }
    const double seconds = times * std::max(charged / rate, indexing_seconds(instruction));
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

  // Rows picked by a 64-bit index come one at a time, however short they are.
  double indexing_seconds(const Instruction& instruction) const {
    if (instruction.opcode != Opcode::dma_gather && instruction.opcode != Opcode::dma_scatter) {
      return 0;
    }
    const Tile& index = instruction.src[1];
    if (target::itemsize(program_.buffers[static_cast<std::size_t>(index.buffer)].dtype) < 8) {
      return 0;
    }
    return static_cast<double>(index.elements()) * target_.device.gather_int64_seconds_per_index;
  }

  double clock_hz(Engine engine) const {
    const target::Core& core = target_.core;
    switch (engine) {
      case Engine::tensor:
        return core.tensor_clock_hz * target_.device.tensor_efficiency;
      case Engine::vector:
        return core.vector_clock_hz;
      case Engine::scalar:
        return core.scalar_clock_hz;
      default:
        return core.gpsimd_clock_hz;
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
  const bool overlaps = costing.fits();
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
