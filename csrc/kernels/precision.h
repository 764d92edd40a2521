// What the compiler's options and exact integers make of a Program: other dtypes for its on-chip buffers.
#pragma once

#include "kernels/shapes.h"
#include "program/program.h"
#include "target/target.h"

namespace trn::kernels {

// --auto-cast matmult: the fp32 tiles that TensorE multiplies, and those that are only moved into them.
void cast_products(program::Program& program, Dtype to);
// --auto-cast all: the tiles that hold fp32 operands in HBM too, but for accumulators and per-partition scalars.
void cast_operands(program::Program& program, Dtype to, bool casts_results);
// --native-int64: tiles of 64-bit operands keep them, and what an integer function computes in between. Where SBUF has
// no room for that, nothing changes.
void widen_integers(program::Program& program, const target::Core& core);
// The fp32 tiles of a program of integers become int32, so that nothing passes through fp32. False where some
// instruction has no integer form: the program is as it was.
bool exact_integers(program::Program& program);

// Dtypes that the program rounds 64-bit operands to on their way to an engine, each once.
std::vector<Dtype> narrowed_dtypes(const program::Program& program);

}  // namespace trn::kernels
