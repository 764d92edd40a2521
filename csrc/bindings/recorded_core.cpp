// Instructions as a Program holds them.
#include "bindings/recorded_core.h"

#include <algorithm>
#include <string>

#include "emu/limits.h"
#include "target/error.h"

namespace trn::bindings {
namespace {

constexpr int kMostQueues = 16;

target::Target of_cores(target::Target target, std::int16_t num_cores) {
  target.device.num_cores = num_cores;
  return target;
}

void require_own(const RecordedCore& core, target::Opcode opcode, const Tile* tile) {
  const bool is_reached = tile == nullptr || tile->core.get() == &core ||
                          (tile->view.memory == target::Memory::hbm && tile->core->logical.get() == core.logical.get());
  if (!is_reached) {
    throw Error(Category::invalid_argument, "[" + std::string(target::name(opcode)) +
                                                "] tiles are of the core that runs the instruction; got " + tile->name +
                                                " of another core. Make it on this one.");
  }
}

void require_result(const RecordedCore& core, target::Opcode opcode, const Tile* tile) {
  require_own(core, opcode, tile);
  if (tile != nullptr) {
    tile->require_writable(target::name(opcode));
  }
}

void require_reached_by_dma(target::Opcode opcode, const Tile* tile) {
  if (tile != nullptr) {
    emu::require_memory(target::name(opcode), "tiles lie in HBM or SBUF", tile->view,
                        tile->view.memory != target::Memory::psum, "Copy it to SBUF first.");
  }
}

}  // namespace

LogicalCore::LogicalCore(const target::Target& target, program::Synchronization synchronization, std::int16_t num_cores)
    : target(of_cores(target, num_cores)),
      recorder(synchronization, num_cores),
      has_core(static_cast<std::size_t>(num_cores)) {}

void LogicalCore::require_room(std::int64_t bytes) const {
  std::int64_t used = 0;
  for (const auto& [key, buffer] : tensors) {
    const program::Buffer& held = recorder.program().buffers[static_cast<std::size_t>(buffer)];
    used += held.shares_with < 0 ? held.elements * target::itemsize(held.dtype) : 0;
  }
  const std::int64_t free = std::max<std::int64_t>(target.device.hbm_bytes - used, 0);
  if (bytes > free) {
    throw Error(Category::out_of_memory, "[hbm] arrays fit in the device's memory; got " + std::to_string(bytes) +
                                             " bytes beside " + std::to_string(used) + ", limit " +
                                             std::to_string(free) + ". Delete others, or take slices.");
  }
}

RecordedCore::RecordedCore(std::shared_ptr<LogicalCore> logical, std::int16_t rank, std::uint64_t seed,
                           const emu::Numerics& numerics)
    : emu::NeuronCore(logical->target.core, seed, emu::plain_tile_gemm, numerics),
      logical(std::move(logical)),
      rank(rank),
      recorder(this->logical->recorder) {
  emu::require_index("NeuronCore", "a logical core has few cores", rank, recorder.num_cores(), "Use a lower rank.");
  if (this->logical->has_core[static_cast<std::size_t>(rank)]) {
    throw Error(Category::invalid_argument,
                "[NeuronCore] a logical core has one core of each rank; got another one of " + std::to_string(rank) +
                    ". Use LogicalCore's.");
  }
  this->logical->has_core[static_cast<std::size_t>(rank)] = true;
  psum.keep_marks();  // nc_matmul asks what was written where
}

RecordedCore::~RecordedCore() {
  recorder.abandon(rank);
  logical->has_core[static_cast<std::size_t>(rank)] = false;
}

program::Instruction instruction(const RecordedCore& core, target::Opcode opcode, const Tile* dst,
                                 const std::vector<const Tile*>& srcs, const Also& also) {
  program::Instruction result{.opcode = opcode};
  result.core = core.rank;
  result.engine = also.engine.value_or(program::traits(opcode).engine);
  require_result(core, opcode, dst);
  require_result(core, opcode, also.res);
  if (dst != nullptr) {
    result.dst = dst->operand();
  }
  for (const Tile* tile : srcs) {
    require_own(core, opcode, tile);
    if (tile != nullptr) {
      result.src.push_back(tile->operand());
    }
  }
  if (also.res != nullptr) {
    result.res = also.res->operand();
  }
  for (const target::Alu alu : {also.alu0, also.alu1}) {
    if (alu == target::Alu::abs_max || alu == target::Alu::abs_min || alu == target::Alu::square ||
        alu == target::Alu::relu) {
      emu::require_generation(std::string(target::name(opcode)) + " " + std::string(target::name(alu)), core.core, 4);
    }
  }
  result.alu0 = also.alu0;
  result.alu1 = also.alu1;
  result.function = also.function;
  result.scalar0 = also.scalar0;
  result.accumulate_depth = also.accumulate ? program::kAccumulate : program::kOverwrite;
  result.semaphore = also.semaphore;
  result.value = also.value;
  result.is_single_row = also.is_single_row;
  if (result.engine == target::Engine::dma) {
    require_reached_by_dma(opcode, dst);
    for (const Tile* tile : srcs) {
      require_reached_by_dma(opcode, tile);
    }
    const bool is_automatic = core.recorder.synchronization() == program::Synchronization::automatic;
    const int queue = also.queue.value_or(is_automatic ? -1 : 0);
    if (also.queue && (queue < 0 || queue >= kMostQueues)) {
      throw Error(Category::invalid_argument, "[" + std::string(target::name(opcode)) +
                                                  "] a core has DMA queues; got " + std::to_string(queue) + ", limit " +
                                                  std::to_string(kMostQueues - 1) + ". Use another one.");
    }
    result.queue = static_cast<std::int8_t>(queue);
  }
  return result;
}

}  // namespace trn::bindings
