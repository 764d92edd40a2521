#include "aten/result_layouts.h"

#include <ATen/ExpandUtils.h>
#include <ATen/TensorIterator.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/core/Reduction.h>

#include <algorithm>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "aten/launch_arguments.h"
#include "aten/op_table.h"

namespace trn::aten {

namespace {

using at::MemoryFormat;
using Strides = std::vector<std::int64_t>;

// ---- Element by element

// PyTorch's own iterator lays out the results of the CPU's kernels. Empty: these are not operands of one.
Strides iterated(const std::vector<at::Tensor>& operands, at::IntArrayRef sizes) {
  std::vector<std::int64_t> common;
  for (const at::Tensor& operand : operands) {
    if (!at::is_expandable_to(operand.sizes(), sizes)) {
      return {};
    }
    common = at::infer_size(common, operand.sizes());
  }
  if (operands.empty() || at::IntArrayRef(common) != sizes) {
    return {};
  }
  at::TensorIteratorConfig config;
  config.set_check_mem_overlap(false).check_all_same_dtype(false).check_all_same_device(false);
  config.declare_static_dtype_and_device(at::kByte, at::kMeta).add_owned_output(at::Tensor());
  for (const at::Tensor& operand : operands) {
    config.add_owned_const_input(operand);
  }
  return config.build().output().strides().vec();
}

// Backward passes whose kernels name what was the input before its gradient, which decides where the two lie unlike.
constexpr std::string_view kInputFirst[] = {"binary_cross_entropy_backward", "leaky_relu_backward",
                                            "threshold_backward"};

// Of lists the operands are the members at `place`.
std::vector<at::Tensor> operands_at(std::size_t place, const OperatorPlan& plan, const std::vector<FlatTensor>& flat,
                                    const std::vector<at::Tensor>& metas) {
  std::vector<at::Tensor> operands;
  std::size_t in_list = 0;
  for (std::size_t i = 0; i < flat.size(); ++i) {
    in_list = i > 0 && flat[i].position == flat[i - 1].position ? in_list + 1 : 0;
    const bool is_list = plan.op.schema().arguments()[flat[i].position].type()->kind() == c10::TypeKind::ListType;
    if (metas[i].defined() && !plan.op.schema().arguments()[flat[i].position].is_out() &&
        (!is_list || in_list == place)) {
      operands.push_back(metas[i]);
    }
  }
  if (std::ranges::binary_search(kInputFirst, plan.name)) {
    std::swap(operands.at(0), operands.at(1));
  }
  return operands;
}

void follow_iterator(const OperatorPlan& plan, const std::vector<FlatTensor>& flat,
                     const std::vector<at::Tensor>& metas, Traced& traced) {
  const auto follow = [&](std::size_t place, TensorLayout& layout) {
    const Strides strides = iterated(operands_at(place, plan, flat, metas), layout.sizes);
    if (!strides.empty()) {
      layout.strides = strides;
    }
  };
  for (TracedResult& result : traced.results) {
    for (std::size_t place = 0; place < result.layouts.size(); ++place) {
      if (result.layouts[place].fresh >= 0) {
        follow(place, result.layouts[place]);
      }
    }
  }
  for (Resized& resized : traced.resized) {
    follow(0, resized.layout);
  }
}

// ---- By operator

void lie(TensorLayout& layout, MemoryFormat format) {
  if (layout.fresh < 0) {
    return;
  }
  if (format == MemoryFormat::ChannelsLast && layout.sizes.size() == 4) {
    layout.strides = c10::get_channels_last_strides_2d(layout.sizes);
  } else if (format == MemoryFormat::ChannelsLast3d && layout.sizes.size() == 5) {
    layout.strides = c10::get_channels_last_strides_3d(layout.sizes);
  } else {
    const auto strides = c10::contiguous_strides(layout.sizes);
    layout.strides.assign(strides.begin(), strides.end());
  }
}

void lie(TracedResult& result, MemoryFormat format) {
  for (TensorLayout& layout : result.layouts) {
    lie(layout, format);
  }
}

void contiguous(const LaunchArguments&, Traced& traced) {
  for (TracedResult& result : traced.results) {
    lie(result, MemoryFormat::Contiguous);
  }
}

void resize(Traced& traced, std::size_t result, std::vector<std::int64_t> sizes, std::int64_t num_spare = 0) {
  TensorLayout& layout = traced.results.at(result).layouts.at(0);
  layout.sizes = std::move(sizes);
  lie(layout, MemoryFormat::Contiguous);
  const auto elements = c10::multiply_integers(layout.sizes) + num_spare;
  traced.fresh_bytes.at(static_cast<std::size_t>(layout.fresh)) =
      static_cast<std::size_t>(elements) * c10::elementSize(layout.dtype);
}

// The first result in the memory format that an argument seems to have.
template <int position>
void like(const LaunchArguments& args, Traced& traced) {
  lie(traced.results.at(0), args.tensor(position).suggest_memory_format());
}

void angle(const LaunchArguments& args, Traced& traced) {
  if (args.tensor(0).is_complex()) {
    contiguous(args, traced);
  }
}

// The reduced loss lies at the start of the elements' own.
void loss(const LaunchArguments& args, Traced& traced) {
  if (args.integer("reduction", at::Reduction::Mean) != at::Reduction::None) {
    const at::Tensor &self = args.tensor(0), &target = args.tensor(1);
    const auto sizes = at::infer_size(self.sizes(), target.sizes());
    traced.fresh_bytes.at(0) = static_cast<std::size_t>(c10::multiply_integers(sizes)) * self.itemsize();
  }
}

// Whether PyTorch leaves a convolution to a kernel of its own, which for volumes knows one format alone: transposed
// ones, if they are small, or add as many rows as a step has.
bool has_one_format(const LaunchArguments& args, const at::Tensor& input, const at::Tensor& weight) {
  constexpr std::int64_t kMostSmall = 20480;
  const bool is_reduced = c10::isReducedFloatingType(input.scalar_type());
  if (input.dim() != 5) {
    return false;
  }
  if (!args.boolean("transposed", false)) {
    return input.scalar_type() == at::kDouble;
  }
  if (input.scalar_type() != at::kFloat && !is_reduced) {
    return true;
  }
  const auto added = args.integers("output_padding"), steps = args.integers("stride");
  for (std::size_t i = 0; i < added.size(); ++i) {
    if (added[i] >= steps[std::min(i, steps.size() - 1)]) {
      return true;
    }
  }
  const bool is_large = input.size(0) > 1 || input.size(0) * input.size(1) * input.size(2) * input.size(3) > kMostSmall;
  return !is_reduced && args.integer("groups", 1) == 1 && (weight.size(-1) <= 3 || weight.size(-2) <= 3) && !is_large;
}

// In channels-last where the input or the weight is. Lines are planes of one row, whose inputs are made contiguous.
template <int position, std::size_t num_results>
void convolution(const LaunchArguments& args, Traced& traced) {
  const at::Tensor &input = args.tensor(position), &weight = args.tensor(position + 1);
  const bool is_line = input.dim() == 3;
  MemoryFormat format = is_line ? MemoryFormat::Contiguous : input.suggest_memory_format();
  if (format == MemoryFormat::Contiguous) {
    format = (is_line ? weight.unsqueeze(2) : weight).suggest_memory_format();
  }
  if (has_one_format(args, input, weight)) {
    format = MemoryFormat::Contiguous;
  }
  for (std::size_t i = 0; i < num_results; ++i) {
    for (TensorLayout& layout : traced.results.at(i).layouts) {
      if (is_line && format == MemoryFormat::ChannelsLast) {
        layout.strides = {layout.sizes[1] * layout.sizes[2], 1, layout.sizes[1]};
      } else {
        lie(layout, format);
      }
    }
  }
}

// Statistics are of the parameters' type where there are any, and of the input's else.
template <std::size_t... results>
void statistics(const LaunchArguments& args, Traced& traced) {
  at::ScalarType dtype = args.tensor(0).scalar_type();
  for (const std::string_view name : {"running_var", "running_mean", "bias", "weight"}) {
    const at::Tensor& parameter = args.tensor(name);
    dtype = parameter.defined() ? parameter.scalar_type() : dtype;
  }
  for (const std::size_t result : {results...}) {
    TensorLayout& layout = traced.results.at(result).layouts.at(0);
    layout.dtype = dtype;
    resize(traced, result, layout.sizes);
  }
}

void batch_norm(const LaunchArguments& args, Traced& traced) {
  like<0>(args, traced);
  statistics<1, 2>(args, traced);
  if (!args.boolean("training", true)) {  // not computed
    resize(traced, 1, {0});
    resize(traced, 2, {0});
  }
}

// Which bag each index is of is found where the sum's fast path does not do without.
void embedding_bag(const LaunchArguments& args, Traced& traced) {
  constexpr std::int64_t kMean = 1, kMaximum = 2;
  const at::Tensor &weight = args.tensor(0), &factors = args.tensor("per_sample_weights");
  const std::int64_t mode = args.integer("mode", 0), bags = traced.results.at(0).layouts.at(0).sizes.at(0);
  const bool is_fast = mode != kMean && mode != kMaximum && weight.scalar_type() != at::kDouble &&
                       weight.stride(1) == 1 && args.integer("padding_idx", -1) < 0 &&
                       (!factors.defined() || factors.stride(0) == 1);
  const std::int64_t indices = args.tensor(1).numel();
  is_fast ? resize(traced, 1, {0}) : resize(traced, 1, {indices}, 1);
  resize(traced, 2, {bags}, args.boolean("include_last_offset", false) ? 1 : 0);
  resize(traced, 3, mode == kMaximum ? Strides{bags, weight.size(1)} : Strides{bags});
}

// ---- Linear algebra

// LAPACK's matrices have their columns one behind the other.
template <std::size_t result>
void by_columns(const LaunchArguments&, Traced& traced) {
  for (TensorLayout& layout : traced.results.at(result).layouts) {
    lie(layout, MemoryFormat::Contiguous);
    if (const std::size_t rank = layout.sizes.size(); rank >= 2) {  // else: not computed
      layout.strides[rank - 2] = 1;
      layout.strides[rank - 1] = std::max<std::int64_t>(layout.sizes[rank - 2], 1);
    }
  }
}

// ---- Fourier transforms

using Axes = std::vector<std::int64_t>;

// Transformed axes lie innermost, in the order given; the others as they lay, one behind the other.
Strides transformed(at::IntArrayRef from, at::IntArrayRef sizes, const Axes& axes) {
  Axes order;
  for (std::int64_t axis = 0; axis < static_cast<std::int64_t>(sizes.size()); ++axis) {
    if (std::ranges::find(axes, axis) == axes.end()) {
      order.push_back(axis);
    }
  }
  const auto stride_of = [&](std::int64_t axis) { return from[static_cast<std::size_t>(axis)]; };
  std::ranges::sort(order, std::ranges::greater(), stride_of);
  order.insert(order.end(), axes.begin(), axes.end());
  Strides strides(sizes.size());
  std::int64_t next = 1;
  for (auto axis = order.rbegin(); axis != order.rend(); ++axis) {
    strides[static_cast<std::size_t>(*axis)] = next;
    next *= sizes[static_cast<std::size_t>(*axis)];
  }
  return strides;
}

// The first `count` axes by their strides, the longest first.
Axes by_stride(Axes axes, std::size_t count, at::IntArrayRef strides) {
  std::ranges::sort(axes.begin(), axes.begin() + static_cast<std::ptrdiff_t>(count), std::ranges::greater(),
                    [&](std::int64_t axis) { return strides[static_cast<std::size_t>(axis)]; });
  return axes;
}

Axes transformed_axes(const LaunchArguments& args) {
  Axes axes = args.integers("dim");
  for (std::int64_t& axis : axes) {
    axis = c10::maybe_wrap_dim(axis, args.tensor(0).dim());
  }
  return axes;
}

void real_to_complex(const LaunchArguments& args, Traced& traced) {
  const at::Tensor& self = args.tensor(0);
  const Axes axes = transformed_axes(args);
  TensorLayout& layout = traced.results.at(0).layouts.at(0);
  if (!axes.empty()) {
    layout.strides = transformed(self.strides(), layout.sizes, by_stride(axes, axes.size() - 1, self.strides()));
  }
}

// All axes but the last by way of a complex transform.
void complex_to_real(const LaunchArguments& args, Traced& traced) {
  const at::Tensor& self = args.tensor(0);
  Axes axes = transformed_axes(args);
  TensorLayout& layout = traced.results.at(0).layouts.at(0);
  if (axes.empty()) {
    return;
  }
  const std::int64_t last = axes.back();
  axes.pop_back();
  const Strides between = axes.empty()
                              ? self.strides().vec()
                              : transformed(self.strides(), self.sizes(), by_stride(axes, axes.size(), self.strides()));
  layout.strides = transformed(between, layout.sizes, {last});
}

struct Correction {
  std::string_view name;
  void (*apply)(const LaunchArguments&, Traced&);
};

constexpr Correction kCorrections[] = {
    {"_batch_norm_with_update", batch_norm},
    {"_embedding_bag", embedding_bag},
    {"_embedding_bag_forward_only", embedding_bag},
    {"_fft_c2r", complex_to_real},
    {"_fft_r2c", real_to_complex},
    {"_linalg_svd", by_columns<2>},
    {"_log_softmax_backward_data", contiguous},
    {"_native_batch_norm_legit", batch_norm},
    {"angle", angle},
    {"batch_norm_backward", like<1>},
    {"binary_cross_entropy", loss},
    {"channel_shuffle", like<0>},
    {"convolution", convolution<0, 1>},
    {"convolution_backward", convolution<1, 2>},
    {"glu_backward", contiguous},
    {"linalg_cross", contiguous},
    {"linalg_eig", by_columns<1>},
    {"log_sigmoid_forward", contiguous},
    {"max_unpool2d", like<0>},
    {"mse_loss", loss},
    {"mse_loss_backward", contiguous},
    {"native_batch_norm", batch_norm},
    {"native_batch_norm_backward", like<1>},
    {"native_channel_shuffle", like<0>},
    {"native_layer_norm", statistics<1, 2>},
    {"native_layer_norm_backward", contiguous},
    {"normal.Tensor_Tensor", contiguous},
    {"normal.Tensor_float", contiguous},
    {"normal.float_Tensor", contiguous},
    {"pixel_shuffle", like<0>},
    {"pow.Scalar", contiguous},
    {"replication_pad2d", like<0>},
    {"replication_pad2d_backward", like<1>},
    {"smooth_l1_loss", loss},
};
static_assert(std::ranges::is_sorted(kCorrections, {}, &Correction::name));

}  // namespace

void follow_cpu_kernels(const OperatorPlan& plan, c10::ArrayRef<c10::IValue> arguments,
                        const std::vector<FlatTensor>& flat, const std::vector<at::Tensor>& metas, Traced& traced) {
  if (find_op(plan.op.operator_name()).family == "pointwise") {
    follow_iterator(plan, flat, metas, traced);
  }
  const auto* found = std::ranges::lower_bound(kCorrections, plan.name, {}, &Correction::name);
  if (found != std::ranges::end(kCorrections) && found->name == plan.name) {
    found->apply(LaunchArguments(plan.op, arguments, {}), traced);
  }
}

}  // namespace trn::aten
