// Pooling of planes that fit SBUF: a plane on each partition, its windows as access patterns.
#pragma once

#include "kernels/shapes.h"
#include "program/program.h"
#include "target/target.h"

namespace trn::kernels {

// Of known geometry, two spatial axes, and planes that fit SBUF.
bool has_pool_program(const target::Core& core, const WindowShape& shape);
program::Program pool(const target::Target& target, const WindowShape& shape);

}  // namespace trn::kernels
