// Binds copies: the source in the order in which the result lies in HBM, but for the axes that a transpose turns.
#include <ATen/WrapDimUtils.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "aten/alias.h"
#include "aten/execution.h"
#include "aten/execution/layout.h"
#include "aten/rules/broadcast.h"
#include "aten/rules/copy.h"

namespace trn::aten {

namespace {

using kernels::CopyShape;
using rules::MovedAxis;

bool is_copy(std::string_view name) {
  return name == "_copy_from" || name == "clone" || name == "_to_copy" || name == "copy";
}

bool is_resolved(const at::Tensor& tensor) {
  return tensor.defined() && is_plain(tensor) && is_device_tensor(tensor) && !tensor.is_conj() && !tensor.is_neg();
}

// One side of the copy by its merged axes.
at::Tensor by_axes(const at::Tensor& alias, const std::vector<MovedAxis>& axes, std::int64_t MovedAxis::* stride) {
  std::vector<std::int64_t> sizes, strides;
  for (const MovedAxis& axis : axes) {
    sizes.push_back(axis.size);
    strides.push_back(axis.*stride);
  }
  return alias.as_strided(sizes, strides);
}

// Each element of a broadcast source once.
at::Tensor distinct(at::Tensor tensor) {
  for (std::int64_t d = tensor.dim(); d-- > 0;) {
    if (tensor.stride(d) == 0) {
      tensor = tensor.select(d, 0);
    }
  }
  return tensor;
}

BoundPart::Result result_of(const at::Tensor& alias, const kernels::Access& access, std::int64_t elements) {
  if (elements == alias.numel()) {
    return dense_result(alias);
  }
  const at::Tensor buffer = at::zeros({elements}, alias.options());
  return {buffer, spread(buffer, access), alias};
}

BoundPart bind_copy(const at::Tensor& from, const at::Tensor& to, const CopyShape& shape,
                    const program::Program& program) {
  const auto axes = rules::moved_axes(from, to);
  at::Tensor source = by_axes(from, axes, &MovedAxis::from), result = by_axes(to, axes, &MovedAxis::to);
  if (shape.src.elements < shape.elements) {
    source = distinct(source);
  } else if (shape.transpose) {
    const auto turned = rules::innermost_in_source(axes);
    source = source.movedim({result.dim() - 1, turned}, {-2, -1});
    result = result.movedim(turned, -2);
  }
  return {.program = {},
          .inputs = {staged(source, shape.src, program.buffers[0].elements)},
          .outputs = {result_of(result, shape.dst, program.buffers[1].elements)}};
}

// A part moves neighbours that lie alike.
std::optional<BoundPart> bind_concatenation(const LaunchArguments& args, const CopyShape& shape,
                                            const program::Program& program, std::size_t part) {
  const auto tensors = args.tensors("tensors");
  const auto groups = rules::alike(tensors);
  const at::Tensor& out = args.output();
  if (part >= groups.size() || !is_resolved(out)) {
    return std::nullopt;
  }
  std::vector<at::Tensor> members;
  for (const std::size_t i : groups[part]) {
    if (!is_resolved(tensors[i])) {
      return std::nullopt;
    }
    members.push_back(rules::as_joined(args, cpu_alias(tensors[i])));
  }
  const at::Tensor result = cpu_alias(rules::joined_place(args, groups[part].front(), groups[part].back()));
  if (rules::repeats(tensors[groups[part].front()])) {
    return bind_copy(members.front(), result, shape, program);
  }
  if (result.numel() != shape.elements || shape.transpose) {
    return std::nullopt;
  }
  const at::Tensor source = at::cat(members, at::maybe_wrap_dim(args.integer("dim", 0), out.dim()));
  const auto order = rules::memory_order(out);
  return BoundPart{.program = {},
                   .inputs = {staged(source.permute(order), shape.src, program.buffers[0].elements)},
                   .outputs = {result_of(result.permute(order), shape.dst, program.buffers[1].elements)}};
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const CopyShape& shape, const program::Program& program,
                                   std::size_t part) {
  const auto name = args.base_name();
  if (name == "cat" || name == "stack" || name == "_stack") {
    return bind_concatenation(args, shape, program, part);
  }
  if (is_copy(name)) {
    const at::Tensor& to = args.tensor("dst").defined() ? args.tensor("dst") : args.output();
    const at::Tensor& from = args.tensor("src").defined() ? args.tensor("src") : args.tensor("self");
    if (is_resolved(from) && is_resolved(to) && from.sizes() == to.sizes()) {
      return bind_copy(cpu_alias(from), cpu_alias(to), shape, program);
    }
  }
  return std::nullopt;
}

}  // namespace trn::aten
