// softmax over few columns of very many rows, across partitions.
#pragma once

#include "kernels/build.h"

namespace trn::kernels {

// Each row an element of a tile that has all its columns, instead of a partition; of rows that fit in SBUF so.
program::Program softmax_slabs(const target::Target& target, const SoftmaxShape& shape);

}  // namespace trn::kernels
