// Count rules of operators that move elements from one layout to another.
#include "aten/rules/copy.h"

#include <ATen/WrapDimUtils.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "aten/rules/box.h"
#include "aten/rules/steps.h"

namespace trn::aten::rules {

namespace {

using kernels::CopyShape;

// The axis along which elements lie closest together, -1 where none moves.
std::int64_t inner_axis(const at::Tensor& tensor) {
  std::int64_t inner = -1;
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    const bool moves = tensor.size(d) > 1 && tensor.stride(d) > 0;
    if (moves && (inner < 0 || tensor.stride(d) <= tensor.stride(inner))) {
      inner = d;
    }
  }
  return inner;
}

bool is_transposed(const at::Tensor& from, const at::Tensor& to) {
  if (!is_strided(from) || !is_strided(to) || from.dim() != to.dim()) {
    return false;
  }
  const auto a = inner_axis(from);
  const auto b = inner_axis(to);
  return a >= 0 && b >= 0 && a != b && from.stride(a) == 1 && to.stride(b) == 1;
}

Spec moved(std::int64_t elements, const Access& src, const Access& dst, bool transpose) {
  if (elements <= 0) {
    return {};
  }
  return {CopyShape{elements, src, dst, transpose}};
}

// What executes: the matrices of a transpose, the runs of a broadcast.
Spec laid_out(Spec spec, const at::Tensor& from, const at::Tensor& to) {
  if (spec.empty() || !is_strided(from) || !is_strided(to) || from.sizes() != to.sizes()) {
    return spec;
  }
  auto& shape = std::get<CopyShape>(spec.front());
  const auto axes = moved_axes(from, to);
  if (shape.src.elements < shape.elements) {
    std::int64_t num_repeating = 0;
    for (const auto& axis : axes) {
      num_repeating += axis.from == 0 ? 1 : 0;
      shape.repeated_elements = axis.from == 0 ? 1 : shape.repeated_elements * axis.size;
    }
    shape.repeated_elements = num_repeating == 1 ? shape.repeated_elements : 0;
  } else if (shape.transpose) {
    shape.rows = axes.back().size;
    shape.cols = axes[static_cast<std::size_t>(innermost_in_source(axes))].size;
  }
  return spec;
}

// Elements that appear several times in dst, and not as runs that repeat along one axis.
bool repeats_irregularly(const Spec& spec, const at::Tensor& from, const at::Tensor& to) {
  const auto* shape = spec.empty() ? nullptr : std::get_if<CopyShape>(&spec.front());
  return shape != nullptr && shape->src.elements < shape->elements && shape->repeated_elements == 0 &&
         is_strided(from) && is_strided(to) && from.sizes() == to.sizes();
}

Spec box_between(const at::Tensor& from, const at::Tensor& to) {
  std::vector<kernels::BoxAxis> axes;
  for (std::int64_t d = 0; d < to.dim(); ++d) {
    axes.push_back({to.size(d), from.stride(d), to.stride(d), false});
  }
  return box(from, to, std::move(axes));
}

// Runs that survive the rearrangement: rows of the axes behind the last one that is touched.
std::int64_t run_length(const at::Tensor& from, const at::Tensor& to) {
  const auto last = std::max<std::int64_t>(size(to, -1), 1);
  return std::min(last, std::max<std::int64_t>(size(from, -1), 1));
}

}  // namespace

std::vector<MovedAxis> moved_axes(const at::Tensor& from, const at::Tensor& to) {
  std::vector<MovedAxis> axes;
  for (std::int64_t d = 0; d < to.dim(); ++d) {
    if (to.size(d) > 1) {
      axes.push_back({to.size(d), from.stride(d), to.stride(d)});
    }
  }
  std::ranges::stable_sort(axes, std::ranges::greater(), &MovedAxis::to);
  std::vector<MovedAxis> merged;
  for (const auto& axis : axes) {
    const bool continues =
        !merged.empty() && merged.back().from == axis.from * axis.size && merged.back().to == axis.to * axis.size;
    if (continues) {
      merged.back() = {merged.back().size * axis.size, axis.from, axis.to};
    } else {
      merged.push_back(axis);
    }
  }
  return merged;
}

std::int64_t innermost_in_source(const std::vector<MovedAxis>& axes) {
  std::int64_t inner = -1;
  for (std::size_t a = 0; a < axes.size(); ++a) {
    if (axes[a].from > 0 && (inner < 0 || axes[a].from <= axes[static_cast<std::size_t>(inner)].from)) {
      inner = static_cast<std::int64_t>(a);
    }
  }
  return inner;
}

Spec copy_between(const at::Tensor& from, const at::Tensor& to) {
  if (!from.defined() || !to.defined()) {
    return {};
  }
  const bool from_device = is_device_tensor(from);
  const bool to_device = is_device_tensor(to);
  if (!from_device && !to_device) {
    return {};
  }
  if (from_device && to_device && from.device() == to.device()) {
    auto spec = laid_out(moved(numel(to), access_of(from), access_of(to), is_transposed(from, to)), from, to);
    return repeats_irregularly(spec, from, to) ? box_between(from, to) : spec;
  }
  const auto bytes = numel(to) * target::itemsize(dtype(to));
  return bytes > 0 ? Spec{kernels::TransferShape{bytes, to_device, from_device}} : Spec{};
}

