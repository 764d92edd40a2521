// Count rules of operators that read or write rows picked by indices.
#include "aten/rules/index.h"

#include <algorithm>
#include <utility>

#include "aten/rules/steps.h"

namespace trn::aten::rules {

namespace {

using kernels::Alu;
using kernels::IndexKind;
using kernels::IndexShape;

Spec rows(IndexKind kind, std::int64_t num_rows, std::int64_t row_elements, Dtype type, std::int64_t num_indices,
          Dtype index_type, std::int64_t base_elements = 0) {
  if (num_rows <= 0 || row_elements <= 0) {
    // Nothing to pick, but a scatter out of place still copies its base.
    return stream(base_elements, {dense(type, base_elements)}, {dense(type, base_elements)}, steps_of(cast()));
  }
  IndexShape shape;
  shape.kind = kind;
  shape.num_rows = num_rows;
  shape.row_elements = row_elements;
  shape.dtype = type;
  shape.index_dtype = index_type;
  shape.num_indices = num_indices;
  shape.base_elements = base_elements;
  return {shape};
}

Spec rows(IndexKind kind, std::int64_t num_rows, std::int64_t row_elements, const at::Tensor& values,
          const at::Tensor& indices, std::int64_t base_elements = 0) {
  return rows(kind, num_rows, row_elements, dtype(values), numel(indices), dtype(indices, Dtype::int64), base_elements);
}

Spec clear(const at::Tensor& tensor) {
  return stream(numel(tensor), {}, {access_of(tensor)}, steps_of(memset(0)));
}

// What executes: where the rows lie. Nothing where there is nothing to pick.
Spec within(Spec spec, std::int64_t table_rows, std::int64_t num_tables = 1, std::int64_t columns = 0,
            bool wraps = false) {
  if (auto* shape = spec.empty() ? nullptr : std::get_if<IndexShape>(&spec.back())) {
    shape->table_rows = table_rows;
    shape->num_tables = num_tables;
    shape->columns = columns;
    shape->wraps = wraps;
  }
  return spec;
}

// Out of place, `self` is copied to the result first; in place it is not.
std::int64_t base_elements(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const auto& out = args.output();
  return self.defined() && out.defined() && !out.is_same(self) ? numel(out) : 0;
}

std::int64_t inner_of(const at::Tensor& tensor, std::int64_t dim) {
  dim = dim < 0 ? dim + tensor.dim() : dim;
  std::int64_t inner = 1;
  for (std::int64_t d = std::max<std::int64_t>(dim, -1) + 1; d < tensor.dim(); ++d) {
    inner *= tensor.size(d);
  }
  return inner;
}

// How many axes a list of indices replaces, the first of them, and how many index elements are read.
struct Indices {
  std::int64_t first = -1, last = -1, elements = 0, num_lists = 0;
  Dtype type = Dtype::int64;
  bool boolean = false;
  std::vector<std::int64_t> axes;        // that lists replace
  std::vector<at::Tensor> lists;         // all on the device
  std::vector<std::int64_t> list_sizes;  // that all of them broadcast to
};

void broadcast_sizes(std::vector<std::int64_t>& sizes, at::IntArrayRef other) {
  sizes.insert(sizes.begin(), other.size() > sizes.size() ? other.size() - sizes.size() : 0, 1);
  for (std::size_t d = 1; d <= other.size(); ++d) {
    auto& size = sizes[sizes.size() - d];
    size = size == 1 ? other[other.size() - d] : size;
  }
}

Indices indices_of(const LaunchArguments& args) {
  Indices result;
  const int position = args.find("indices");
  if (position < 0 || !args.inputs()[position].isList()) {
    return result;
  }
  std::int64_t axis = 0;
  const auto list = args.inputs()[position].toList();
  for (std::size_t i = 0; i < list.size(); ++i) {
    const c10::IValue value = list.get(i);
    if (!value.isTensor() || !value.toTensor().defined()) {
      ++axis;
      continue;
    }
    const auto& tensor = value.toTensor();
    result.type = dtype(tensor);
    result.boolean |= tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte;
    result.elements += is_device_tensor(tensor) ? numel(tensor) : 0;
    ++result.num_lists;
    if (is_device_tensor(tensor)) {
      result.axes.push_back(axis);
      result.lists.push_back(tensor);
      broadcast_sizes(result.list_sizes, tensor.sizes());
    }
    result.first = result.first < 0 ? axis : result.first;
    axis += result.boolean ? std::max<std::int64_t>(tensor.dim(), 1) : 1;
    result.last = axis - 1;
  }
  return result;
}

// Elements of one picked row: the axes of self behind the last indexed one.
std::int64_t row_of(const at::Tensor& self, const Indices& indices) {
  return indices.last < 0 ? 1 : inner_of(self, std::min(indices.last, self.dim() - 1));
}

// Several lists: one table where axes lie apart, as the indexed ones then come first.
Spec along_axes(Spec spec, const at::Tensor& self, const Indices& indices) {
  auto* shape = spec.empty() ? nullptr : std::get_if<IndexShape>(&spec.back());
  if (shape == nullptr || indices.lists.size() != static_cast<std::size_t>(indices.num_lists)) {
    return spec;
  }
  const bool are_adjacent = indices.last - indices.first + 1 == indices.num_lists;
  std::int64_t along = 1, leading = 1;
  for (const std::int64_t axis : indices.axes) {
    shape->axes.push_back(size(self, axis));
    along *= size(self, axis);
  }
  for (std::int64_t d = 0; d < indices.first && are_adjacent; ++d) {
    leading *= self.size(d);
  }
  const std::int64_t picks = product(indices.list_sizes);
  shape->row_elements = numel(self) / std::max<std::int64_t>(along * leading, 1);
  shape->num_indices = picks * indices.num_lists;
  shape->num_rows = picks * leading;
  return within(std::move(spec), along, leading, 0, true);
}

// Lists of indices, each along one axis.
Spec along_axis(Spec spec, const at::Tensor& self, const Indices& indices) {
  if (indices.num_lists > 1 && !indices.boolean) {
    return along_axes(std::move(spec), self, indices);
  }
  if (indices.num_lists != 1 || indices.boolean) {
    return spec;
  }
  const auto along = std::max<std::int64_t>(size(self, indices.first), 1);
  const auto inner = std::max<std::int64_t>(inner_of(self, indices.first), 1);
  return within(std::move(spec), along, numel(self) / (along * inner), 0, true);
}

// Single elements along an axis, an index for each.
Spec each_element(Spec spec, const at::Tensor& self, const at::Tensor& index, std::int64_t dim) {
  const auto columns = std::max<std::int64_t>(inner_of(index, dim), 1);
  const auto along = std::max<std::int64_t>(size(index, dim), 1);
  return within(std::move(spec), std::max<std::int64_t>(size(self, dim), 1),
                std::max<std::int64_t>(numel(index) / (columns * along), 1), columns);
}

// A mask becomes positions by a running sum over its elements.
Spec positions_of_mask(const at::Tensor& mask) {
  if (numel(mask) == 0) {
    return {};
  }
  kernels::ScanShape scan;
  scan.rows = 1;
  scan.cols = numel(mask);
  scan.inputs = {access_of(mask)};
  scan.outputs = {dense(Dtype::int32, numel(mask))};
  return {scan};
}

}  // namespace

Spec embedding(const LaunchArguments& args) {
  const auto& weight = args.tensor("weight");
  const auto& indices = args.tensor("indices");
  return within(rows(IndexKind::gather, numel(indices), size(weight, -1), weight, indices), size(weight, 0));
}

Spec embedding_backward(const LaunchArguments& args) {
  const auto& grad = args.tensor("grad_output");
  const auto& indices = args.tensor("indices");
  const auto width = size(grad, -1);
  auto spec = concat(clear(args.output()), within(rows(IndexKind::scatter_add, numel(indices), width, grad, indices),
                                                  args.integer("num_weights", 0)));
  if (args.integer("padding_idx", -1) >= 0) {  // nobody learns from the padding
    spec = concat(std::move(spec), stream(width, {}, {dense(dtype(grad), width)}, steps_of(memset(0))));
  }
  return spec;
}

Spec index(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const auto& out = args.output();
  const auto indices = indices_of(args);  // a mask has become positions, by a launch of its own
  const auto row = std::max<std::int64_t>(row_of(self, indices), 1);
  return along_axis(rows(IndexKind::gather, numel(out) / row, row, dtype(self), indices.elements, indices.type), self,
                    indices);
}

Spec index_put(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const auto& values = args.tensor("values");
  const auto indices = indices_of(args);
  Spec spec;
  std::int64_t widest = 1;
  for (const auto& tensor : named(args, {"indices"})) {
    if (indices.boolean) {
      spec = concat(std::move(spec), positions_of_mask(tensor));
    }
    widest = std::max(widest, numel(tensor));
  }
  // Rows written: one per index (a mask: as many as values, or all when one value serves each).
  const auto row = std::max<std::int64_t>(row_of(self, indices), 1);
  std::int64_t leading = 1;
  for (std::int64_t d = 0; d < std::min<std::int64_t>(indices.first, self.dim()); ++d) {
    leading *= self.size(d);
  }
  auto num_rows = numel(self) == 0 ? 0 : leading * widest;
  if (indices.boolean && numel(values) > row) {
    num_rows = numel(values) / row;
  }
  const auto kind = args.boolean("accumulate", false) ? IndexKind::scatter_add : IndexKind::scatter;
  auto written = rows(kind, num_rows, row, dtype(self), indices.elements, indices.type, base_elements(args));
  return concat(std::move(spec), along_axis(std::move(written), self, indices));
}

Spec index_select(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const auto& out = args.output();
  const auto dim = args.integer("dim", 0);
  const auto row = std::max<std::int64_t>(is_strided(self) ? inner_of(self, dim) : 1, 1);
  const auto along = std::max<std::int64_t>(size(self, dim), 1);
  return within(rows(IndexKind::gather, numel(out) / row, row, self, args.tensor("index")), along,
                numel(self) / (along * row));
}

Spec index_update(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const auto& index = args.tensor("index");
  const auto dim = args.integer("dim", 0);
  const auto row = std::max<std::int64_t>(inner_of(self, dim), 1);
  const auto along = std::max<std::int64_t>(size(self, dim), 1);
  const auto outer = numel(self) / std::max<std::int64_t>(row * along, 1);
  const auto name = args.base_name();
  const bool adds = name == "index_add" || name == "index_reduce";
  return within(rows(adds ? IndexKind::scatter_add : IndexKind::scatter, outer * numel(index), row, self, index,
                     base_elements(args)),
                along, outer);
}

Spec gather(const LaunchArguments& args) {
  const auto& index = args.tensor("index");
  const auto& self = args.tensor("self");
  auto spec = rows(IndexKind::gather, numel(index), 1, self, index);
  return args.find("dim") < 0 ? within(std::move(spec), numel(self), 1, 0, true)  // take
                              : each_element(std::move(spec), self, index, args.integer("dim", 0));
}

Spec scatter(const LaunchArguments& args) {
  const auto& index = args.tensor("index");
  const auto name = args.base_name();
  const bool adds = name == "scatter_add" || name == "scatter_reduce" || !args.string("reduce").empty() ||
                    args.boolean("accumulate", false);
  const auto& self = args.tensor("self");
  auto spec =
      rows(adds ? IndexKind::scatter_add : IndexKind::scatter, numel(index), 1, self, index, base_elements(args));
  return args.find("dim") < 0 ? within(std::move(spec), numel(self), 1, 0, true)  // put
                              : each_element(std::move(spec), self, index, args.integer("dim", 0));
}

Spec masked_select(const LaunchArguments& args) {
  const auto& mask = args.tensor("mask");
  const auto picked = numel(args.output());
  return concat(positions_of_mask(mask),
                rows(IndexKind::gather, picked, 1, dtype(args.tensor("self")), picked, Dtype::int32));
}

Spec masked_scatter(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  auto spec = positions_of_mask(args.tensor("mask"));
  return concat(std::move(spec), rows(IndexKind::scatter, std::min(numel(self), numel(args.tensor("source"))), 1,
                                      dtype(self), numel(self), Dtype::int32, base_elements(args)));
}

Spec nonzero(const LaunchArguments& args) {
  const auto& out = args.output();
  auto spec = positions_of_mask(args.tensor("self"));
  return concat(std::move(spec), rows(IndexKind::scatter, numel(out), 1, dtype(out, Dtype::int64),
                                      numel(args.tensor("self")), Dtype::int32));
}

Spec repeat_interleave(const LaunchArguments& args) {
  const auto& repeats = args.tensor("repeats");
  return concat(positions_of_mask(repeats),
                rows(IndexKind::gather, numel(args.output()), 1, Dtype::int64, numel(repeats), Dtype::int32));
}

Spec histogram(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const auto& out = args.output();
  const auto elements =
      numel(self) /
      std::max<std::int64_t>(args.base_name().find("dd") == std::string_view::npos ? 1 : size(self, -1), 1);
  const Dtype type = dtype(out, Dtype::int64);
  return concat(clear(out), rows(IndexKind::scatter_add, elements, 1, type, numel(self), dtype(self)));
}

Spec nll_loss(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const auto& target = args.tensor("target");
  kernels::NllLossShape shape;
  shape.backward = args.find("grad_output") >= 0;
  shape.dtype = dtype(self);
  shape.index_dtype = dtype(target, Dtype::int64);
  shape.weight = !named(args, {"weight"}).empty();
  shape.reduction = static_cast<kernels::LossReduction>(args.integer("reduction", 1));
  shape.ignored = static_cast<float>(args.integer("ignore_index", -100));
  const bool is_batched = self.dim() > 1;
  shape.batch = is_batched ? self.size(0) : 1;
  shape.classes = size(self, is_batched ? 1 : 0);
  shape.positions = shape.batch == 0 ? 0 : numel(target) / shape.batch;
  if (numel(self) == 0 || numel(target) == 0) {
    return or_fill({}, args);
  }
  return {shape};
}

Spec max_unpool(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const std::int64_t rank = args.base_name() == "max_unpool3d" ? 3 : 2;
  std::int64_t planes = 1;
  for (std::int64_t d = 0; d + rank < self.dim(); ++d) {
    planes *= self.size(d);
  }
  return concat(clear(args.output()), within(rows(IndexKind::scatter, numel(self), 1, self, args.tensor("indices")),
                                             numel(args.output()) / std::max<std::int64_t>(planes, 1), planes, 1));
}

Spec segment_reduce(const LaunchArguments& args) {
  const bool backward = args.find("grad") >= 0;
  const auto& data = args.tensor("data");
  const auto row = std::max<std::int64_t>(inner_of(data, args.integer("axis", 0)), 1);
  const auto bounds = numel(args.tensor("lengths")) + numel(args.tensor("offsets"));
  auto spec = backward ? Spec{} : clear(args.output());
  return concat(std::move(spec), rows(backward ? IndexKind::gather : IndexKind::scatter_add, numel(data) / row, row,
                                      dtype(data), bounds, Dtype::int64));
}

Spec jagged(const LaunchArguments& args) {
  const auto& out = args.output();
  const auto& from = args.tensor(0);
  const bool nested = (from.defined() && from.is_nested()) || (out.defined() && out.is_nested());
  const auto row = nested ? 1 : std::max<std::int64_t>(size(from, -1), 1);
  std::int64_t bounds = 0;
  for (const auto& offsets : args.tensors("offsets")) {
    bounds += numel(offsets);
  }
  const auto moved = std::min(numel(from), numel(out));
  auto spec = numel(out) > moved ? clear(out) : Spec{};
  return concat(std::move(spec), rows(IndexKind::gather, moved / row, row, dtype(from), bounds, Dtype::int64));
}

Spec to_sparse(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const auto outputs = args.output_tensors();
  const auto picked = outputs.empty() ? 0 : numel(outputs.back());
  return concat(positions_of_mask(self), rows(IndexKind::gather, picked, 1, dtype(self), picked, Dtype::int32));
}

}  // namespace trn::aten::rules
