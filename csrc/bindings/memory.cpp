#include "bindings/memory.h"

#include <pybind11/stl.h>
#include <torch/csrc/profiler/combined_traceback.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aten/host_allocator.h"
#include "aten/memory_history.h"
#include "aten/system.h"

namespace py = pybind11;

namespace torch {
// As torch/csrc/profiler/python/combined_traceback.h, which includes a header that PyTorch does not ship.
TORCH_API std::vector<py::object> py_symbolize(std::vector<CapturedTraceback*>& to_symbolize);
}  // namespace torch

namespace trn::bindings {

namespace {

// Gives rows their frames, all at once: frames that many rows share are looked up once.
class FramesOfRows {
 public:
  void add(const py::dict& row, std::shared_ptr<torch::CapturedTraceback> frames) {
    row["frames"] = py::list();
    if (frames) {
      rows_.push_back(row);
      pointers_.push_back(frames.get());
      frames_.push_back(std::move(frames));
    }
  }
  void fill() {
    const std::vector<py::object> symbolized = torch::py_symbolize(pointers_);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      rows_[i]["frames"] = symbolized[i];
    }
  }

 private:
  std::vector<py::dict> rows_;
  std::vector<torch::CapturedTraceback*> pointers_;
  std::vector<std::shared_ptr<torch::CapturedTraceback>> frames_;
};

py::list memory_snapshot(int index) {
  py::list segments;
  FramesOfRows frames;
  for (const auto& segment : aten::system().device(index).memory->snapshot()) {
    std::size_t allocated = 0, requested = 0;
    py::list blocks;
    for (const auto& block : segment.blocks) {
      py::dict row;
      row["address"] = block.address;
      row["size"] = block.size;
      row["requested_size"] = block.requested;
      row["state"] = block.is_tensor ? "active_allocated" : "inactive";
      row["category"] = name(block.category);
      frames.add(row, block.is_tensor ? aten::allocation_frames(index, block.address) : nullptr);
      blocks.append(row);
      allocated += block.is_tensor ? block.size : 0;
      requested += block.is_tensor ? block.requested : 0;
    }
    py::dict row;
    row["device"] = index;
    row["address"] = segment.address;
    row["total_size"] = segment.size;
    row["allocated_size"] = allocated;
    row["active_size"] = allocated;
    row["requested_size"] = requested;
    row["stream"] = 0;
    row["segment_type"] = segment.pool == runtime::kSmallPool ? "small" : "large";
    row["is_expandable"] = false;
    row["frames"] = py::list();
    row["blocks"] = blocks;
    segments.append(row);
  }
  frames.fill();
  return segments;
}

py::list memory_trace(int index) {
  py::list rows;
  FramesOfRows frames;
  for (const aten::MemoryEvent& event : aten::memory_events(index)) {
    py::dict row;
    row["action"] = event.action;
    row[std::string_view(event.action) == "oom" ? "device_free" : "addr"] = event.address;
    row["size"] = event.size;
    row["stream"] = event.stream;
    row["time_us"] = event.microseconds;
    row["compile_context"] = "N/A";
    row["user_metadata"] = "";
    frames.add(row, event.frames);
    rows.append(row);
  }
  frames.fill();
  return rows;
}

void record_memory_history(bool keeps_events, const std::optional<std::string>& context, bool cpp_frames,
                           std::size_t max_events, bool clear, std::set<std::string> skipped) {
  aten::MemoryHistoryOptions options;
  options.keeps_events = keeps_events;
  options.frames_of_state = context.has_value();
  options.frames_of_allocs = context == "alloc" || context == "all";
  options.frames_of_frees = context == "all";
  options.cpp_frames = cpp_frames;
  options.max_events = max_events;
  options.skipped = std::move(skipped);
  aten::start_memory_history(std::move(options), clear);
}

py::dict row_of(const c10::CachingAllocator::Stat& stat) {
  py::dict row;
  row["current"] = stat.current;
  row["peak"] = stat.peak;
  row["allocated"] = stat.allocated;
  row["freed"] = stat.freed;
  return row;
}

py::dict host_memory_stats() {
  const at::HostStats stats = aten::host_allocator()->get_stats();
  py::dict out;
  out["num_host_alloc"] = stats.num_host_alloc;
  out["num_host_free"] = stats.num_host_free;
  out["allocations"] = row_of(stats.allocations);
  out["allocated_bytes"] = row_of(stats.allocated_bytes);
  out["active_requests"] = row_of(stats.active_requests);
  out["active_bytes"] = row_of(stats.active_bytes);
  return out;
}

}  // namespace

void bind_memory(py::module_& module) {
  module.def("host_memory_stats", &host_memory_stats);
  module.def("reset_accumulated_host_memory_stats", [] { aten::host_allocator()->reset_accumulated_stats(); });
  module.def("reset_peak_host_memory_stats", [] { aten::host_allocator()->reset_peak_stats(); });
  module.def("memory_snapshot", &memory_snapshot);
  module.def("memory_trace", &memory_trace);
  module.def("record_memory_history", &record_memory_history);
  module.def("stop_memory_history", &aten::stop_memory_history);
}

}  // namespace trn::bindings
