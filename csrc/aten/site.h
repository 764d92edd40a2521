// Where a launch comes from: phase, module and source line, followed through autograd to the forward that caused it.
#pragma once

#include <cstdint>
#include <optional>

#include "runtime/ledger.h"

namespace trn::aten {

// Of the calling thread, now. Called once per launch under a profile.
runtime::Site current_site();
// The category that fresh memory belongs to until a later tag knows better.
runtime::MemoryCategory current_category() noexcept;

// Nodes that autograd made before are none of the recording's.
void begin_recording();
void push_module(std::uint32_t module);
void pop_module();
void set_phase(std::optional<runtime::Phase> phase);
bool is_phase_set();
// Around a forward pass that activation checkpointing runs again, in the backward pass of the calling thread.
void begin_recompute();
void end_recompute();
// Where the running thread is in the user's source.
struct Place {
  std::uint32_t line = 0;  // 0: unknown
  bool in_graph = false;   // of a compiled graph, which knows where its calls came from, and may know the module
  std::optional<std::uint32_t> module = {};
  bool is_callers = false;  // the line: of the graph's caller, as the graph knows none of the user's
};
using PlaceSource = Place (*)();
void set_place_source(PlaceSource source);  // null turns lines off

}  // namespace trn::aten
