// Target records as Python objects.
#pragma once

#include <pybind11/pybind11.h>

#include "target/target.h"

namespace trn::bindings {

// {"name": ..., "core": {...}, "device": {...}, "chip": {...}, "instances": [...]}: the fields of target/fields.h, all
// of them and no others; errors name the field.
target::Target target_from_dict(const pybind11::dict& dict);
pybind11::dict target_to_dict(const target::Target& target);

void bind_target(pybind11::module_& module);

}  // namespace trn::bindings
