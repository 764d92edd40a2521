// Timelines of programs as columns.
#pragma once

#include <pybind11/pybind11.h>

#include "program/timeline.h"

namespace trn::bindings {

// "seconds"; "busy_seconds" by engine; and per event, as arrays: "opcode" and "engine" (indices into "opcodes" and
// "engines"), "core", "queue", "start_seconds", "end_seconds", "bound_by" (-1: none); "critical_path" (events).
pybind11::dict timeline_to_dict(const program::Timeline& timeline);

void bind_timeline(pybind11::module_& module);

}  // namespace trn::bindings
