// What the cores of a logical one run together, with the operand names of nki.isa.
#include <pybind11/functional.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bindings/kernels.h"
#include "bindings/neuron_core.h"
#include "bindings/tile.h"
#include "bindings/timeline.h"
#include "emu/limits.h"
#include "program/pairs.h"

namespace py = pybind11;

namespace trn::bindings {
namespace {

using program::Half;
using target::Alu;
using target::Engine;
using target::Opcode;

void require_pair(std::string_view where, const RecordedCore& core) {
  emu::require_generation(where, core.core, 3);
  emu::require_equal(where, "two cores of a logical one meet", core.recorder.num_cores(), 2,
                     "Use the cores of a LogicalCore.");
}

void core_barrier(RecordedCore& core, const Tile& data, const std::vector<std::int64_t>& cores,
                  const std::optional<std::string>& engine) {
  constexpr std::string_view where = "core_barrier";
  require_pair(where, core);
  if (cores != std::vector<std::int64_t>{0, 1}) {
    std::string got;
    for (const std::int64_t each : cores) {
      got += (got.empty() ? "" : ", ") + std::to_string(each);
    }
    emu::refuse(where, "cores are (0, 1)", "(" + got + ")", "Name both cores.");
  }
  emu::require_memory(where, "the data lie in HBM, which both cores share", data.view,
                      data.view.memory == target::Memory::hbm, "Copy them there.");
  const Engine on =
      engine_of(where, engine, {Engine::gpsimd, Engine::vector, Engine::scalar, Engine::tensor, Engine::sync});
  core.recorder.join({.instruction = instruction(core, Opcode::core_barrier, &data, {}, {.engine = on}),
                      .owner = std::make_shared<py::object>(data.array)});
}

Half exchanging(RecordedCore& core, Opcode opcode, const Tile& src, const Tile& dst, std::int64_t send_to_rank,
                std::int64_t recv_from_rank, const Also& also) {
  const std::string_view where = target::name(opcode);
  require_pair(where, core);
  for (const std::int64_t rank : {send_to_rank, recv_from_rank}) {
    emu::require_index(where, "a logical core has two cores", rank, core.recorder.num_cores(), "Use rank 0 or 1.");
  }
  emu::require_one_shape(where, src.view, dst.view);
  emu::require_memory(where, "both tiles lie in one memory, SBUF or HBM", dst.view,
                      dst.view.memory == src.view.memory && dst.view.memory != target::Memory::psum,
                      "Copy one of them.");
  const program::Instruction made = instruction(core, opcode, &dst, {&src}, also);
  core.recorder.settle(made, where);
  core.dma.require_written(where, src.view);
  return {.instruction = made,
          .send_to_rank = send_to_rank,
          .recv_from_rank = recv_from_rank,
          .dma = &core.dma,
          .src = src.view,
          .dst = dst.view,
          .owner = std::make_shared<std::vector<py::object>>(std::vector{src.array, dst.array})};
}

void sendrecv(RecordedCore& core, const Tile& src, const Tile& dst, std::int64_t send_to_rank,
              std::int64_t recv_from_rank, std::int64_t pipe_id, const std::string& dma_engine,
              std::optional<int> queue) {
  constexpr const char* where = "sendrecv";
  const bool is_gpsimds = chooses(where, dma_engine, "gpsimd_dma", "dma");
  emu::require_sbuf(where, src.view);
  emu::require_sbuf(where, dst.view);
  if (is_gpsimds) {
    emu::require_at_most(where, "gpsimd_dma moves at most 256 elements per partition", src.view.free_elements(), 256,
                         "Split the tile, or use dma.");
    if (core.core.gpsimd_dma_bytes_per_second == 0) {
      emu::refuse(where, "GpSimdE has a DMA of its own", "a rate of 0 in the target", "Use dma.");
    }
  }
  const Also also = {.engine = is_gpsimds ? Engine::gpsimd : Engine::dma, .queue = is_gpsimds ? std::nullopt : queue};
  Half half = exchanging(core, Opcode::sendrecv, src, dst, send_to_rank, recv_from_rank, also);
  half.pipe = pipe_id;
  core.recorder.join(std::move(half));
}

void sendrecv_compute(RecordedCore& core, const Tile& src, const Tile& dst, std::int64_t send_to_rank,
                      std::int64_t recv_from_rank, const std::string& reduce_op, std::optional<int> queue) {
  constexpr std::string_view where = "sendrecv_compute";
  const Alu op = alu(where, reduce_op);
  if (op != Alu::add && op != Alu::maximum && op != Alu::minimum) {
    emu::refuse(where, "the operation is add, maximum or minimum", reduce_op, "Use one of them.");
  }
  core.recorder.join(
      exchanging(core, Opcode::sendrecv_compute, src, dst, send_to_rank, recv_from_rank, {.alu0 = op, .queue = queue}));
}

}  // namespace

void bind_logical_core(py::module_& module) {
  py::class_<LogicalCore, std::shared_ptr<LogicalCore>>(module, "LogicalCore")
      .def(py::init([](const target::Target& target, std::int16_t num_cores, const std::string& synchronization) {
             using program::Synchronization;
             const bool is_manual = chooses("synchronization", synchronization, "semaphores", "automatic");
             return std::make_shared<LogicalCore>(
                 target, is_manual ? Synchronization::semaphores : Synchronization::automatic, num_cores);
           }),
           py::arg("target"), py::arg("num_cores") = 1, py::arg("synchronization") = "automatic")
      .def(
          "abandon",
          [](LogicalCore& self) {
            for (std::int16_t core = 0; core < self.recorder.num_cores(); ++core) {
              self.recorder.abandon(core);
            }
          },
          "Forgets what is in flight.")
      .def(
          "require_settled",
          [](const LogicalCore& self, const std::string& where) { self.recorder.require_settled(where); },
          py::arg("where"), "An error where a core still waits for another one.")
      .def_property_readonly("num_joined", [](const LogicalCore& self) { return self.recorder.num_joined(); })
      .def(
          "set_wait",
          [](LogicalCore& self, std::function<void(std::int16_t, const std::string&)> wait) {
            self.recorder.set_wait(std::move(wait));
          },
          py::arg("wait").none(true), "What a core calls, with its rank, until what it needs is in flight no more.")
      .def(
          "timeline",
          [](const LogicalCore& self) {
            self.recorder.require_settled("timeline");
            return timeline_to_dict(
                program::timeline(self.recorder.program(), self.target, self.recorder.synchronization()));
          },
          "Every instruction so far on the simulated clock, as columns.");
}

void bind_joined(Class& core) {
  core.def("core_barrier", &core_barrier, py::arg("data"), py::arg("cores"), py::arg("engine") = "gpsimd",
           "Both cores of a LogicalCore go on when both have come.")
      .def("sendrecv", &sendrecv, py::arg("src"), py::arg("dst"), py::arg("send_to_rank"), py::arg("recv_from_rank"),
           py::arg("pipe_id"), py::arg("dma_engine") = "dma", py::arg("queue") = py::none(),
           "dst becomes what the other core of a LogicalCore sends.")
      .def("sendrecv_compute", &sendrecv_compute, py::arg("src"), py::arg("dst"), py::arg("send_to_rank"),
           py::arg("recv_from_rank"), py::arg("reduce_op"), py::arg("queue") = py::none(),
           "dst = reduce_op(src, what the other core sends)");
}

}  // namespace trn::bindings
