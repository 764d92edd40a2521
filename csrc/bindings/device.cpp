#include "bindings/device.h"

#include <pybind11/stl.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <map>
#include <memory>
#include <utility>

#include "aten/allocator.h"
#include "aten/generator.h"
#include "aten/launch_arguments.h"
#include "aten/launch_seam.h"
#include "aten/op_table.h"
#include "aten/operator_plan.h"
#include "aten/system.h"
#include "aten/workers.h"
#include "target/target.h"

namespace py = pybind11;

namespace trn::bindings {

namespace {

using runtime::kNumMemoryCategories;
using runtime::MemoryCategory;

py::dict device_properties(int index) {
  TORCH_CHECK(index >= 0 && index < aten::device_count(), "[device] no such device; got index ", index, ", limit ",
              aten::device_count() - 1, ".");
  const auto target = aten::configured_target();
  py::dict out;
  out["name"] = target->chip.name;
  out["total_memory"] = target->device.hbm_bytes;
  out["num_cores"] = target->device.num_cores;
  out["generation"] = target->core.generation;
  out["target"] = target->name;
  out["clock_hz"] = target->core.tensor_clock_hz;
  out["hbm_bytes_per_second"] = target->device.hbm_bytes_per_second;
  out["peak_bf16_flops_per_second"] = target->device.peak_bf16_flops_per_second;
  out["num_partitions"] = target->core.num_partitions;
  out["sbuf_bytes"] = target->core.num_partitions * target->core.sbuf_bytes_per_partition;
  out["psum_bytes"] = target->core.num_partitions * target->core.psum_bytes_per_partition;
  return out;
}

py::object default_generator(int index) {
  // One object per device: torch compares generators by identity.
  static auto* generators = new std::map<int, py::object>();
  auto [it, inserted] = generators->try_emplace(index);
  if (inserted) {
    it->second = py::reinterpret_steal<py::object>(
        THPGenerator_initDefaultGenerator(aten::default_generator(static_cast<c10::DeviceIndex>(index))));
  }
  return it->second;
}

py::dict memory_by_category(int index) {
  py::dict out;
  const auto stats = aten::system().device(index).memory->stats();
  for (int c = 0; c < kNumMemoryCategories; ++c) {
    out[name(static_cast<MemoryCategory>(c))] = stats.bytes_by_category[static_cast<std::size_t>(c)];
  }
  return out;
}

void set_memory_fraction(double fraction, int index) {
  TORCH_CHECK_VALUE(fraction > 0 && fraction <= 1, "[set_memory_fraction] the fraction must lie in (0, 1]; got ",
                    fraction, ".");
  aten::system().set_memory_fraction(index, fraction);
}

double get_memory_fraction(int index) {
  return static_cast<double>(aten::system().device(index).memory->limit()) /
         static_cast<double>(aten::system().target()->device.hbm_bytes);
}

void sleep(double seconds) {
  const int index = aten::current_device();
  aten::system().sleep(index, aten::current_stream(index), runtime::to_picoseconds(seconds));
}

void align_clocks(int num_devices) {
  auto& machine = aten::system();
  runtime::Moment latest;
  for (int i = 0; i < num_devices; ++i) {
    latest.time = std::max(latest.time, machine.device(i).clock.latest());
  }
  for (int i = 0; i < num_devices; ++i) {
    machine.device(i).clock.host_wait(latest);
  }
}

std::string status_name(aten::NeuronStatus status) {
  return std::string(aten::name(status));
}

std::string op_status(const std::string& name) {
  const auto dot = name.find('.');
  const c10::OperatorName full("aten::" + name.substr(0, dot), dot == std::string::npos ? "" : name.substr(dot + 1));
  return status_name(aten::neuron_status(full));
}

py::list op_table() {
  std::map<std::string_view, py::list> overloads;
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
    if (!name.name.starts_with("aten::")) {
      continue;
    }
    const auto& row = aten::find_op(name);
    py::dict overload;
    overload["overload"] = name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
    overload["torchneuron"] = status_name(aten::neuron_status(name));
    overloads[row.name].append(overload);
  }
  py::list rows;
  for (const auto& row : aten::op_table()) {
    py::dict out;
    out["name"] = py::str(row.name.data(), row.name.size());
    out["family"] = py::str(row.family.data(), row.family.size());
    out["engines"] = py::str(row.engines.data(), row.engines.size());
    const std::string_view no_program = aten::no_program(row);
    out["no_program"] = py::str(no_program.data(), no_program.size());
    out["overloads"] = overloads[row.name];
    rows.append(out);
  }
  return rows;
}

// status -> operator -> calls
std::map<std::string, std::map<std::string, std::int64_t>> operator_calls() {
  std::map<std::string, std::map<std::string, std::int64_t>> out;
  aten::for_each_plan([&](const aten::OperatorPlan& plan) {
    if (const std::int64_t calls = plan.num_calls.load(std::memory_order_relaxed)) {
      out[status_name(static_cast<aten::NeuronStatus>(plan.neuron_status))][plan.op.operator_name().name] += calls;
    }
  });
  return out;
}

void clear_operator_calls() {
  aten::for_each_plan([](const aten::OperatorPlan& plan) { plan.num_calls.store(0, std::memory_order_relaxed); });
}

bool storage_in_hbm(const at::Tensor& tensor) {
  return !tensor.has_storage() || tensor.storage().nbytes() == 0 || aten::system().device_of(tensor.storage().data());
}

py::dict build_settings() {
  py::dict out;
  out["compiler"] = std::string("gcc ") + __VERSION__;
  out["torch_version"] = TORCH_VERSION;
#ifdef NDEBUG
  out["build_type"] = "Release";
#else
  out["build_type"] = "Debug";
#endif
  out["cxx_standard"] = static_cast<long>(__cplusplus);
  return out;
}

void set_owner_tagger(py::function tagger) {
  static PyObject* callable = nullptr;  // leaked: it must not be destroyed after the interpreter
  py::function previous = py::reinterpret_steal<py::function>(std::exchange(callable, tagger.release().ptr()));
  aten::set_owner_tagger([] {
    if (!Py_IsInitialized()) {
      return;
    }
    py::gil_scoped_acquire gil;
    try {
      py::reinterpret_borrow<py::function>(callable)();
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("torch_trn: owners of memory");
    }
  });
}

}  // namespace

