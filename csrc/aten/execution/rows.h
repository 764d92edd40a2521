// Tensors as the row kernels take them.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace trn::aten {

// The same elements with the axes `dims` innermost, as [rows, cols]; across partitions outermost, as [cols, rows]. All
// axes where there are no dims.
inline at::Tensor as_rows(const at::Tensor& tensor, std::span<const std::int64_t> dims, bool across_partitions) {
  std::vector<std::int64_t> kept, reduced;
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    const bool is_reduced = dims.empty() || std::ranges::any_of(dims, [&](std::int64_t dim) {
                              return (dim < 0 ? dim + tensor.dim() : dim) == d;
                            });
    (is_reduced ? reduced : kept).push_back(d);
  }
  auto& first = across_partitions ? reduced : kept;
  const auto& second = across_partitions ? kept : reduced;
  first.insert(first.end(), second.begin(), second.end());
  return tensor.permute(first);
}

}  // namespace trn::aten
