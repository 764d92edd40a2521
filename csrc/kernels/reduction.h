// The reductions that are more than one operation over the elements.
#pragma once

#include "kernels/build.h"
#include "kernels/rows.h"

namespace trn::kernels {

// The largest or smallest of each row, and its first place.
program::Program extreme_places(const target::Target& target, const ReductionShape& shape, rows::Layout layout);
// Mean squared deviations, and means.
program::Program variance(const target::Target& target, const ReductionShape& shape, rows::Layout layout);

}  // namespace trn::kernels
