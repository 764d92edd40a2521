// Binds gathers and scatters: the tensor of rows, the indices, and what is picked from it or written to it.
#include <ATen/ops/broadcast_tensors.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/max.h>
#include <ATen/ops/min.h>
#include <ATen/ops/stack.h>

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

// The tensors in the list `indices`, and the axes that they replace.
struct Lists {
  std::vector<at::Tensor> indices;
  std::vector<std::int64_t> axes;

  // Where the indexed axes stand in a result: those that lie apart come first.
  std::int64_t place() const {
    return axes.back() - axes.front() + 1 == static_cast<std::int64_t>(axes.size()) ? axes.front() : 0;
  }
};

Lists lists_of(const LaunchArguments& args) {
  Lists found;
  const auto list = args.inputs()[static_cast<std::size_t>(args.find("indices"))].toList();
  for (std::size_t axis = 0; axis < list.size(); ++axis) {
    const c10::IValue value = list.get(axis);
    if (value.isTensor() && value.toTensor().defined()) {
      found.indices.push_back(alias_of(value.toTensor()));
      found.axes.push_back(static_cast<std::int64_t>(axis));
    }
  }
  return found;
}

// A place past its row is another row's.
bool is_within(const at::Tensor& index, std::int64_t low, std::int64_t high) {
  return index.ge(low).logical_and(index.lt(high)).all().item<bool>();
}

// The lists, broadcast, one behind the other; undefined where the program does not take them.
at::Tensor stacked(const Lists& lists, const at::Tensor& self) {
  for (std::size_t i = 0; i < lists.indices.size(); ++i) {
    const at::Tensor& index = lists.indices[i];
    if (!index.defined() || index.scalar_type() != lists.indices.front().scalar_type()) {
      return {};
    }
    const std::int64_t size = self.size(lists.axes[i]);
    if (lists.indices.size() > 1 && !is_within(index, -size, size)) {
      return {};
    }
  }
  return lists.indices.size() == 1 ? lists.indices.front() : at::stack(at::broadcast_tensors(lists.indices));
}

// The indexed axes side by side.
at::Tensor gathered_axes(const at::Tensor& self, const Lists& lists) {
  std::vector<std::int64_t> to;
  for (std::size_t i = 0; i < lists.axes.size(); ++i) {
    to.push_back(lists.place() + static_cast<std::int64_t>(i));
  }
  return self.movedim(lists.axes, to);
}

// Values for every picked row, where one may serve many. `self` has its indexed axes side by side.
at::Tensor values_at(const at::Tensor& values, const at::Tensor& self, const at::Tensor& index, const Lists& lists) {
  const auto place = static_cast<std::size_t>(lists.place());
  std::vector<std::int64_t> sizes = self.sizes().slice(0, place).vec();
  const auto picked = index.sizes().slice(lists.axes.size() > 1 ? 1 : 0);
  sizes.insert(sizes.end(), picked.begin(), picked.end());
  const auto behind = self.sizes().slice(place + lists.axes.size());
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
  if (!index.defined() || !self.defined() || !is_any(args.string("reduce"), {"", "add", "sum"}) ||
      !args.boolean("include_self", true)) {
    return {};
  }
  if (self.dim() != index.dim()) {  // a scalar on one side
    return {};
  }
  if (self.dim() > 0) {
    const std::int64_t given = args.integer("dim", 0), dim = given < 0 ? given + self.dim() : given;
    if (!is_within(index, 0, self.size(dim))) {
      return {};
    }
    self = reached(self, index, dim);
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

Picks picks_of(const LaunchArguments& args, const IndexShape& shape) {
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
    const at::Tensor self = alias_of(args.tensor("self"));
    const Lists lists = lists_of(args);
    return self.defined() && !lists.axes.empty() ? Picks{gathered_axes(self, lists), stacked(lists, self), {}}
                                                 : Picks{};
  }
  if (is_any(name, {"index_put", "_unsafe_index_put", "_index_put_impl"})) {
    const Lists lists = lists_of(args);
    const at::Tensor out = alias_of(args.output()), values = alias_of(args.tensor("values"));
    if (!out.defined() || !values.defined() || lists.axes.empty()) {
      return {};
    }
    const at::Tensor index = stacked(lists, out);
    if (!index.defined()) {
      return {};
    }
    const at::Tensor self = gathered_axes(out, lists);
    return {self, index, values_at(values, self, index, lists)};
  }
  if (is_any(name, {"index_add", "index_copy", "index_fill"})) {
    return slices(args);
  }
  if (is_any(name, {"max_unpool2d", "max_unpool3d"})) {
    const at::Tensor out = alias_of(args.output()), index = alias_of(args.tensor("indices"));
    const bool is_inside = out.defined() && index.defined() && is_within(index, 0, shape.table_rows);
    return is_inside ? Picks{out, index, alias_of(args.tensor("self"))} : Picks{};
  }
  if (name == "put") {
    return {alias_of(args.output()), alias_of(args.tensor("index")), alias_of(args.tensor("source"))};
  }
  return is_any(name, {"gather", "scatter", "scatter_add", "scatter_reduce"}) ? elements(args, name == "gather")
                                                                              : Picks{};
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

std::optional<BoundPart> bind_part(const LaunchArguments& args, const IndexShape& shape, const program::Program&) {
  const Picks picks = picks_of(args, shape);
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
      const at::Tensor self = cpu_alias(args.tensor("self"));
      const bool has_lists = !shape.axes.empty();
      bound.inputs.push_back((has_lists ? gathered_axes(self, lists_of(args)) : self).contiguous());
    }
    bound.inputs.insert(bound.inputs.end(), {picks.index.contiguous(), picks.rows.contiguous()});
    bound.outputs = {written(picks.table, has_base)};
  }
  return bound;
}

}  // namespace trn::aten
