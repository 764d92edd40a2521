#include "aten/execution/layout.h"

#include <ATen/ops/empty.h>

namespace trn::aten {

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
