// What runs at every module call and optimizer step of a profile, called without pybind11: it costs as much as the
// rest.
#pragma once

#include <pybind11/pybind11.h>

namespace trn::bindings {

void bind_module_calls(pybind11::module_& module);

}  // namespace trn::bindings
