#include "bindings/local_ranks.h"

#include <ATen/CPUGeneratorImpl.h>
#include <pybind11/chrono.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <chrono>
#include <cmath>

#include "distributed/local_backend.h"
#include "distributed/local_store.h"
#include "distributed/turns.h"

namespace py = pybind11;

namespace trn::bindings {

namespace {

using distributed::Turns;
using Released = py::call_guard<py::gil_scoped_release>;

distributed::TurnHooks hooks(py::function switched) {
  distributed::TurnHooks out;
  out.blocking = [](const std::function<void()>& work) {
    if (Py_IsInitialized() && PyGILState_Check()) {
      py::gil_scoped_release release;
      work();
    } else {
      work();
    }
  };
  // Its last owner may have no lock.
  const std::shared_ptr<py::function> callable(new py::function(std::move(switched)), [](py::function* function) {
    if (Py_IsInitialized()) {
      py::gil_scoped_acquire gil;
      delete function;
    }
  });
  out.switched = [callable](int from, int to) {
    py::gil_scoped_acquire gil;
    py::error_scope pending;
    try {
      (*callable)(from, to);
    } catch (py::error_already_set& error) {
      if (error.matches(PyExc_Exception)) {
        error.discard_as_unraisable("torch_trn: the turn of a rank");
      } else {
        // It was sent to end the rank and must reach the rank's own code.
        PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), error.type().ptr());
      }
    }
  };
  return out;
}

// The CPU's default generator at one moment.
struct CpuRandom {
  at::mt19937 engine;
  std::optional<float> float_sample;
  std::optional<double> double_sample;
};

CpuRandom cpu_random() {
  const at::Generator& generator = at::detail::getDefaultCPUGenerator();
  auto* impl = at::check_generator<at::CPUGeneratorImpl>(generator);
  const std::lock_guard lock(impl->mutex_);
  return {impl->engine(), impl->next_float_normal_sample(), impl->next_double_normal_sample()};
}

void set_cpu_random(const CpuRandom& random) {
  const at::Generator& generator = at::detail::getDefaultCPUGenerator();
  auto* impl = at::check_generator<at::CPUGeneratorImpl>(generator);
  const std::lock_guard lock(impl->mutex_);
  impl->set_engine(random.engine);
  impl->set_next_float_normal_sample(random.float_sample);
  impl->set_next_double_normal_sample(random.double_sample);
}

// Runs what takes a piece of work, here Python code, without Python's lock but for that code.
template <class Run>
py::object run_without_lock(const py::function& work, const Run& run) {
  py::object result;
  const py::gil_scoped_release released;
  run([&] {
    const py::gil_scoped_acquire gil;
    result = work();
  });
  return result;
}

void run_rank(Turns& turns, int rank, const py::function& body) {
  run_without_lock(body, [&](const auto& work) { turns.run(rank, work); });
}

// Raises in the thread of a rank that has begun and is not done; the thread takes it before it ends (rank_threads.py).
// The caller has Python's lock throughout.
bool interrupt(const Turns& turns, int rank, unsigned long thread, const py::object& type) {
  const auto status = turns.ranks().at(static_cast<std::size_t>(rank)).status;
  if (status == distributed::RankStatus::starting || status == distributed::RankStatus::done) {
    return false;
  }
  return PyThreadState_SetAsyncExc(thread, type.ptr()) > 0;
}

py::list ranks(const Turns& turns) {
  py::list out;
  for (const auto& rank : turns.ranks()) {
    out.append(py::make_tuple(name(rank.status), rank.call, rank.ends_by_itself));
  }
  return out;
}

}  // namespace

void bind_local_ranks(py::module_& module) {
  // The base classes are torch's own bindings.
  py::module_::import("torch._C._distributed_c10d");
  py::class_<Turns, std::shared_ptr<Turns>>(module, "Turns")
      .def(py::init([](int num_ranks, py::function switched) {
             return std::make_shared<Turns>(num_ranks, hooks(std::move(switched)));
           }),
           py::arg("num_ranks"), py::arg("switched"))
      .def("run", &run_rank, py::arg("rank"), py::arg("body"))
      .def(
          "wait",
          [](Turns& turns, const std::string& call, bool ends_by_itself, const py::function& work) {
            return run_without_lock(work, [&](const auto& do_it) { turns.wait(call, ends_by_itself, do_it); });
          },
          py::arg("call"), py::arg("ends_by_itself"), py::arg("work"))
      .def(
          "wait_until_done",
          [](const Turns& turns, double seconds) {
            return turns.wait_until_done(std::chrono::milliseconds(std::llround(seconds * 1e3)));
          },
          py::arg("seconds"), Released())
      .def("interrupt", &interrupt, py::arg("rank"), py::arg("thread"), py::arg("type"))
      .def("end", &Turns::end, Released())
      .def("why_ended", &Turns::why_ended)
      .def("ended_by", &Turns::ended_by)
      .def("ranks", &ranks)
      .def("num_events", &Turns::num_events);
  module.def("set_current_turns", &distributed::set_current_turns, py::arg("turns").none(true));
  module.def("has_turn", &distributed::has_turn);

  py::class_<CpuRandom>(module, "CpuRandom");
  module.def("cpu_random", &cpu_random);
  module.def("set_cpu_random", &set_cpu_random);

  using distributed::LocalStore;
  py::class_<LocalStore, c10::intrusive_ptr<LocalStore>, c10d::Store>(module, "LocalStore")
      .def(py::init([](const std::shared_ptr<Turns>& turns) { return c10::make_intrusive<LocalStore>(turns); }));

  using distributed::LocalBackend;
  using Options = LocalBackend::LocalOptions;
  py::class_<Options, c10::intrusive_ptr<Options>, c10d::Backend::Options>(module, "ProcessGroupLocalOptions");
  py::class_<LocalBackend, c10::intrusive_ptr<LocalBackend>, c10d::Backend>(module, "ProcessGroupLocal")
      .def(py::init(
               [](const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, std::chrono::milliseconds timeout) {
                 return c10::make_intrusive<LocalBackend>(store, rank, size, timeout);
               }),
           py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("timeout"), Released())
      .def(
          "monitored_barrier",
          [](LocalBackend& self, std::chrono::milliseconds timeout, bool wait_all_ranks) {
            c10d::BarrierOptions options;
            options.timeout = timeout;
            self.monitoredBarrier(options, wait_all_ranks);
          },
          py::arg("timeout"), py::arg("wait_all_ranks"), Released())
      .def_property_readonly("options", [](LocalBackend& self) {
        return c10::static_intrusive_pointer_cast<Options>(self.getBackendOptions());
      });
}

}  // namespace trn::bindings
