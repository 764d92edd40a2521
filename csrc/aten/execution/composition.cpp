// Binds the parts of a composed operator: each with its own tensors, temporaries among them.
#include "aten/rules/composition.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <ranges>

#include "aten/alias.h"
#include "aten/execution.h"
#include "aten/rules/broadcast.h"

namespace trn::aten {

namespace {

using rules::Stack;
using rules::Stage;

bool is_single(const Stack& stack) {
  return stack.size() == 1;
}

at::Tensor read(const Stack& stack) {
  if (is_single(stack)) {
    return memory_of(stack.front()).contiguous();
  }
  std::vector<at::Tensor> rows;
  for (const at::Tensor& tensor : stack) {
    rows.push_back(memory_of(tensor).flatten());
  }
  return at::stack(rows);
}

// `keeps`: elements that the program does not write stay as they are.
BoundPart::Result written(const Stack& stack, bool keeps) {
  const at::Tensor first = memory_of(stack.front());
  if (is_single(stack)) {
    return keeps && !first.is_contiguous() ? BoundPart::Result{first.contiguous(), {}, first} : dense_result(first);
  }
  std::vector<at::Tensor> members;
  for (const at::Tensor& tensor : stack) {
    members.push_back(memory_of(tensor));
  }
  const at::Tensor buffer = at::empty({static_cast<std::int64_t>(stack.size()), first.numel()}, first.options());
  return {buffer, {}, {}, members};
}

// Of a sort what has been found makes room for an infinity, and NaN equals nothing; nor is a pool's tap found where a
// NaN stands, or an infinity like the padding.
bool is_found_by_value(const kernels::Part& part) {
  const auto* window = std::get_if<kernels::WindowShape>(&part);
  return std::holds_alternative<kernels::SortShape>(part) ||
         (window != nullptr && window->kind == kernels::WindowKind::max_pool && !window->backward);
}

// Numbers that compare as the generator's did, by the place in the first result's memory.
at::Tensor draws_of(const Stage& stage) {
  const auto order = rules::memory_order(stage.outputs.front().front());
  return memory_of(stage.drawn).permute(order).eq(0).to(at::kFloat).contiguous();
}

// Whether an operand was copied to lie as its program takes it: the values are then those of now.
bool copies(const BoundPart& bound, const Stage& stage) {
  return std::ranges::any_of(bound.inputs, [&](const at::Tensor& input) {
    return std::ranges::none_of(stage.inputs | std::views::join, [&](const at::Tensor& tensor) {
      return memory_of(tensor).storage().data() == input.storage().data();
    });
  });
}

}  // namespace

std::optional<BoundPart> bind_stage(const Stage& stage, const std::shared_ptr<const BuiltProgram>& built) {
  const auto each = {&stage.inputs, &stage.outputs};
  for (const auto* stacks : each) {
    if (!std::ranges::all_of(*stacks | std::views::join, is_plain)) {
      return std::nullopt;
    }
  }
  if (is_found_by_value(stage.part)) {
    const at::Tensor keys = memory_of(stage.inputs.front().front());
    if (keys.is_floating_point() && !keys.isfinite().all().item<bool>()) {
      return std::nullopt;
    }
  }
  const auto bind = [built](const Stage& one) -> std::optional<BoundPart> {
    const auto* pointwise = std::get_if<kernels::PointwiseShape>(&one.part);
    if (pointwise != nullptr && std::ranges::all_of(one.inputs, is_single) &&
        std::ranges::all_of(one.outputs, is_single)) {
      auto firsts = [](const std::vector<Stack>& stacks) {
        std::vector<at::Tensor> tensors;
        for (const Stack& stack : stacks) {
          tensors.push_back(stack.front());
        }
        return tensors;
      };
      return bind_tensors(firsts(one.inputs), firsts(one.outputs), *pointwise, built->program);
    }
    BoundPart bound;
    for (const Stack& stack : one.inputs) {
      bound.inputs.push_back(read(stack));
    }
    for (const Stack& stack : one.outputs) {
      bound.outputs.push_back(written(stack, std::holds_alternative<kernels::IndexShape>(one.part)));
    }
    return bound;
  };
  auto bound = bind(stage);
  if (bound && stage.drawn.defined()) {
    bound->draws = draws_of(stage);
  }
  if (bound) {
    const auto is_wide = [](const at::Tensor& tensor) { return is_device_tensor(tensor) && tensor.itemsize() == 8; };
    bound->narrows = std::ranges::any_of(stage.inputs | std::views::join, is_wide) ||
                     std::ranges::any_of(stage.outputs | std::views::join, is_wide);
  }
  if (bound && !stage.drawn.defined() && copies(*bound, stage)) {
    bound->bind_late = [stage, bind] { return bind(stage); };
  }
  return bound;
}

}  // namespace trn::aten
