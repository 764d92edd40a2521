#include "bindings/profile.h"

#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "aten/allocator.h"
#include "aten/site.h"
#include "aten/system.h"
#include "bindings/kernels.h"
#include "bindings/source_line.h"
#include "runtime/collectives.h"

namespace py = pybind11;

namespace trn::bindings {

namespace {

using runtime::HostSync;
using runtime::HostSyncTotal;
using runtime::Ledger;
using runtime::MemoryCategory;
using runtime::Phase;

int lines_wanted = 0;
struct Running {
  bool lines = false;
  std::optional<std::size_t> first_step;       // in the clocks' journal, for a profile that keeps it
  std::map<int, runtime::Picoseconds> clocks;  // at its start
};
std::map<int, Running> running_profiles;  // by profile

// Indices of the whole process become indices of this ledger: it names only what it saw.
class Interner {
 public:
  explicit Interner(py::list names) : names_(std::move(names)) {}
  template <class Make>
  std::size_t operator()(std::uint32_t id, Make&& make) {
    auto [it, inserted] = index_.try_emplace(id, names_.size());
    if (inserted) {
      names_.append(make());
    }
    return it->second;
  }

 private:
  py::list names_;
  std::unordered_map<std::uint32_t, std::size_t> index_;
};

py::list names_from_empty() {
  py::list list;
  list.append("");
  return list;
}

py::dict memory_dict(const Ledger& ledger) {
  py::dict by_category;
  std::int64_t bytes = 0;
  std::array<std::int64_t, runtime::kNumMemoryCategories> sum{};
  for (const auto& [device, peak] : ledger.peak_memory) {  // the fullest device
    if (peak.bytes >= bytes) {
      bytes = peak.bytes;
      sum = peak.by_category;
    }
  }
  for (int c = 0; c < runtime::kNumMemoryCategories; ++c) {
    by_category[name(static_cast<MemoryCategory>(c))] = sum[static_cast<std::size_t>(c)];
  }
  py::dict out;
  out["bytes"] = bytes;
  out["by_category"] = by_category;
  return out;
}

// [[entry, launches], ...] of a stretch, each entry once.
py::list launches_to_list(const std::vector<std::uint32_t>& entries, const runtime::ClockStep& step,
                          const std::vector<std::size_t>& position) {
  std::map<std::size_t, std::int64_t> counts;
  for (std::size_t i = step.begin; i < step.end; ++i) {
    ++counts[position[entries[i]]];
  }
  py::list out;
  for (const auto& [entry, count] : counts) {
    py::list pair;
    pair.append(entry);
    pair.append(count);
    out.append(pair);
  }
  return out;
}

// [kind, device, stream, name, ...], as ClockStep has them. Waits for what came before the record are left out.
py::list clock_to_list(const runtime::ClockRecord& record, const std::vector<std::size_t>& position,
                       const std::map<std::uint64_t, std::size_t>& rows, std::optional<int> device) {
  using Kind = runtime::ClockStep::Kind;
  static constexpr const char* kNames[] = {"launches",    "sleep",       "mark",       "wait",  "host_wait",
                                           "stream_wait", "synchronize", "new_stream", "issue", "finish"};
  py::list out;
  std::set<std::uint64_t> known;
  for (const auto& step : record.steps) {
    if (device && step.device != *device) {
      continue;
    }
    const bool begins = step.kind == Kind::mark || step.kind == Kind::issue;
    const bool is_named =
        begins || step.kind == Kind::wait || step.kind == Kind::host_wait || step.kind == Kind::finish;
    if (begins) {
      known.insert(step.name);
    } else if (is_named && !known.contains(step.name)) {
      continue;
    }
    py::list row;
    row.append(kNames[static_cast<std::size_t>(step.kind)]);
    row.append(step.device);
    row.append(step.stream);
    if (is_named) {
      row.append(step.name);
    }
    switch (step.kind) {
      case Kind::launches:
        row.append(launches_to_list(record.entries, step, position));
        break;
      case Kind::sleep:
        row.append(runtime::to_seconds(step.value));
        break;
      case Kind::issue:
        row.append(rows.contains(step.name) ? py::cast(rows.at(step.name)) : py::none());
        row.append(step.value);
        break;
      default:
        break;
    }
    out.append(row);
  }
  return out;
}

// Adds "collectives", "collective_timeline" and, of the device that has most, the sums of "exposed_collective_seconds"
// and "collective_wait_seconds".
// Returns the rows of calls that the clocks' journal names.
std::map<std::uint64_t, std::size_t> add_collectives(py::dict& out, const runtime::CollectiveRecord& record,
                                                     const std::vector<std::string>& modules,
                                                     const std::vector<std::string>& lines, bool has_timeline) {
  py::list rows, timeline;
  std::map<std::uint32_t, py::object> ranks;  // one list for all rows of a group
  std::unordered_map<const runtime::Collective*, std::size_t> position;
  for (const auto& [call, total] : record.totals) {
    auto& members = ranks[call.group];
    if (!members) {
      members = py::cast(runtime::collectives().group_ranks(call.group));
    }
    py::dict row;
    row["op"] = call.op;
    row["dtype"] = call.dtype;
    row["group"] = runtime::collectives().group_name(call.group);
    row["ranks"] = members;
    row["position"] = call.position;
    row["root"] = call.root;
    row["size_bytes"] = call.bytes;
    row["input_bytes"] = call.input_bytes;
    row["output_bytes"] = call.output_bytes;
    row["bytes"] = std::max(call.input_bytes, call.output_bytes);
    row["moved_bytes"] = call.moved_bytes;
    row["phase"] = name(call.site.phase);
    row["module"] = modules.at(call.site.module);
    row["line"] = lines.at(call.site.line);
    row["device"] = call.device;
    row["stream"] = call.stream;
    row["count"] = total.count;
    row["exposed_seconds"] = runtime::to_seconds(total.exposed);
    row["wait_seconds"] = runtime::to_seconds(total.waited);
    position[&call] = rows.size();
    rows.append(row);
  }
  for (const auto& event : record.timeline) {
    py::list row;
    row.append(position.at(event.call));
    for (const auto time : {event.able, event.begin, event.end}) {
      row.append(runtime::to_seconds(time));
    }
    timeline.append(row);
  }
  runtime::Picoseconds exposed = 0, waited = 0;
  for (const auto& [device, held_up] : record.held_up) {
    const runtime::Picoseconds ran = record.exposed.contains(device) ? record.exposed.at(device) : 0;
    exposed = std::max(exposed, ran);
    waited = std::max(waited, held_up - ran);
  }
  out["collectives"] = rows;
  out["collective_timeline"] = has_timeline ? py::object(timeline) : py::none();
  out["exposed_collective_seconds"] = runtime::to_seconds(exposed);
  out["collective_wait_seconds"] = runtime::to_seconds(waited);
  std::map<std::uint64_t, std::size_t> rows_of_names;
  for (const auto& [name, call] : record.named) {
    rows_of_names[name] = position.at(call);
  }
  return rows_of_names;
}

py::dict ledger_to_dict(const Ledger& ledger, const runtime::CollectiveRecord& calls,
                        const std::optional<runtime::ClockRecord>& clock, std::optional<int> device = {}) {
  auto& machine = aten::system();
  auto& launches = machine.launches();
  const auto all_modules = machine.recorder().modules();
  const auto all_lines = machine.recorder().lines();
  py::list ops, specs, modules = names_from_empty(), lines = names_from_empty(), entries, syncs;
  Interner op(ops), spec(specs), module(modules), line(lines);
  auto module_index = [&](std::uint32_t id) { return id ? module(id, [&] { return all_modules.at(id); }) : 0; };
  auto line_index = [&](std::uint32_t id) { return id ? line(id, [&] { return all_lines.at(id); }) : 0; };

  std::vector<std::size_t> position(ledger.entries.size());
  for (std::size_t i = 0; i < ledger.entries.size(); ++i) {
    const auto& entry = ledger.entries[i];
    if (entry.launches == 0) {
      continue;
    }
    position[i] = entries.size();
    py::dict row;
    row["op"] = op(entry.variant->op, [&] { return launches.op_name(entry.variant->op); });
    row["spec"] = spec(entry.variant->spec, [&] { return spec_to_list(launches.spec(entry.variant->spec)); });
    row["phase"] = name(entry.site.phase);
    row["module"] = module_index(entry.site.module);
    row["line"] = line_index(entry.site.line);
    row["device"] = entry.device;
    row["stream"] = entry.stream;
    row["launches"] = entry.launches;
    row["fused_read_bytes"] = entry.fused_read_bytes;
    row["fused_write_bytes"] = entry.fused_write_bytes;
    row["graphs"] = entry.graphs;
    row["peak_memory"] = entry.peak.by_category;
    entries.append(row);
  }
  // By names: the order of their numbers is that of the process's whole life.
  std::vector<std::pair<HostSync, HostSyncTotal>> transfers(ledger.host_syncs.begin(), ledger.host_syncs.end());
  std::ranges::sort(transfers, {}, [&](const auto& item) {
    const HostSync& sync = item.first;
    return std::make_tuple(launches.op_name(sync.op), all_lines.at(sync.site.line), all_modules.at(sync.site.module),
                           sync.site.phase, sync.direction, sync.blocking, sync.device);
  });
  for (const auto& [sync, total] : transfers) {
    py::dict row;
    row["op"] = op(sync.op, [&] { return launches.op_name(sync.op); });
    row["phase"] = name(sync.site.phase);
    row["module"] = module_index(sync.site.module);
    row["line"] = line_index(sync.site.line);
    row["count"] = total.count;
    row["bytes"] = total.bytes;
    row["device"] = sync.device;
    row["blocking"] = sync.blocking;
    row["direction"] = sync.direction == runtime::Direction::to_host ? "to_host" : "to_device";
    syncs.append(row);
  }
  py::object timeline = py::none();
  if (ledger.has_timeline) {
    py::list events;
    for (const auto& event : ledger.timeline) {
      py::list row;
      row.append(position[event.entry]);
      row.append(runtime::to_seconds(event.start));
      row.append(runtime::to_seconds(event.end));
      row.append(event.hbm_bytes);
      events.append(row);
    }
    timeline = events;
  }
  py::dict out;
  out["schema"] = 1;
  out["target"] = machine.target()->name;
  out["ops"] = ops;
  out["modules"] = modules;
  out["lines"] = lines;
  out["specs"] = specs;
  out["entries"] = entries;
  out["host_syncs"] = syncs;
  out["peak_memory"] = memory_dict(ledger);
  const auto rows_of_names = add_collectives(out, calls, all_modules, all_lines, ledger.has_timeline);
  if (clock) {
    out["clock"] = clock_to_list(*clock, position, rows_of_names, device);
  }
  std::int64_t steps = 0;
  for (const auto& [device, number] : ledger.steps) {
    steps += number;
  }
  out["steps"] = steps;
  out["timeline"] = timeline;
  return out;
}

Phase phase_from(const std::string& text) {
  for (const auto phase : {Phase::forward, Phase::backward, Phase::optimizer, Phase::recompute}) {
    if (text == name(phase)) {
      return phase;
    }
  }
  throw py::value_error("[profiler] phase must be forward, backward, optimizer or recompute; got " + text + ".");
}

MemoryCategory category_from(const std::string& text) {
  for (int c = 0; c < runtime::kNumMemoryCategories; ++c) {
    if (text == name(static_cast<MemoryCategory>(c))) {
      return static_cast<MemoryCategory>(c);
    }
  }
  throw py::value_error("[memory_tag] no such category; got " + text + ".");
}

std::map<int, runtime::Picoseconds> clocks() {
  std::map<int, runtime::Picoseconds> out;
  auto& machine = aten::system();
  for (int i = 0; i < machine.num_devices(); ++i) {
    out[i] = machine.device(i).clock.latest();
  }
  return out;
}

int start(bool timeline, bool lines, bool clock) {
  const int profile = aten::system().recorder().open(timeline);
  runtime::collectives().open(profile, timeline);
  aten::begin_recording();
  auto& journal = aten::system().journal();
  running_profiles[profile] = {lines, clock ? std::make_optional(journal.open()) : std::nullopt, clocks()};
  lines_wanted += lines;
  forget_graphs();
  aten::set_place_source(lines_wanted ? &source_place : nullptr);
  return profile;
}

std::pair<Ledger, std::optional<runtime::ClockRecord>> close_profile(int profile) {
  auto& machine = aten::system();
  Ledger ledger = machine.recorder().close(profile);
  const Running was = std::move(running_profiles.at(profile));
  running_profiles.erase(profile);
  std::optional<runtime::ClockRecord> clock;
  if (was.first_step) {
    clock = machine.journal().close(*was.first_step);
  }
  lines_wanted -= was.lines;
  if (!lines_wanted) {
    aten::set_place_source(nullptr);
  }
  return {std::move(ledger), std::move(clock)};
}

py::dict stop(int profile) {
  const auto [ledger, clock] = close_profile(profile);
  return ledger_to_dict(ledger, runtime::collectives().close(aten::system(), profile), clock);
}

// One ledger for each of the devices.
py::list stop_by_device(int profile, const std::vector<int>& devices) {
  const auto [ledger, clock] = close_profile(profile);
  const runtime::CollectiveRecord calls = runtime::collectives().close(aten::system(), profile);
  py::list out;
  for (const int device : devices) {
    out.append(ledger_to_dict(ledger.of_device(device), calls.of_device(device), clock, device));
  }
  return out;
}

py::tuple progress(int profile) {
  const auto& begin = running_profiles.at(profile).clocks;
  double seconds = 0;
  for (const auto& [device, now] : clocks()) {
    seconds = std::max(seconds, runtime::to_seconds(now - begin.at(device)));
  }
  const auto [launches, steps] = aten::system().recorder().progress(profile);
  return py::make_tuple(steps, launches, seconds);
}

}  // namespace

void tag(const at::Tensor& tensor, MemoryCategory to) {
  if (!tensor.defined() || !tensor.device().is_privateuseone() || !tensor.has_storage()) {
    return;
  }
  runtime::Block* block = aten::block_of(*tensor.storage().unsafeGetStorageImpl());
  if (!block) {
    return;
  }
  const MemoryCategory from = block->category;
  if (from != to) {
    auto& machine = aten::system();
    machine.device(block->device).memory->tag(block, to);
    machine.recorder().tagged(block, from, to);
  }
}

void bind_profile(py::module_& module) {
  module.def("profiler_start", &start, py::arg("timeline"), py::arg("lines"), py::arg("clock"));
  module.def("profiler_stop", &stop);
  module.def("profiler_stop_by_device", &stop_by_device, py::arg("profile"), py::arg("devices"));
  module.def("profiler_progress", &progress);
  module.def("profiler_begin_recompute", &aten::begin_recompute);
  module.def("profiler_end_recompute", &aten::end_recompute);
  module.def("profiler_set_phase", [](const std::optional<std::string>& phase) {
    aten::set_phase(phase ? std::optional<Phase>(phase_from(*phase)) : std::nullopt);
  });
  module.def("set_library_folders", &set_library_folders);
  module.def("set_graph_source", &set_graph_source);
  module.def("memory_tag_gradient",
             [](const at::Tensor& parameter) { tag(parameter.grad(), MemoryCategory::gradients); });
  module.def(
      "memory_tag", [](const at::Tensor& tensor, const std::string& category) { tag(tensor, category_from(category)); },
      py::arg("tensor"), py::arg("category"));
}

}  // namespace trn::bindings
