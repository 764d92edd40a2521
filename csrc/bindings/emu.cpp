// Python calls of the emulated NeuronCore.
#include "bindings/emu.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/kernels.h"
#include "bindings/neuron_core.h"
#include "bindings/numerics.h"
#include "bindings/timeline.h"
#include "emu/neuron_core.h"
#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/matmul.h"
#include "kernels/precision.h"
#include "program/execute.h"
#include "program/opcode.h"
#include "target/error.h"

namespace py = pybind11;

namespace trn::bindings {
namespace {

using program::Memory;

constexpr std::int64_t kMostThreads = 64;

// Arrays bind to the program's HBM buffers by their bytes, so that dtypes numpy does not have can be passed as
// integers.
std::vector<emu::HbmTensor> bind(const program::Program& program, const std::vector<py::buffer>& inputs,
                                 const std::vector<py::buffer>& outputs) {
  std::vector<emu::HbmTensor> tensors;
  std::size_t num_inputs = 0, num_outputs = 0;
  for (const program::Buffer& buffer : program.buffers) {
    if (buffer.memory != Memory::hbm || buffer.is_temporary) {
      continue;
    }
    const auto& arrays = buffer.is_output ? outputs : inputs;
    std::size_t& next = buffer.is_output ? num_outputs : num_inputs;
    if (next == arrays.size()) {
      throw Error(Category::invalid_argument, "[execute] every tensor of the program needs an array; got " +
                                                  std::to_string(arrays.size()) + ". Pass one for " + buffer.name +
                                                  ".");
    }
    const py::buffer_info info = arrays[next++].request(buffer.is_output);
    const std::int64_t bytes = buffer.elements * target::itemsize(buffer.dtype);
    if (info.size * info.itemsize != bytes) {
      throw Error(Category::invalid_argument, "[execute] the array of " + buffer.name + " must have its bytes; got " +
                                                  std::to_string(info.size * info.itemsize) + ", limit " +
                                                  std::to_string(bytes) + ". Pass " + std::to_string(buffer.elements) +
                                                  " elements of " + std::string(target::name(buffer.dtype)) + ".");
    }
    std::int64_t stride = info.itemsize;
    for (auto d = info.ndim; d-- > 0; stride *= info.shape[static_cast<std::size_t>(d)]) {
      if (info.shape[static_cast<std::size_t>(d)] > 1 && info.strides[static_cast<std::size_t>(d)] != stride) {
        throw Error(Category::invalid_argument, "[execute] arrays are dense and in C order; got strides in " +
                                                    buffer.name + ". Pass numpy.ascontiguousarray of it.");
      }
    }
    tensors.push_back({info.ptr, buffer.elements, buffer.dtype});
  }
  if (num_inputs != inputs.size() || num_outputs != outputs.size()) {
    throw Error(Category::invalid_argument,
                "[execute] arrays and tensors must pair up; got " + std::to_string(inputs.size()) + " inputs and " +
                    std::to_string(outputs.size()) + " outputs, limit " + std::to_string(num_inputs) + " and " +
                    std::to_string(num_outputs) + ". Pass one array per tensor.");
  }
  return tensors;
}

py::dict execute(const py::dict& dict, const target::Target& target, const std::vector<py::buffer>& inputs,
                 const std::vector<py::buffer>& outputs, std::uint64_t seed, std::int64_t num_threads,
                 const py::dict& departures) {
  const kernels::Part part = part_from_dict(dict);
  kernels::require_executable(target.core, part);
  emu::Numerics numerics = departures_from(departures);
  numerics.seed = seed;
  numerics.native_int64 = part.precision.native_int64;
  program::Program program = kernels::build(target, part);
  if (!numerics.integers_through_fp32) {
    kernels::exact_integers(program);
  }
  const std::vector<emu::HbmTensor> tensors = bind(std::as_const(program), inputs, outputs);
  py::gil_scoped_release release;
  std::vector<std::unique_ptr<emu::NeuronCore>> cores;
  program::Workers workers;
  for (std::int64_t t = 0; t < std::clamp<std::int64_t>(num_threads, 1, kMostThreads); ++t) {
    cores.push_back(std::make_unique<emu::NeuronCore>(target.core, seed, emu::plain_tile_gemm, numerics));
    workers.cores.push_back(cores.back().get());
  }
  workers.run = [](std::int64_t n, const std::function<void(std::int64_t)>& body) {
    std::vector<std::jthread> threads;
    for (std::int64_t t = 1; t < n; ++t) {
      threads.emplace_back([&body, t] { body(t); });
    }
    body(0);
  };
  const program::Counts counts = program::execute_counted(program, workers, tensors);
  py::gil_scoped_acquire acquire;
  return counts_to_dict(counts);
}

py::dict matmul_plan(const py::dict& dict, const target::Target& target) {
  const kernels::Part part = part_from_dict(dict);
  const auto* shape = std::get_if<kernels::MatmulShape>(&part);
  if (shape == nullptr) {
    throw Error(Category::invalid_argument, "[matmul_plan] only a matmul has a plan; got " +
                                                std::string(kernels::kFamilyNames[part.index()]) + ". Pass a matmul.");
  }
  const kernels::MatmulPlan plan = kernels::matmul_plan(target, kernels::normalised(*shape), part.precision.auto_cast);
  py::dict result;
  result["m_outer"] = plan.m_outer;
  result["m_block"] = plan.m_block;
  result["n_block"] = plan.n_block;
  result["k_block"] = plan.k_block;
  result["num_m_blocks"] = plan.num_m_blocks;
  result["num_n_blocks"] = plan.num_n_blocks;
  result["a_reads"] = plan.a_reads;
  result["b_reads"] = plan.b_reads;
  return result;
}

}  // namespace

void bind_program(py::module_& module) {
  bind_neuron_core(module);
  bind_timeline(module);
  module.def("execute", &execute, py::arg("part"), py::arg("target"), py::arg("inputs"), py::arg("outputs"),
             py::arg("seed") = 0, py::arg("num_threads") = 1, py::arg("departures") = py::dict(),
             "Builds the part's program and runs it on an emulated NeuronCore. Arrays are dense and in C order, one "
             "per tensor argument; their bytes are read as the part's dtypes. Returns the counts of what ran.");
  module.def("matmul_plan", &matmul_plan, py::arg("part"), py::arg("target"),
             "How a matmul is blocked on a target, and how often each operand is read from HBM.");
}

}  // namespace trn::bindings
