// The switch of dry runs, and who is asked for values in them.
#pragma once

#include <pybind11/pybind11.h>

namespace trn::bindings {

void bind_dry_run(pybind11::module_& module);

}  // namespace trn::bindings
