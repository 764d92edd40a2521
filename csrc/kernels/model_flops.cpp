// Model FLOPs of a part: the multiply-adds that the operator is defined by, whatever the engines did.
#include <algorithm>
#include <variant>
#include <vector>

#include "kernels/build.h"
#include "kernels/tiling.h"

namespace trn::kernels {
namespace {

// Pairs (i, j) with j <= i: torch's is_causal aligns the mask's diagonal with the top left corner.
std::int64_t causal_pairs(std::int64_t q_len, std::int64_t kv_len) {
  const auto triangle = std::min(q_len, kv_len);
  return triangle * (triangle + 1) / 2 + (q_len - triangle) * kv_len;
}

ModelFlops of(const MatmulShape& s) {
  const auto flops = 2 * s.batch * s.m * s.n * s.k;
  return {flops, flops, s.b_dtype};
}

// Each weight meets each output position of its filter once, in all three directions.
ModelFlops of(const ConvShape& s) {
  const auto groups = std::max<std::int64_t>(s.groups, 1);
  const auto flops = 2 * s.batch * s.out_channels * (s.in_channels / groups) * product(s.kernel) * product(s.out);
  return {flops, flops, s.dtype};
}

// Forward: QK^T and PV. Backward: dV, dP, dQ and dK, but not the recomputed QK^T.
ModelFlops of(const AttentionShape& s) {
  const auto per_pair = 2 * s.batch * s.heads * (s.head_dim + s.value_dim) * (s.backward ? 2 : 1);
  const auto flops = per_pair * s.q_len * s.kv_len;
  return {flops, s.causal ? per_pair * causal_pairs(s.q_len, s.kv_len) : flops, s.dtype};
}

// Sparse products; other gathers and scatters multiply nothing.
ModelFlops of(const IndexShape& s) {
  const auto flops = s.scales ? 2 * s.num_rows * s.row_elements : 0;
  return {flops, flops, s.dtype};
}

template <class Shape>
ModelFlops of(const Shape&) {
  return {};
}

}  // namespace

ModelFlops model_flops(const Part& part) {
  ModelFlops model = std::visit([](const auto& shape) { return of(shape); }, part);
  if (model.dtype == Dtype::float32 || model.dtype == Dtype::float64) {
    model.dtype = part.precision.auto_cast == Dtype::float32 ? model.dtype : part.precision.auto_cast;
  }
  return model;
}

}  // namespace trn::kernels
