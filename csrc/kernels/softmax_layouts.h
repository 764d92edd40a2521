// softmax whose rows do not lie on partitions.
#pragma once

#include <optional>

#include "kernels/build.h"

namespace trn::kernels {

// Few columns of very many rows, across partitions: each row an element of a tile that has all its columns; of rows
// that fit in SBUF so.
program::Program softmax_slabs(const target::Target& target, const SoftmaxShape& shape);
// Few long rows: each over all partitions; none if a row does not fit in SBUF so.
std::optional<program::Program> softmax_spread(const target::Target& target, const SoftmaxShape& shape);

}  // namespace trn::kernels
