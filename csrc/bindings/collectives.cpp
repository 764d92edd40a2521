#include "bindings/collectives.h"

#include <pybind11/stl.h>

#include "runtime/collectives.h"

namespace py = pybind11;

namespace trn::bindings {

namespace {

using runtime::CollectiveCall;
using runtime::CollectiveModel;
using runtime::Placement;

// {"world_size": 4, "order": "linear", "devices": [], "instance": ""}
Placement placement_from(const py::dict& dict) {
  Placement placement;
  placement.world_size = dict["world_size"].cast<std::int64_t>();
  placement.instance = dict["instance"].cast<std::string>();
  placement.devices = dict["devices"].cast<std::vector<std::int64_t>>();
  const auto order = dict["order"].cast<std::string>();
  if (order == "linear") {
    placement.order = Placement::Order::linear;
  } else if (order == "round-robin") {
    placement.order = Placement::Order::round_robin;
  } else if (order == "listed") {
    placement.order = Placement::Order::listed;
  } else {
    throw py::value_error("[placement] order must be linear, round-robin or a list of devices; got '" + order + "'.");
  }
  if (placement.world_size < 1) {
    throw py::value_error("[placement] a job has at least one rank; got " + std::to_string(placement.world_size) + ".");
  }
  return placement;
}

py::dict placement_to(const Placement& placement) {
  static constexpr const char* kOrders[] = {"linear", "round-robin", "listed"};
  py::dict dict;
  dict["world_size"] = placement.world_size;
  dict["order"] = kOrders[static_cast<int>(placement.order)];
  dict["devices"] = placement.devices;
  dict["instance"] = placement.instance;
  return dict;
}

CollectiveCall call_from(std::string op, std::vector<int> ranks, int position, int root, std::int64_t bytes) {
  return {std::move(op), std::move(ranks), position, root, bytes};
}

}  // namespace

void bind_collectives(py::module_& module) {
  py::class_<CollectiveModel>(module, "CollectiveModel")
      .def(py::init([](const target::Target& target, const py::dict& placement) {
             return std::make_unique<CollectiveModel>(std::make_shared<target::Target>(target),
                                                      placement_from(placement));
           }),
           py::arg("target"), py::arg("placement"))
      .def(
          "cost",
          [](CollectiveModel& self, std::string op, std::vector<int> ranks, int position, int root,
             std::int64_t bytes) {
            const auto cost = self.cost(call_from(std::move(op), std::move(ranks), position, root, bytes));
            py::dict dict;
            dict["algorithm"] = cost.algorithm;
            dict["steps"] = cost.steps;
            dict["seconds"] = cost.seconds;
            dict["sent_bytes"] = cost.sent_bytes;
            dict["hbm_bytes"] = cost.hbm_bytes;
            dict["bus_bytes"] = cost.bus_bytes;
            return dict;
          },
          py::arg("op"), py::arg("ranks"), py::arg("position"), py::arg("root"), py::arg("bytes"))
      .def(
          "sent",
          [](CollectiveModel& self, std::string op, std::vector<int> ranks, int position, int root,
             std::int64_t bytes) {
            return self.sent(call_from(std::move(op), std::move(ranks), position, root, bytes));
          },
          py::arg("op"), py::arg("ranks"), py::arg("position"), py::arg("root"), py::arg("bytes"),
          "Rank of the job -> bytes that the rank at `position` sends it by the algorithm.")
      .def("locate",
           [](const CollectiveModel& self, std::int64_t rank) {
             const auto place = self.topology().locate(rank);
             return std::tuple{place.instance, place.chip, place.device};
           })
      .def_property_readonly("instance", [](const CollectiveModel& self) { return self.topology().instance().name; })
      .def_property_readonly("num_instances",
                             [](const CollectiveModel& self) { return self.topology().num_instances(); })
      .def("__str__", [](const CollectiveModel& self) { return self.topology().describe(); });
  module.def("placement", [] { return placement_to(runtime::collectives().placement()); });
  module.def("set_placement", [](const target::Target& target, const py::dict& placement) {
    runtime::collectives().set_placement(target, placement_from(placement));
  });
  module.def("set_world_size", [](std::int64_t size) { runtime::collectives().set_world_size(size); });
}

}  // namespace trn::bindings
