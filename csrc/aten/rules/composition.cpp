#include "aten/rules/composition.h"

#include <ATen/EmptyTensor.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "aten/execution/rows.h"
#include "aten/rules/box.h"
#include "aten/rules/broadcast.h"
#include "aten/rules/matmul.h"
#include "aten/rules/steps.h"
#include "aten/workers.h"

namespace trn::aten::rules {

namespace {

std::vector<Stack> one_by_one(const Stack& tensors) {
  std::vector<Stack> stacks;
  for (const at::Tensor& tensor : tensors) {
    stacks.push_back({tensor});
  }
  return stacks;
}

Stack defined_of(const Stack& tensors) {
  Stack found;
  std::ranges::copy_if(tensors, std::back_inserter(found), [](const at::Tensor& tensor) { return tensor.defined(); });
  return found;
}

}  // namespace

at::Tensor Composition::tensor(std::string_view name) const {
  const at::Tensor& tensor = args_.tensor(name);
  return tensor.defined() && is_device_tensor(tensor) ? tensor : at::Tensor();
}

at::Tensor Composition::along(std::string_view name, std::int64_t dim, std::int64_t rank) const {
  const at::Tensor found = tensor(name);
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(rank), 1);
  if (found.defined()) {
    sizes[static_cast<std::size_t>(dim)] = found.numel();
  }
  return found.defined() ? found.view(sizes) : found;
}

at::Tensor Composition::flat(const at::Tensor& tensor) {
  if (tensor.is_contiguous()) {
    return tensor.view({-1});
  }
  const at::Tensor copied = temporary(tensor.sizes(), tensor.scalar_type());
  copy(tensor, copied);
  return copied.view({-1});
}

at::Tensor Composition::temporary(at::IntArrayRef sizes, at::ScalarType dtype) const {
  if (purpose_ == Purpose::count) {
    return at::detail::empty_meta(sizes, dtype);
  }
  const at::Tensor fresh = at::detail::empty_cpu(sizes, dtype);
  if (raises_uninitialized()) {  // NaN, as the device's own memory
    std::memset(fresh.data_ptr(), 0xFF, fresh.nbytes());
  }
  return fresh;
}

at::Tensor Composition::filled(at::IntArrayRef sizes, float value, at::ScalarType dtype) {
  const at::Tensor fresh = temporary(sizes, dtype);
  fill(fresh, value);
  return fresh;
}

at::Tensor Composition::iota(at::IntArrayRef sizes, at::ScalarType dtype) {
  const at::Tensor places = temporary(sizes, dtype);
  map({}, {places}, [](Expression& e, const Values&) { e.output(0, e.iota()); });
  return places;
}

void Composition::add(kernels::Part part, std::vector<Stack> inputs, std::vector<Stack> outputs) {
  stages_.push_back({std::move(part), std::move(inputs), std::move(outputs)});
}

void Composition::map(const Stack& inputs, const Stack& outputs,
                      const std::function<void(Expression&, const Values&)>& write) {
  const Stack reads = defined_of(inputs), results = defined_of(outputs);
  if (results.empty() || results.front().numel() == 0) {
    return;
  }
  Expression e(args_, results);
  Values values;
  std::int64_t place = 0;
  for (const at::Tensor& input : inputs) {
    values.push_back(input.defined() ? e.input(place++) : Value(0));
  }
  write(e, values);
  auto spec = stream(results.front().numel(), accesses(reads), accesses(results), e.steps());
  auto& shape = std::get<kernels::PointwiseShape>(spec.front());
  set_axes(shape, reads, results);
  add(shape, one_by_one(reads), one_by_one(results));
}

void Composition::map_drawn(const Stack& inputs, const Stack& outputs, const at::Tensor& drawn,
                            const std::function<void(Expression&, const Values&)>& write) {
  const std::size_t before = stages_.size();
  map(inputs, outputs, write);
  if (stages_.size() > before) {
    stages_.back().drawn = drawn;
  }
}

void Composition::fill(const at::Tensor& output, float value) {
  map({}, {output}, [&](Expression& e, const Values&) { e.output(0, value); });
}

void Composition::copy(const at::Tensor& from, const at::Tensor& to) {
  map({from}, {to}, [](Expression& e, const Values& v) { e.output(0, e.copy(v[0])); });
}

