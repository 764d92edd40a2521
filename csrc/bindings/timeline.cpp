// A Timeline's events as numpy arrays.
#include "bindings/timeline.h"

#include <pybind11/numpy.h>

#include "bindings/kernels.h"
#include "kernels/build.h"

namespace py = pybind11;

namespace trn::bindings {
namespace {

template <class T, class Column>
py::array_t<T> column(const std::vector<program::Event>& events, Column value) {
  py::array_t<T> result(static_cast<py::ssize_t>(events.size()));
  T* const out = result.mutable_data();
  for (std::size_t i = 0; i < events.size(); ++i) {
    out[i] = static_cast<T>(value(events[i]));
  }
  return result;
}

template <class Table>
py::list names(const Table& table) {
  py::list result;
  for (const auto& row : table) {
    result.append(std::string(row.name));
  }
  return result;
}

}  // namespace

py::dict timeline_to_dict(const program::Timeline& timeline) {
  using program::Event;
  py::dict busy;
  for (const auto& row : target::kEngines) {
    busy[py::str(std::string(row.name))] = timeline.busy_seconds[static_cast<std::size_t>(row.value)];
  }
  const auto& events = timeline.events;
  py::dict result;
  result["seconds"] = timeline.seconds;
  result["busy_seconds"] = busy;
  result["opcodes"] = names(target::kOpcodeNames);
  result["engines"] = names(target::kEngines);
  result["opcode"] = column<std::int16_t>(events, [](const Event& e) { return e.instruction->opcode; });
  result["engine"] = column<std::int16_t>(events, [](const Event& e) { return e.instruction->engine; });
  result["core"] = column<std::int16_t>(events, [](const Event& e) { return e.core; });
  result["queue"] = column<std::int32_t>(events, [](const Event& e) { return e.queue; });
  result["other_core"] = column<std::int16_t>(events, [](const Event& e) { return e.joined_core; });
  result["other_engine"] = column<std::int16_t>(events, [](const Event& e) {
    const auto& joined = e.instruction->joined;
    return joined ? joined->engine : e.instruction->engine;
  });
  result["other_queue"] = column<std::int32_t>(events, [](const Event& e) { return e.joined_queue; });
  result["start_seconds"] = column<double>(events, [](const Event& e) { return e.start_seconds; });
  result["end_seconds"] = column<double>(events, [](const Event& e) { return e.end_seconds; });
  result["bound_by"] = column<std::int32_t>(events, [](const Event& e) { return e.bound_by; });
  result["critical_path"] =
      py::array_t<std::int32_t>(static_cast<py::ssize_t>(timeline.critical_path.size()), timeline.critical_path.data());
  return result;
}

void bind_timeline(py::module_& module) {
  module.def(
      "timeline",
      [](const py::dict& part, const target::Target& target) {
        const program::Program program = kernels::build(target, part_from_dict(part));
        program::Timeline timeline;
        {
          py::gil_scoped_release release;
          timeline = program::timeline(program, target);
        }
        return timeline_to_dict(timeline);
      },
      py::arg("part"), py::arg("target"),
      "The part's program in motion on a device of the target: columns, one row per event.");
}

}  // namespace trn::bindings
