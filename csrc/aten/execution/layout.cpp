#include "aten/execution/layout.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "aten/alias.h"
#include "aten/workers.h"

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
  // Gaps are read too, and are nobody's memory.
  at::Tensor buffer =
      raises_uninitialized() ? at::zeros({elements}, tensor.options()) : at::empty({elements}, tensor.options());
  at::Tensor runs = spread(buffer, access);
  runs.copy_(tensor.reshape(runs.sizes()));
  return buffer;
}

std::optional<BoundPart> bind_dense(const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& outputs) {
  if (!std::ranges::all_of(inputs, is_plain) || !std::ranges::all_of(outputs, is_plain)) {
    return std::nullopt;
  }
  BoundPart bound;
  for (const at::Tensor& input : inputs) {
    bound.inputs.push_back(cpu_alias(input).contiguous());
  }
  for (const at::Tensor& output : outputs) {
    bound.outputs.push_back(dense_result(cpu_alias(output)));
  }
  return bound;
}

}  // namespace trn::aten
