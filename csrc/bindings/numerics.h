// The switches of hardware numerics, by name.
#pragma once

#include <pybind11/pybind11.h>

#include "emu/numerics.h"

namespace trn::bindings {

// Of those given; the others keep their defaults. An unknown name raises.
emu::Numerics departures_from(const pybind11::dict& dict);
void bind_numerics(pybind11::module_& module);

}  // namespace trn::bindings
