// Binds max pooling: planes one behind the other.
#include <algorithm>
#include <vector>

#include "aten/alias.h"
#include "aten/execution.h"
#include "aten/execution/layout.h"

namespace trn::aten {

namespace {

constexpr std::string_view kPools[] = {"adaptive_max_pool2d", "adaptive_max_pool2d_backward", "max_pool2d_with_indices",
                                       "max_pool2d_with_indices_backward"};

// The tap that a NaN, or an infinity like the padding, stands at is not found by its value.
bool is_found_by_value(const kernels::WindowShape& shape, const at::Tensor& in) {
  return shape.kind != kernels::WindowKind::max_pool || shape.backward || cpu_alias(in).isfinite().all().item<bool>();
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::WindowShape& shape,
                                   const program::Program&) {
  std::vector<at::Tensor> inputs{args.tensor(shape.backward ? "grad_output" : "self")};
  if (shape.backward && shape.indices) {
    inputs.push_back(args.tensor("indices"));
  }
  const bool is_known = std::ranges::find(kPools, args.base_name()) != std::end(kPools);
  return is_known && is_plain(inputs.front()) && is_found_by_value(shape, inputs.front())
             ? bind_dense(inputs, args.output_tensors())
             : std::nullopt;
}

}  // namespace trn::aten
