#include "bindings/distributed.h"

#include <pybind11/chrono.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "aten/alias.h"
#include "aten/site.h"
#include "aten/system.h"
#include "aten/values.h"
#include "distributed/backend.h"
#include "distributed/one_rank.h"

namespace py = pybind11;

namespace trn::bindings {

namespace {

distributed::DeviceSeam device_seam() {
  distributed::DeviceSeam seam;
  seam.system = &aten::system;
  seam.current_device = [] { return aten::is_started() ? aten::current_device() : -1; };
  seam.current_stream = &aten::current_stream;
  seam.current_site = &aten::current_site;
  seam.held_values = [](const at::Tensor& tensor) {
    return aten::holds_values(tensor) ? aten::cpu_alias(tensor) : at::Tensor();
  };
  seam.may_write_values = &aten::may_write_values;
  seam.lose_values = &aten::lose_values;
  seam.blocking = [](const std::function<void()>& work) {
    if (Py_IsInitialized() && PyGILState_Check()) {
      py::gil_scoped_release release;
      work();
    } else {
      work();
    }
  };
  return seam;
}

}  // namespace

void bind_distributed(py::module_& module) {
  // The base class and the store are torch's own bindings.
  py::module_::import("torch._C._distributed_c10d");
  using distributed::TrnBackend;
  using distributed::TrnOptions;
  py::class_<TrnOptions, c10::intrusive_ptr<TrnOptions>, c10d::Backend::Options>(module, "ProcessGroupTrnOptions")
      .def("__deepcopy__",
           [](const TrnOptions& self, const py::dict&) { return c10::make_intrusive<TrnOptions>(self); });
  py::class_<TrnBackend, c10::intrusive_ptr<TrnBackend>, c10d::Backend>(module, "ProcessGroupTrn")
      .def(py::init([](std::string name, std::string group, c10::intrusive_ptr<c10d::Backend> data,
                       c10::intrusive_ptr<c10d::Backend> control, std::vector<int> global_ranks,
                       std::chrono::milliseconds timeout) {
             return c10::make_intrusive<TrnBackend>(device_seam(), std::move(name), std::move(group), std::move(data),
                                                    std::move(control), std::move(global_ranks), timeout);
           }),
           py::arg("name"), py::arg("group"), py::arg("data"), py::arg("control"), py::arg("global_ranks"),
           py::arg("timeout"), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("options", &TrnBackend::getBackendOptions);

  using distributed::Letters;
  using distributed::OneRankBackend;
  py::class_<Letters, std::shared_ptr<Letters>>(module, "Letters")
      .def(py::init<>())
      .def("count", &Letters::count)
      .def("missed", &Letters::missed);
  py::class_<OneRankBackend, c10::intrusive_ptr<OneRankBackend>, TrnBackend>(module, "ProcessGroupOneRank")
      .def(py::init([](std::string name, std::string group, int rank, int size, std::vector<int> global_ranks,
                       std::chrono::milliseconds timeout, bool on_host, std::shared_ptr<Letters> letters) {
             return c10::make_intrusive<OneRankBackend>(device_seam(), std::move(name), std::move(group), rank, size,
                                                        std::move(global_ranks), timeout, on_host, std::move(letters));
           }),
           py::arg("name"), py::arg("group"), py::arg("rank"), py::arg("size"), py::arg("global_ranks"),
           py::arg("timeout"), py::arg("on_host"), py::arg("letters"));
}

}  // namespace trn::bindings
