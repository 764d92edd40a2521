// The per-lane registers that VectorE and ScalarE reduce into, across instructions.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string_view>

#include "emu/alu.h"
#include "emu/lanes.h"
#include "emu/limits.h"

namespace trn::emu {

// nki.isa.reduce_cmd.
enum class ReduceCmd : std::uint8_t { idle, reset, reduce, reset_reduce, load_reduce };

constexpr bool resets(ReduceCmd cmd) {
  return cmd == ReduceCmd::reset || cmd == ReduceCmd::reset_reduce;
}
constexpr bool reduces(ReduceCmd cmd) {
  return cmd == ReduceCmd::reduce || cmd == ReduceCmd::reset_reduce || cmd == ReduceCmd::load_reduce;
}

// What a reduction starts from.
inline float identity(Alu alu) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  switch (alu) {
    case Alu::multiply:
      return 1.0F;
    case Alu::maximum:
      return -kInfinity;
    case Alu::minimum:
    case Alu::abs_min:
      return kInfinity;
    default:
      return 0.0F;
  }
}

inline void require_reduces(std::string_view where, ReduceCmd cmd) {
  if (!reduces(cmd)) {
    refuse(where, "reduce_cmd is reset_reduce, reduce or load_reduce", resets(cmd) ? "reset" : "idle",
           "Use one of them.");
  }
}

inline void require_no_load(std::string_view where, ReduceCmd cmd) {
  if (cmd == ReduceCmd::load_reduce) {
    refuse(where, "reduce_cmd is idle, reset, reduce or reset_reduce", "load_reduce", "Use one of them.");
  }
}

// An instruction uses the lanes that its tile's partitions lie in.
class ReduceRegisters {
 public:
  float& lane(const View& tile, std::int64_t partition) {
    return at_[static_cast<std::size_t>(tile.start_partition + partition)];
  }
  // What the instruction finds: `identity` after a reset, `loaded` [P] where it loads.
  void begin(const View& tile, ReduceCmd cmd, float identity, const float* loaded = nullptr) {
    for (std::int64_t p = 0; p < tile.partitions; ++p) {
      float& state = lane(tile, p);
      state = resets(cmd) ? identity : cmd == ReduceCmd::load_reduce ? loaded[p] : state;
    }
  }
  void reduce(const View& tile, std::int64_t partition, Alu alu, float value) {
    float& state = lane(tile, partition);
    apply(alu, &state, &value, &state, 1);
  }
  // Into `result` [P, 1], which may be null, or their negation: they keep what they hold.
  void store(Lanes& lanes, const View& tile, const View* result, bool negates = false) {
    if (result != nullptr) {
      std::array<float, kMostPartitions> values = {};
      for (std::int64_t p = 0; p < tile.partitions; ++p) {
        values[static_cast<std::size_t>(p)] = negates ? -lane(tile, p) : lane(tile, p);
      }
      lanes.write_all(*result, values.data());
    }
  }

 private:
  std::array<float, kMostPartitions> at_ = {};
};

}  // namespace trn::emu