void Composition::reduce(const Stack& inputs, const at::Tensor& output, Integers dims, Fold fold) {
  const Rows rows = rows_of(inputs.front(), dims);
  auto spec = rules::reduce(rows, std::move(fold), accesses(inputs), {access_of(output)});
  if (spec.empty()) {
    fill(output, 0);
    return;
  }
  Stack views;
  for (const at::Tensor& input : inputs) {
    views.push_back(as_rows(input, dims, rows.across_partitions));
  }
  add(spec.front(), one_by_one(views), {{output}});
}

void Composition::variance(const at::Tensor& input, const at::Tensor& deviation, const at::Tensor& mean, Integers dims,
                           std::vector<Step> epilogue) {
  const Rows rows = rows_of(input, dims);
  auto spec = rules::reduce(rows, {Alu::add, {}, std::move(epilogue)}, {access_of(input)},
                            {access_of(deviation), access_of(mean)});
  if (spec.empty()) {
    fill(deviation, 0);
    fill(mean, 0);
    return;
  }
  std::get<kernels::ReductionShape>(spec.front()).variance = true;
  add(spec.front(), {{as_rows(input, dims, rows.across_partitions)}}, {{deviation}, {mean}});
}

void Composition::scan(const Stack& inputs, const at::Tensor& output, Alu alu) {
  kernels::ScanShape shape;
  shape.cols = output.size(-1);
  shape.rows = output.numel() / shape.cols;
  shape.alu = alu;
  shape.inputs = accesses(inputs);
  shape.outputs = {access_of(output)};
  add(shape, one_by_one(inputs), {{output}});
}

void Composition::softmax(const Stack& inputs, const at::Tensor& output, std::int64_t dim, bool backward) {
  const std::span dims(&dim, 1);
  const Rows rows = rows_of(inputs.front(), dims);
  if (rows.rows <= 0) {
    return;
  }
  kernels::SoftmaxShape shape;
  shape.rows = rows.rows;
  shape.cols = rows.cols;
  shape.across_partitions = rows.across_partitions;
  shape.in_dtype = dtype(inputs.front());
  shape.out_dtype = dtype(output);
  shape.backward = backward;
  Stack views;
  for (const at::Tensor& input : inputs) {
    views.push_back(as_rows(input, dims, rows.across_partitions));
  }
  add(shape, one_by_one(views), {{as_rows(output, dims, rows.across_partitions)}});
}

void Composition::product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, const at::Tensor& output,
                          float alpha) {
  if (output.numel() == 0) {
    return;
  }
  kernels::MatmulShape shape = matmul_shape(a, b, dtype(output));
  if (shape.k == 0) {
    fill(output, 0);
    return;
  }
  shape.alpha = alpha;
  std::vector<Stack> inputs{{shape.a_k_major ? a.mT() : a}, {shape.b_k_major ? b : b.mT()}};
  if (bias.defined()) {
    shape.bias = {1, 1, bias.numel()};
    inputs.push_back({bias});
  }
  add(shape, std::move(inputs), {{output}});
}

namespace {

kernels::IndexShape rows_by_index(const at::Tensor& table, const at::Tensor& index) {
  kernels::IndexShape shape;
  shape.num_rows = shape.num_indices = index.numel();
  shape.table_rows = table.size(0);
  shape.row_elements = shape.table_rows == 0 ? 0 : table.numel() / shape.table_rows;
  shape.dtype = dtype(table);
  shape.index_dtype = dtype(index);
  return shape;
}

kernels::IndexShape elements_by_index(const at::Tensor& tables, const at::Tensor& index) {
  kernels::IndexShape shape;
  shape.num_rows = shape.num_indices = index.numel();
  shape.num_tables = tables.size(0);
  shape.table_rows = tables.size(1);
  shape.columns = tables.size(2);
  shape.dtype = dtype(tables);
  shape.index_dtype = dtype(index);
  return shape;
}

}  // namespace

void Composition::gather(const at::Tensor& table, const at::Tensor& index, const at::Tensor& picked) {
  if (picked.numel() > 0) {
    add(rows_by_index(table, index), {{table}, {index}}, {{picked}});
  }
}

