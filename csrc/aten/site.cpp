#include "aten/site.h"

#include <ATen/SequenceNumber.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/node.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <string_view>
#include <typeinfo>
#include <vector>

namespace trn::aten {

namespace {

using runtime::MemoryCategory;
using runtime::Phase;
using runtime::Site;

std::atomic<PlaceSource> place_source{nullptr};
thread_local std::vector<std::uint32_t> module_stack;
thread_local std::optional<Phase> phase_override;
// The backward pass, by its graph task, that each running repetition of a checkpointed forward pass began in.
thread_local std::vector<int> recomputing_tasks;

std::uint32_t top_module() {
  return module_stack.empty() ? 0 : module_stack.back();
}
// A line, and a module in any case.
Place current_place() {
  const PlaceSource source = place_source.load(std::memory_order_relaxed);
  Place place = source ? source() : Place{};
  if (!place.module) {
    place.module = top_module();
  }
  return place;
}

// Each thread numbers its autograd nodes in the order of the forward pass; this remembers where each number came from.
// A ring, so that a profile of any length keeps its memory: graphs of more nodes lose the oldest attributions only.
constexpr std::size_t kRingSize = 1 << 16;
struct Origin {
  std::uint64_t thread = 0, sequence = UINT64_MAX;
  std::uint32_t module = 0, line = 0;
};
Origin& slot(std::uint64_t thread, std::uint64_t sequence) {
  static auto* ring = new std::array<Origin, kRingSize>();
  return (*ring)[(sequence + thread * 7919) % kRingSize];
}

std::atomic<std::uint64_t> num_recordings{0};

// Views make nodes and launch nothing, so a launch, or the border of a module, speaks for all nodes since the last one.
class NodesOfThread {
 public:
  // Are there nodes without an origin? An operator's node is made before its launch, also the first of a recording.
  bool any() {
    const std::uint64_t next = at::sequence_number::peek();
    if (const auto id = num_recordings.load(std::memory_order_relaxed); id != recording_) {
      recording_ = id;
      first_ = std::max<std::uint64_t>(next, 1) - 1;
    }
    return first_ < next;
  }
  void give(std::uint32_t module, std::uint32_t line) {
    const std::uint64_t next = at::sequence_number::peek();
    const std::uint64_t thread = at::RecordFunction::currentThreadId();
    for (std::uint64_t s = std::max(first_, next - std::min(next, kRingSize)); s < next; ++s) {
      slot(thread, s) = {thread, s, module, line};
    }
    first_ = next;
  }

 private:
  std::uint64_t recording_ = 0, first_ = 0;
};
thread_local NodesOfThread nodes;

void give_nodes_to_this_module() {
  if (nodes.any()) {
    const Place place = current_place();
    nodes.give(*place.module, place.line);
  }
}

bool in_backward() noexcept {
  return torch::autograd::get_current_graph_task_id() >= 0;
}

// Of torch.autograd.Function, as which the backward pass of a compiled graph runs. Its class is libtorch_python's.
bool runs_python(const torch::autograd::Node& node) {
  return std::string_view(typeid(node).name()) == "N5torch8autograd6PyNodeE";
}

// A pass that the repeated function itself runs repeats work too, and has a later number than the one that repeats it.
bool is_recomputing(int task) noexcept {
  return !recomputing_tasks.empty() && task >= recomputing_tasks.back();
}

}  // namespace

Site current_site() {
  const int task = torch::autograd::get_current_graph_task_id();
  const bool recomputes = is_recomputing(task);
  if (task < 0 || (recomputes && task == recomputing_tasks.back())) {
    const Place place = current_place();
    Site site{*place.module, place.line, recomputes ? Phase::recompute : phase_override.value_or(Phase::forward)};
    if (nodes.any()) {
      nodes.give(site.module, site.line);
    }
    return site;
  }
  // Gradients accumulate right after the node that made them, and are its module's.
  thread_local Site site;
  if (auto node = torch::autograd::get_current_node()) {
    const std::uint64_t sequence = node->sequence_nr();
    const Origin& origin = slot(node->thread_id(), sequence);
    const bool is_known = origin.sequence == sequence && origin.thread == node->thread_id();
    if (is_known || sequence != UINT64_MAX) {
      site = {is_known ? origin.module : 0, is_known ? origin.line : 0, Phase::backward};
    }
    const PlaceSource source = place_source.load(std::memory_order_relaxed);
    if (source && runs_python(*node)) {
      if (const Place place = source(); place.in_graph) {
        const bool tells_line = place.line != 0 && (!place.is_callers || site.line == 0);
        site = {place.module.value_or(site.module), tells_line ? place.line : site.line, Phase::backward};
      }
    }
  }
  site.phase = recomputes ? Phase::recompute : Phase::backward;
  return site;
}

MemoryCategory current_category() noexcept {
  if (phase_override == Phase::optimizer || in_backward() || !at::GradMode::is_enabled()) {
    return MemoryCategory::temporaries;
  }
  return MemoryCategory::activations;
}

void begin_recording() {
  num_recordings.fetch_add(1, std::memory_order_relaxed);
}

void push_module(std::uint32_t module) {
  give_nodes_to_this_module();
  module_stack.push_back(module);
}

void pop_module() {
  if (!module_stack.empty()) {
    give_nodes_to_this_module();
    module_stack.pop_back();
  }
}

void set_phase(std::optional<Phase> phase) {
  phase_override = phase;
}

void begin_recompute() {
  recomputing_tasks.push_back(torch::autograd::get_current_graph_task_id());
}

void end_recompute() {
  if (!recomputing_tasks.empty()) {
    recomputing_tasks.pop_back();
  }
}

bool is_phase_set() {
  return phase_override.has_value();
}

void set_place_source(PlaceSource source) {
  place_source.store(source, std::memory_order_relaxed);
}

}  // namespace trn::aten
