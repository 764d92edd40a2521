// Binds gathers and scatters: the tensor of rows, the indices, and what is picked from it or written to it.
#include <ATen/ops/empty.h>
#include <ATen/ops/max.h>
#include <ATen/ops/min.h>

#include <algorithm>
#include <vector>

#include "aten/alias.h"
#include "aten/execution.h"
#include "aten/numerics.h"

namespace trn::aten {

namespace {

using kernels::IndexKind;
using kernels::IndexShape;

// A launch's tensors as CPU aliases; undefined where the program does not compute it.
struct Picks {
  at::Tensor table;  // picked from, or written to
  at::Tensor index;  // whose order is that of `rows`
  at::Tensor rows;   // scatter: what is written
};

at::Tensor alias_of(const at::Tensor& tensor) {
  return tensor.defined() && is_plain(tensor) ? cpu_alias(tensor) : at::Tensor();
}

// The one tensor in the list `indices`, and the axis that it replaces.
std::pair<at::Tensor, std::int64_t> only_index(const LaunchArguments& args) {
  std::pair<at::Tensor, std::int64_t> found;
  const auto list = args.inputs()[static_cast<std::size_t>(args.find("indices"))].toList();
  for (std::size_t axis = 0; axis < list.size(); ++axis) {
    const c10::IValue value = list.get(axis);
    if (value.isTensor() && value.toTensor().defined()) {
      found = {value.toTensor(), static_cast<std::int64_t>(axis)};
    }
  }
  return found;
}

// Values for every picked row, where one may serve many.
at::Tensor values_at(const at::Tensor& values, const at::Tensor& self, const at::Tensor& index, std::int64_t axis) {
  std::vector<std::int64_t> sizes = self.sizes().slice(0, static_cast<std::size_t>(axis)).vec();
  sizes.insert(sizes.end(), index.sizes().begin(), index.sizes().end());
  const auto behind = self.sizes().slice(static_cast<std::size_t>(axis) + 1);
  sizes.insert(sizes.end(), behind.begin(), behind.end());
  return values.expand(sizes);
}

// A source, or one value for all.
at::Tensor source_of(const LaunchArguments& args, std::string_view name, const at::Tensor& like,
                     at::IntArrayRef sizes) {
  if (args.find(name) >= 0) {
    return alias_of(args.tensor(name));
  }
  const c10::IValue& value = args.inputs()[static_cast<std::size_t>(args.find("value"))];
  const at::Tensor filled = at::empty(sizes, like.options());
  return value.isTensor() ? (is_plain(value.toTensor()) ? filled.copy_(value.toTensor().cpu()) : at::Tensor())
                          : filled.fill_(value.toScalar());
}

// The elements of `self` that an index of single elements can reach.
at::Tensor reached(at::Tensor self, const at::Tensor& index, std::int64_t dim) {
  for (std::int64_t d = 0; d < self.dim(); ++d) {
    if (d != dim) {
      self = self.narrow(d, 0, index.size(d));
    }
  }
  return self;
}

Picks elements(const LaunchArguments& args, bool gathers) {
  const at::Tensor index = alias_of(args.tensor("index"));
  at::Tensor self = alias_of(gathers ? args.tensor("self") : args.output());
  if (!index.defined() || !self.defined() || !is_any(args.string("reduce"), {"", "add"})) {
    return {};
  }
  if (self.dim() != index.dim()) {  // a scalar on one side
    return {};
  }
  if (self.dim() > 0) {
    const std::int64_t dim = args.integer("dim", 0);
    self = reached(self, index, dim < 0 ? dim + self.dim() : dim);
  }
  if (gathers) {
    return {self, index, {}};
  }
  at::Tensor rows = source_of(args, "src", self, index.sizes());
  for (std::int64_t d = 0; rows.defined() && d < rows.dim(); ++d) {
    rows = rows.narrow(d, 0, index.size(d));
  }
  return {self, index, rows};
}

Picks slices(const LaunchArguments& args) {
  const at::Tensor self = alias_of(args.output()), index = alias_of(args.tensor("index"));
  if (!self.defined() || !index.defined() || args.number("alpha", 1) != 1) {
    return {};
  }
  std::vector<std::int64_t> sizes = self.sizes().vec();
  if (!sizes.empty()) {
    const std::int64_t dim = args.integer("dim", 0);
    sizes[static_cast<std::size_t>(dim < 0 ? dim + self.dim() : dim)] = index.numel();
  }
  return {self, index, source_of(args, "source", self, sizes)};
}

Picks picks_of(const LaunchArguments& args) {
  const auto name = args.base_name();
  if (name == "embedding") {
    return {alias_of(args.tensor("weight")), alias_of(args.tensor("indices")), {}};
  }
  if (name == "embedding_dense_backward" && !args.boolean("scale_grad_by_freq", false)) {
    return {alias_of(args.output()), alias_of(args.tensor("indices")), alias_of(args.tensor("grad_output"))};
  }
  if (name == "index_select") {
    return {alias_of(args.tensor("self")), alias_of(args.tensor("index")), {}};
  }
  if (name == "take") {
    return {alias_of(args.tensor("self")), alias_of(args.tensor("index")), {}};
  }
  if (is_any(name, {"index", "_unsafe_index"})) {
    return {alias_of(args.tensor("self")), alias_of(only_index(args).first), {}};
  }
  if (is_any(name, {"index_put", "_unsafe_index_put", "_index_put_impl"})) {
    const auto [index, axis] = only_index(args);
    const at::Tensor self = alias_of(args.output()), values = alias_of(args.tensor("values"));
    return self.defined() && values.defined() ? Picks{self, alias_of(index), values_at(values, self, index, axis)}
                                              : Picks{};
  }
  if (is_any(name, {"index_add", "index_copy", "index_fill"})) {
    return slices(args);
  }
  return is_any(name, {"gather", "scatter", "scatter_add"}) ? elements(args, name == "gather") : Picks{};
}

// As the CPU's kernels raise; but where index_select gives NaN instead.
void require_in_bounds(const LaunchArguments& args, const IndexShape& shape, const at::Tensor& index) {
  const auto name = args.base_name();
  if (index.numel() == 0 || (name == "index_select" && departures().out_of_bounds_is_nan)) {
    return;
  }
  const auto lowest = index.min().item<std::int64_t>(), highest = index.max().item<std::int64_t>();
  const std::int64_t first = shape.wraps ? -shape.table_rows : 0;
  if (lowest >= first && highest < shape.table_rows) {
    return;
  }
  const auto message =
      c10::str("[", name, "] an index names a row of the tensor; got ", lowest < first ? lowest : highest, ", limit ",
               shape.table_rows - 1, ". Check the indices.");
  TORCH_CHECK(!is_any(name, {"gather", "scatter", "scatter_add"}), message);
  TORCH_CHECK_INDEX(false, message);
}

// What a scatter writes to: with the elements that it leaves as they are.
BoundPart::Result written(const at::Tensor& table, bool has_base) {
  return has_base || table.is_contiguous() ? dense_result(table) : BoundPart::Result{table.contiguous(), {}, table};
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const IndexShape& shape,
                                   const program::Program& program) {
  const Picks picks = picks_of(args);
  const bool gathers = shape.kind == IndexKind::gather;
  if (!picks.table.defined() || !picks.index.defined() || gathers == picks.rows.defined()) {
    return std::nullopt;
  }
  require_in_bounds(args, shape, picks.index);
  const bool has_base = shape.base_elements > 0;
  BoundPart bound;
  if (gathers) {
    const at::Tensor out = alias_of(args.output());
    if (!out.defined()) {
      return std::nullopt;
    }
    bound.inputs = {picks.table.contiguous(), picks.index.contiguous()};
    bound.outputs = {dense_result(out)};
  } else {
    if (has_base) {
      bound.inputs.push_back(cpu_alias(args.tensor("self")).contiguous());
    }
    bound.inputs.insert(bound.inputs.end(), {picks.index.contiguous(), picks.rows.contiguous()});
    bound.outputs = {written(picks.table, has_base)};
  }
  return bound;
}

}  // namespace trn::aten
