#include "aten/execution/layout.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>

namespace trn::aten {

std::vector<std::int64_t> memory_order(const at::Tensor& tensor) {
  std::vector<std::int64_t> axes(static_cast<std::size_t>(tensor.dim()));
  std::iota(axes.begin(), axes.end(), 0);
  std::ranges::stable_sort(axes, std::ranges::greater(), [&](std::int64_t d) { return tensor.stride(d); });
  return axes;
}

at::Tensor spread(const at::Tensor& dense, const kernels::Access& access) {
  const auto run = access.contiguous_elements;
  const auto num_runs = access.elements / run;
  return dense.as_strided({num_runs, run}, {access.span_elements / num_runs, 1});
}

at::Tensor staged(const at::Tensor& tensor, const kernels::Access& access, std::int64_t elements) {
  if (elements == tensor.numel()) {
    return tensor.contiguous();
  }
  at::Tensor buffer = at::empty({elements}, tensor.options());
  at::Tensor runs = spread(buffer, access);
  runs.copy_(tensor.reshape(runs.sizes()));
  return buffer;
}

}  // namespace trn::aten