void Composition::scatter(const at::Tensor& table, const at::Tensor& index, const at::Tensor& rows, bool adds) {
  if (rows.numel() > 0) {
    auto shape = rows_by_index(table, index);
    shape.kind = adds ? kernels::IndexKind::scatter_add : kernels::IndexKind::scatter;
    add(shape, {{index}, {rows}}, {{table}});
  }
}

void Composition::gather_elements(const at::Tensor& tables, const at::Tensor& index, const at::Tensor& picked) {
  add(elements_by_index(tables, index), {{tables}, {index}}, {{picked}});
}

void Composition::scatter_add_elements(const at::Tensor& tables, const at::Tensor& index, const at::Tensor& values) {
  auto shape = elements_by_index(tables, index);
  shape.kind = kernels::IndexKind::scatter_add;
  add(shape, {{index}, {values}}, {{tables}});
}

void Composition::resample(const at::Tensor& input, const at::Tensor& output, std::int64_t dim,
                           const std::vector<Tap>& taps) {
  if (output.numel() == 0) {
    return;
  }
  kernels::TapsShape shape;
  for (std::int64_t d = 0; d < dim; ++d) {
    shape.outer *= output.size(d);
  }
  for (std::int64_t d = dim + 1; d < output.dim(); ++d) {
    shape.inner *= output.size(d);
  }
  shape.in = input.numel() / (shape.outer * shape.inner);
  shape.out = output.size(dim);
  shape.src_dtype = dtype(input);
  shape.dst_dtype = dtype(output);
  shape.runs = runs_of(taps);
  add(std::move(shape), {{input}}, {{output}});
}

void Composition::resample(const at::Tensor& input, const at::Tensor& output, const std::vector<AxisTaps>& axes) {
  // What shrinks comes first, so that less is between.
  auto ordered = axes;
  std::ranges::stable_sort(ordered, {}, [&](const AxisTaps& axis) {
    return static_cast<double>(output.size(axis.dim)) /
           static_cast<double>(std::max<std::int64_t>(input.size(axis.dim), 1));
  });
  const bool moves = std::ranges::all_of(axes, [](const AxisTaps& axis) { return only_moves(axis.taps); });
  at::Tensor from = input;
  std::vector<std::int64_t> sizes = input.sizes().vec();
  for (std::size_t i = 0; i < ordered.size(); ++i) {
    const auto dim = static_cast<std::size_t>(ordered[i].dim);
    sizes[dim] = output.size(ordered[i].dim);
    const at::Tensor to = i + 1 == ordered.size() ? output : temporary(sizes, moves ? input.scalar_type() : at::kFloat);
    resample(from, to, ordered[i].dim, ordered[i].taps);
    from = to;
  }
}

void Composition::move(const at::Tensor& from, const at::Tensor& to, std::vector<kernels::BoxAxis> axes,
                       std::int64_t from_offset, std::int64_t to_offset) {
  const auto spec = box(from, to, std::move(axes), from_offset, to_offset);
  if (!spec.empty()) {
    const auto& shape = std::get<kernels::BoxShape>(spec.front());
    add(shape, {{from.as_strided({shape.src_elements}, {1})}}, {{to.as_strided({shape.dst_elements}, {1})}});
  }
}

namespace {

const Composed* composed_named(std::string_view name) {
  for (const std::span<const Composed> table :
       {composed_attention(), composed_bags(), composed_draws(), composed_grid(), composed_groups(), composed_lists(),
        composed_margins(), composed_maxima(), composed_norms(), composed_places(), composed_quantization(),
        composed_search(), composed_windows()}) {
    const auto found = std::ranges::lower_bound(table, name, {}, &Composed::name);
    if (found != table.end() && found->name == name) {
      return &*found;
    }
  }
  return nullptr;
}

}  // namespace

bool is_composed(std::string_view operator_name) {
  return composed_named(operator_name) != nullptr;
}

std::vector<Stage> executable_stages(const LaunchArguments& args) {
  Composition composition(args, Composition::Purpose::execute);
  composed_named(args.base_name())->write(composition);
  return composition.computes() ? composition.take() : std::vector<Stage>();
}

Spec composed(const LaunchArguments& args) {
  Composition composition(args, Composition::Purpose::count);
  composed_named(args.base_name())->write(composition);
  Spec spec;
  for (Stage& stage : composition.take()) {
    spec.push_back(std::move(stage.part));
  }
  return spec;
}

}  // namespace trn::aten::rules
