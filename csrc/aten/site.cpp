#include "aten/site.h"

#include <ATen/SequenceNumber.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/node.h>

#include <array>
#include <vector>

namespace trn::aten {

namespace {

using runtime::MemoryCategory;
using runtime::Phase;
using runtime::Site;

std::function<std::uint32_t()> line_source;
thread_local std::vector<std::uint32_t> module_stack;
thread_local std::optional<Phase> phase_override;

// Autograd numbers its nodes in the order of the forward pass; this remembers where each number came from. A ring, so
// that a profile of any length keeps its memory: graphs of more nodes lose the oldest attributions only.
constexpr std::size_t kRingSize = 1 << 16;
struct Origin {
  std::uint64_t sequence = UINT64_MAX;
  std::uint32_t module = 0, line = 0;
};
std::array<Origin, kRingSize>& ring() {
  static auto* instance = new std::array<Origin, kRingSize>();
  return *instance;
}

std::uint32_t top_module() {
  return module_stack.empty() ? 0 : module_stack.back();
}
std::uint32_t current_line() {
  return line_source ? line_source() : 0;
}

bool in_backward() noexcept {
  return torch::autograd::get_current_graph_task_id() >= 0;
}

}  // namespace

Site current_site() {
  if (!in_backward()) {
    Site site{top_module(), current_line(), phase_override.value_or(Phase::forward)};
    const std::uint64_t next = at::sequence_number::peek();
    if (next > 0) {
      ring()[(next - 1) % kRingSize] = {next - 1, site.module, site.line};
    }
    return site;
  }
  // A forward that autograd records inside a backward which itself records nothing is activation checkpointing.
  if (at::GradMode::is_enabled() && !torch::autograd::get_current_graph_task_keep_graph()) {
    return {top_module(), current_line(), Phase::recompute};
  }
  Site site{0, 0, Phase::backward};
  if (auto node = torch::autograd::get_current_node()) {
    const std::uint64_t sequence = node->sequence_nr();
    if (const Origin& origin = ring()[sequence % kRingSize]; origin.sequence == sequence) {
      site.module = origin.module;
      site.line = origin.line;
    }
  }
  return site;
}

MemoryCategory current_category() noexcept {
  if (phase_override == Phase::optimizer || in_backward() || !at::GradMode::is_enabled()) {
    return MemoryCategory::temporaries;
  }
  return MemoryCategory::activations;
}

void push_module(std::uint32_t module) {
  module_stack.push_back(module);
}

void pop_module() {
  if (!module_stack.empty()) {
    module_stack.pop_back();
  }
}

void set_phase(std::optional<Phase> phase) {
  phase_override = phase;
}

void set_line_source(std::function<std::uint32_t()> source) {
  line_source = std::move(source);
}

}  // namespace trn::aten