void bind_device(py::module_& module) {
  module.def("configure", [](const target::Target& target, int num_devices) {
    aten::configure(std::make_shared<const target::Target>(target), num_devices);
  });
  module.def("set_target", [](const target::Target& target) {
    aten::configure(std::make_shared<const target::Target>(target), aten::device_count());
  });
  module.def("current_target", [] { return *aten::configured_target(); });
  module.def("current_target_name", [] { return aten::configured_target()->name; });
  module.def("init", [] { aten::system(); });
  module.def("is_initialized", &aten::is_started);
  module.def("is_in_bad_fork", &aten::is_in_bad_fork);
  module.def("device_count", &aten::device_count);
  module.def("set_num_devices", &aten::set_num_devices);
  module.def("device_properties", &device_properties);
  module.def("default_generator", &default_generator);
  module.def("memory_by_category", &memory_by_category);
  module.def("set_memory_fraction", &set_memory_fraction);
  module.def("get_memory_fraction", &get_memory_fraction);
  module.def("sleep", &sleep);
  module.def("align_clocks", &align_clocks, py::arg("num_devices"), "Where the latest is, with nothing under way.");
  module.def("simulated_seconds",
             [](int index) { return runtime::to_seconds(aten::system().device(index).clock.latest()); });
  module.def("op_status", &op_status);
  module.def("operator_calls", &operator_calls);
  module.def("clear_operator_calls", &clear_operator_calls);
  module.def("op_table", &op_table);
  module.def("storage_in_hbm", &storage_in_hbm);
  module.def("build_settings", &build_settings);
  module.def("set_owner_tagger", &set_owner_tagger);
  module.def("set_strict_fallback", &aten::set_strict_fallback);
  module.def("set_sync_debug_mode",
             [](int mode) { aten::set_sync_debug_mode(static_cast<aten::SyncDebugMode>(mode)); });
  module.def("sync_debug_mode", [] { return static_cast<int>(aten::sync_debug_mode()); });
  module.def("set_raises_uninitialized", &aten::set_raises_uninitialized);
  module.def("set_poison", [](bool poison) { aten::system().set_poison(poison); });
}

}  // namespace trn::bindings
