// A NeuronCore that keeps what it ran, as Python drives it.
#pragma once

#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/tile.h"
#include "emu/neuron_core.h"
#include "program/opcode.h"
#include "program/recorder.h"
#include "target/target.h"

namespace trn::bindings {

// What the cores of a logical one share: HBM, and the program that they record.
struct LogicalCore {
  // `num_cores` have the device's HBM to themselves.
  LogicalCore(const target::Target& target, program::Synchronization synchronization, std::int16_t num_cores);

  // An Error where `bytes` more do not fit in the device's HBM beside the arrays that live.
  void require_room(std::int64_t bytes) const;

  const target::Target target;
  program::Recorder recorder;
  // Arrays of HBM by where their bytes begin, as long as what owns those lives.
  std::map<std::pair<const void*, target::Dtype>, std::int16_t> tensors;
  std::vector<pybind11::object> kept;  // owners that cannot tell when they go
  std::vector<bool> has_core;          // by rank
};

class RecordedCore : public emu::NeuronCore {
 public:
  RecordedCore(std::shared_ptr<LogicalCore> logical, std::int16_t rank, std::uint64_t seed,
               const emu::Numerics& numerics);
  ~RecordedCore();
  RecordedCore(const RecordedCore&) = delete;
  RecordedCore& operator=(const RecordedCore&) = delete;

  const std::shared_ptr<LogicalCore> logical;
  const std::int16_t rank;
  program::Recorder& recorder;  // all cores'
};

inline const Tile* tile_of(const Operand& operand) {
  return std::get_if<Tile>(&operand);
}
inline const Tile* tile_of(const std::optional<Tile>& tile) {
  return tile ? &*tile : nullptr;
}
inline const Tile* tile_of(const std::optional<Operand>& operand) {
  return operand ? tile_of(*operand) : nullptr;
}

// What an instruction's cost and order need beside its tiles.
struct Also {
  std::optional<target::Engine> engine = {};
  target::Alu alu0 = target::Alu::none, alu1 = target::Alu::none;
  target::Activation function = target::Activation::copy;
  float scalar0 = 0;
  bool accumulate = false;
  const Tile* res = nullptr;
  bool writes_in_part = false;  // and marks for itself what it wrote
  std::optional<int> queue = {};
  std::int32_t semaphore = 0;
  std::int64_t value = 0;
  bool is_single_row = false;
};
program::Instruction instruction(const RecordedCore& core, target::Opcode opcode, const Tile* dst,
                                 const std::vector<const Tile*>& srcs, const Also& also);

template <class Run>
void issue(RecordedCore& core, target::Opcode opcode, const Tile* dst, const std::vector<const Tile*>& srcs,
           const Also& also, Run run) {
  core.recorder.issue(instruction(core, opcode, dst, srcs, also), run);
  for (const Tile* written : {dst, also.res}) {
    if (written != nullptr && !also.writes_in_part) {
      emu::mark_written(written->view);
    }
  }
}

}  // namespace trn::bindings
