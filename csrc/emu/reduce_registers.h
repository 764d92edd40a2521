// The per-lane registers that VectorE and ScalarE reduce into, across instructions.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "emu/lanes.h"

namespace trn::emu {

// nki.isa.reduce_cmd.
enum class ReduceCmd : std::uint8_t { idle, reset, reduce, reset_reduce, load_reduce };

struct ReduceRegisters {
  std::array<float, kMostPartitions> at = {};

  bool resets(ReduceCmd cmd) const { return cmd == ReduceCmd::reset || cmd == ReduceCmd::reset_reduce; }
  bool reduces(ReduceCmd cmd) const { return cmd == ReduceCmd::reduce || cmd == ReduceCmd::reset_reduce; }
};

}  // namespace trn::emu
