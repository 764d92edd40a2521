// Binds cumulative operators and sorting: rows along the operator's axis, one behind the other.
#include <algorithm>
#include <vector>

#include "aten/alias.h"
#include "aten/execution.h"

namespace trn::aten {

namespace {

// The tensor's rows along `dim`.
at::Tensor rows_along(const at::Tensor& tensor, std::int64_t dim) {
  const at::Tensor alias = cpu_alias(tensor);
  return alias.dim() == 0 ? alias.reshape({1}) : alias.movedim(dim, -1);
}

// In passes of eight the first of equals comes first; a network compares in no such order, by a mask.
bool keeps_order(const program::Program& program) {
  return std::ranges::find(program.buffers, "mask", &program::Buffer::name) == program.buffers.end();
}

std::optional<BoundPart> bind_rows(const LaunchArguments& args) {
  const at::Tensor& self = args.tensor("self");
  const auto outputs = args.output_tensors();
  if (!self.defined() || !is_plain(self) || !std::ranges::all_of(outputs, is_plain)) {
    return std::nullopt;
  }
  const std::int64_t dim = args.integer("dim", -1);
  BoundPart bound;
  bound.inputs.push_back(rows_along(self, dim).contiguous());
  for (const at::Tensor& output : outputs) {
    if (output.dim() != self.dim()) {
      return std::nullopt;
    }
    bound.outputs.push_back(dense_result(rows_along(output, dim)));
  }
  return bound;
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::ScanShape&, const program::Program&) {
  if (!is_any(args.base_name(), {"cumsum", "cumprod", "_cummax_helper", "_cummin_helper"})) {
    return std::nullopt;
  }
  const at::Tensor &self = args.tensor("self"), &out = args.output();
  // The cast comes first, so a floating input must not be summed on its way to whole numbers.
  const bool truncates = self.is_floating_point() && !out.is_floating_point();
  return truncates || out.scalar_type() == at::kBool ? std::nullopt : bind_rows(args);
}

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::SortShape&,
                                   const program::Program& program) {
  const at::Tensor& self = args.tensor("self");
  if (!is_any(args.base_name(), {"sort", "topk"}) || !is_plain(self) ||
      (args.boolean("stable", false) && !keeps_order(program))) {
    return std::nullopt;
  }
  // What has been found makes room for an infinity, and NaN equals nothing.
  const bool is_finite = !self.is_floating_point() || cpu_alias(self).isfinite().all().item<bool>();
  return is_finite ? bind_rows(args) : std::nullopt;
}

}  // namespace trn::aten
