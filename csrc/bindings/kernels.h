// Kernel specs and their costs as plain Python dicts.
#pragma once

#include <pybind11/pybind11.h>

#include "kernels/cost.h"
#include "kernels/shapes.h"
#include "program/count.h"

namespace trn::bindings {

// {"family": "matmul", "m": 4, ...}: every field is required; errors name the family and the field.
kernels::Part part_from_dict(const pybind11::dict& dict);
pybind11::dict part_to_dict(const kernels::Part& part);

kernels::Spec spec_from_list(const pybind11::list& list);
pybind11::list spec_to_list(const kernels::Spec& spec);

pybind11::dict counts_to_dict(const program::Counts& counts);
pybind11::dict cost_to_dict(const kernels::Cost& cost);

void bind_kernels(pybind11::module_& module);

}  // namespace trn::bindings
