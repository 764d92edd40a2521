// How a matrix product is blocked, and the traffic that follows.
#pragma once

#include <cstdint>

#include "kernels/shapes.h"
#include "target/target.h"

namespace trn::kernels {

struct MatmulPlan {
  bool m_outer = true;  // blocks of rows are the outer loop, else blocks of columns
  std::int64_t m_block = 0, n_block = 0, k_block = 0;
  std::int64_t batches = 1;               // products that a step loads, computes and stores together
  std::int64_t m_tiles = 1, k_tiles = 1;  // at least, so that a lane has that many rows of the result, or of K
  std::int64_t num_m_blocks = 1, num_n_blocks = 1;
  std::int64_t a_reads = 1, b_reads = 1;  // times that each element of an operand is read from HBM, per batch
};

// The product that is really computed: rows of a stack of matrices that share b are one matrix, complex numbers are
// pairs of real ones.
MatmulShape normalised(MatmulShape shape);
// Of a normalised shape with no empty extent.
MatmulPlan matmul_plan(const target::Target& target, const MatmulShape& shape, Dtype auto_cast = Dtype::float32);

}  // namespace trn::kernels
