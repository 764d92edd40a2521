// Ranks of one process for Python: their turns, their store, their transport.
#pragma once

#include <pybind11/pybind11.h>

namespace trn::bindings {

void bind_local_ranks(pybind11::module_& module);

}  // namespace trn::bindings
