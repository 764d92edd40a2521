// Binds the operands of a pointwise launch: all of them in the order in which the first result lies in HBM.
#include <ATen/ops/any.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "aten/alias.h"
#include "aten/execution.h"
#include "aten/execution/layout.h"
#include "aten/numerics.h"
#include "aten/op_table.h"
#include "aten/rules/broadcast.h"
#include "aten/rules/lists.h"
#include "aten/rules/parts.h"
#include "aten/rules/pointwise.h"

namespace trn::aten {

namespace {

using kernels::Access;

struct Layout {
  at::IntArrayRef sizes;            // of the iteration space
  std::vector<std::int64_t> order;  // its axes, outermost in memory first
};

// One period of a broadcast operand, where its repetitions are the outer axes; undefined otherwise.
at::Tensor period_of(const at::Tensor& expanded, std::int64_t elements) {
  at::Tensor period = expanded;
  while (period.numel() > elements && period.dim() > 0 && (period.size(0) == 1 || period.stride(0) == 0)) {
    period = period.select(0, 0);
  }
  return period.numel() == elements ? period.contiguous() : at::Tensor();
}

// Each element of an operand that repeats along some axes once.
at::Tensor distinct_of(at::Tensor expanded) {
  for (std::int64_t d = expanded.dim(); d-- > 0;) {
    if (expanded.size(d) == 1 || expanded.stride(d) == 0) {
      expanded = expanded.select(d, 0);
    }
  }
  return expanded.contiguous();
}

at::Tensor staged_input(const at::Tensor& alias, const Access& access, std::int64_t buffer_elements,
                        const Layout& layout, bool has_axes) {
  if (access.elements == 1 && alias.numel() == 1) {
    return alias.reshape({1});
  }
  const at::Tensor expanded = alias.expand(layout.sizes).permute(layout.order);
  if (has_axes) {
    return distinct_of(expanded);
  }
  if (access.elements != expanded.numel()) {
    return period_of(expanded, access.elements);
  }
  return staged(expanded, access, buffer_elements);
}

// A result that rows are written to starts as zeros, and the padding's row of a gradient ends as them.
std::optional<BoundPart> cleared(const LaunchArguments& args, const kernels::PointwiseShape& shape) {
  const at::Tensor out = cpu_alias(args.output());
  if (!out.is_contiguous()) {
    return std::nullopt;
  }
  const at::Tensor part = out.numel() == shape.elements ? out : out.select(0, args.integer("padding_idx", 0));
  return BoundPart{.program = {}, .inputs = {}, .outputs = {{part, {}, part}}};
}

// An instruction's constant is a float32: too short for some integers where they stay integers.
bool holds_constants(const LaunchArguments& args, bool fills) {
  const auto is_integer = [](const at::Tensor& tensor) { return c10::isIntegralType(tensor.scalar_type(), true); };
  const bool is_bitwise = args.base_name().starts_with("bitwise_");
  if (!(fills || is_bitwise || !departures().integers_through_fp32) ||
      !std::ranges::all_of(fills ? args.output_tensors() : args.input_tensors(), is_integer)) {
    return true;
  }
  return std::ranges::all_of(args.op().schema().arguments(), [&](const c10::Argument& argument) {
    // Where a progression ends, no instruction is told.
    const double number = argument.name() == "end" ? 0 : args.number(argument.name(), 0);
    const bool is_exact = static_cast<double>(static_cast<float>(number)) == number || !std::isfinite(number);
    return is_exact && (!is_bitwise || std::abs(number) <= std::numeric_limits<std::int32_t>::max());
  });
}

// Integers by zero: what the hardware gives is not public, so it raises as on the CPU.
void require_divisor(const LaunchArguments& args) {
  const auto name = args.base_name();
  const bool divides =
      is_any(name, {"floor_divide", "remainder", "fmod"}) || (name == "div" && !args.string("rounding_mode").empty());
  if (!divides || !c10::isIntegralType(args.output().scalar_type(), false) || args.find("other") < 0 ||
      !args.inputs()[static_cast<std::size_t>(args.find("other"))].isTensor()) {
    return;
  }
  const at::Tensor other = args.tensor("other");
  TORCH_CHECK(!is_plain(other) || other.numel() == 0 || !cpu_alias(other).eq(0).any().item<bool>(),
              "ZeroDivisionError");
}

}  // namespace

std::optional<BoundPart> bind_tensors(const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& outputs,
                                      const kernels::PointwiseShape& shape, const program::Program& program) {
  if (shape.segments != 1 || outputs.size() != shape.outputs.size() || inputs.size() != shape.inputs.size() ||
      outputs.empty() || !std::ranges::all_of(inputs, is_plain) || !std::ranges::all_of(outputs, is_plain)) {
    return std::nullopt;
  }
  BoundPart bound;
  const Layout layout{outputs.front().sizes(), rules::memory_order(outputs.front())};
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor staged =
        staged_input(memory_of(inputs[i]), shape.inputs[i], program.buffers[i].elements, layout, !shape.axes.empty());
    if (!staged.defined()) {
      return std::nullopt;
    }
    bound.inputs.push_back(staged);
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].sizes() != layout.sizes) {
      return std::nullopt;
    }
    const at::Tensor alias = memory_of(outputs[i]).permute(layout.order);
    const std::int64_t elements = program.buffers[inputs.size() + i].elements;
    if (elements == alias.numel()) {
      bound.outputs.push_back(dense_result(alias));
    } else {
      const at::Tensor buffer = at::zeros({elements}, alias.options());
      bound.outputs.push_back({buffer, spread(buffer, shape.outputs[i]), alias});
    }
  }
  return bound;
}

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::PointwiseShape& shape,
                                   const program::Program& program) {
  if (is_any(args.base_name(), {"embedding_dense_backward", "max_unpool2d", "max_unpool3d"})) {
    return cleared(args, shape);
  }
  if (rules::streams_parts(args.base_name())) {
    const rules::PartStream stream = rules::part_stream(args);
    return bind_tensors(stream.inputs, stream.outputs, shape, program);
  }
  if (find_op(args.op().operator_name()).family == "matmul") {  // of factors that have nothing to add up
    const bool reads_host = !shape.inputs.empty() && !is_device_tensor(args.tensor(0));
    return args.output().is_complex() || reads_host
               ? std::nullopt
               : bind_tensors(shape.inputs.empty() ? std::vector<at::Tensor>() : std::vector{args.tensor(0)},
                              args.output_tensors(), shape, program);
  }
  require_divisor(args);
  // What is filled is not read.
  const bool fills = shape.inputs.empty();
  if (!rules::computes(args) || !holds_constants(args, fills)) {
    return std::nullopt;
  }
  return bind_tensors(fills ? std::vector<at::Tensor>() : args.input_tensors(), args.output_tensors(), shape, program);
}

std::optional<std::vector<BoundPart>> bind_members(const LaunchArguments& args, const BuildProgram& build) {
  if (!rules::computes_list(args)) {
    return std::nullopt;
  }
  std::vector<BoundPart> parts;
  std::size_t index = 0;
  for (const rules::Member& member : rules::members(args)) {
    const kernels::Spec spec = rules::stream(rules::largest_numel(member.outputs), rules::accesses(member.inputs),
                                             rules::accesses(member.outputs), rules::member_steps(args, index++, true));
    if (spec.empty()) {
      continue;  // a tensor of no elements
    }
    const auto program = build(spec.front());
    auto bound =
        bind_tensors(member.inputs, member.outputs, std::get<kernels::PointwiseShape>(spec.front()), program->program);
    if (!bound) {
      return std::nullopt;
    }
    bound->program = program;
    parts.push_back(std::move(*bound));
  }
  return parts;
}

}  // namespace trn::aten