Spec copy(const LaunchArguments& args) {
  const auto& src = args.tensor("src");
  const auto& dst = args.tensor("dst");
  if (src.defined()) {  // copy_(self, src)
    return copy_between(src, args.tensor("self"));
  }
  const auto& from = args.tensor("self").defined() ? args.tensor("self") : args.tensor("input");
  return copy_between(from, dst.defined() ? dst : args.output());
}

bool repeats(const at::Tensor& tensor) {
  return is_strided(tensor) && access_of(tensor).elements < numel(tensor);
}

at::Tensor as_joined(const LaunchArguments& args, const at::Tensor& tensor) {
  const bool stacks = args.base_name().ends_with("stack");
  return stacks ? tensor.unsqueeze(at::maybe_wrap_dim(args.integer("dim", 0), tensor.dim() + 1)) : tensor;
}

at::Tensor joined_place(const LaunchArguments& args, std::size_t first, std::size_t last) {
  const auto tensors = args.tensors("tensors");
  const std::int64_t dim = at::maybe_wrap_dim(args.integer("dim", 0), args.output().dim());
  std::int64_t start = 0, length = 0;
  for (std::size_t i = 0; i <= last; ++i) {
    (i < first ? start : length) += numel(tensors[i]) == 0 ? 0 : as_joined(args, tensors[i]).size(dim);
  }
  return args.output().narrow(dim, start, length);
}

std::vector<std::vector<std::size_t>> alike(const std::vector<at::Tensor>& tensors) {
  using Layout = std::tuple<Dtype, std::int64_t, std::int64_t>;
  std::vector<std::vector<std::size_t>> groups;
  Layout last;
  bool continues = false;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Access one = access_of(tensors[i]);
    if (one.elements == 0) {
      continue;
    }
    if (repeats(tensors[i])) {
      groups.push_back({i});
      continues = false;
      continue;
    }
    const bool is_dense = one.contiguous_elements == one.elements;
    const Layout layout = is_dense ? Layout{one.dtype, 0, 0}
                                   : Layout{one.dtype, one.contiguous_elements, one.span_elements / one.elements};
    if (!continues || layout != last) {
      groups.emplace_back();
      last = layout;
    }
    continues = true;
    groups.back().push_back(i);
  }
  return groups;
}

Spec concatenate(const LaunchArguments& args) {
  const auto& out = args.output();
  const auto parts = named(args, {"tensors"});
  const auto groups = alike(parts);
  if (groups.empty() || !out.defined()) {
    return {};
  }
  // Each input lands as runs of its own extent along dim and everything behind it.
  Access to = access_of(out);
  const auto rank = std::max<std::int64_t>(out.dim(), 1);
  auto dim = args.integer("dim", 0);
  dim = std::clamp<std::int64_t>(dim < 0 ? dim + rank : dim, 0, rank - 1);
  // Along the innermost axis the inputs are interleaved, which is no transpose.
  const bool interleaves = args.base_name().ends_with("stack") || inner_axis(out) == dim;
  std::int64_t outer = 1;
  for (std::int64_t d = 0; d < std::min(dim, out.dim()); ++d) {
    outer *= out.size(d);
  }
  const auto pieces = std::max<std::int64_t>(outer * static_cast<std::int64_t>(parts.size()), 1);
  to.contiguous_elements = std::min(to.contiguous_elements, std::max<std::int64_t>(to.elements / pieces, 1));
  to.span_elements = out.is_contiguous() ? to.elements : 0;  // together the inputs leave no gap
  Spec spec;
  for (const auto& numbers : groups) {
    if (repeats(parts[numbers.front()])) {
      const std::size_t one = numbers.front();
      spec = concat(std::move(spec), copy_between(as_joined(args, parts[one]), joined_place(args, one, one)));
      continue;
    }
    std::vector<at::Tensor> group;
    for (const std::size_t number : numbers) {
      group.push_back(parts[number]);
    }
    const Access from = aggregate(group).front();
    Access share = to;
    share.elements = group.size() == parts.size() ? to.elements : std::min(from.elements, to.elements);
    share.contiguous_elements = std::min(share.contiguous_elements, share.elements);
    share.span_elements = to.span_elements > 0 ? share.elements : 0;
    spec =
        concat(std::move(spec), moved(share.elements, from, share, !interleaves && is_transposed(group.front(), out)));
  }
  return spec;
}

Spec rearrange(const LaunchArguments& args) {
  const auto inputs = args.input_tensors();
  const auto outputs = args.output_tensors();
  if (inputs.empty() || outputs.empty()) {
    return {};
  }
  const auto& result = *std::ranges::max_element(outputs, {}, [](const at::Tensor& tensor) { return numel(tensor); });
  Access from = access_of(inputs.front());
  const Access to = access_of(result);
  if (from.elements == 0) {  // nothing but padding
    return stream(to.elements, {}, {to}, steps_of(memset(0)));
  }
  const auto run = is_strided(inputs.front()) ? run_length(inputs.front(), result) : 1;
  from.contiguous_elements = std::clamp<std::int64_t>(run, 1, from.contiguous_elements);
  from.span_elements = inputs.front().is_contiguous() ? from.elements : 0;
  return moved(to.elements, from, to, false);
}

}  // namespace trn::aten::rules
