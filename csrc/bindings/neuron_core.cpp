// Single instructions on an emulated NeuronCore: one Python call each, with the operand names of nki.isa.
#include "bindings/neuron_core.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>
#include <string_view>

#include "bindings/kernels.h"
#include "bindings/numerics.h"
#include "bindings/recorded_core.h"
#include "bindings/tile.h"
#include "bindings/timeline.h"
#include "emu/alu.h"
#include "emu/convert.h"
#include "emu/limits.h"
#include "program/opcode.h"
#include "target/error.h"
#include "target/isa.h"

namespace py = pybind11;

namespace trn::bindings {
namespace {

using target::Activation;
using target::Alu;
using target::Engine;
using target::Opcode;

// Of an operand that names one of a table.
template <class Enum>
Enum named(std::string_view where, const std::string& got) {
  std::string all;
  for (const auto& row : names(Enum{})) {
    if (row.name == "none") {  // of instructions that leave out an operation
      continue;
    }
    if (row.name == got) {
      return row.value;
    }
    all += (all.empty() ? "" : ", ") + std::string(row.name);
  }
  constexpr std::string_view kind = std::is_same_v<Enum, Engine> ? "an engine" : "an operation";
  throw Error(Category::invalid_argument, "[" + std::string(where) + "] " + std::string(kind) +
                                              " has one of the instruction set's names; got " + got + ". Use one of " +
                                              all + ".");
}

// The engine that was asked for, or the first of those that have the instruction. `gpsimds` is an operation that only
// GpSimdE has, or none.
Engine engine_for(std::string_view where, const std::optional<std::string>& asked, Alu gpsimds,
                  std::initializer_list<Engine> engines) {
  const bool is_gpsimds = gpsimds != Alu::none;
  if (!asked || *asked == kAny) {
    return is_gpsimds ? Engine::gpsimd : *engines.begin();
  }
  const Engine engine = engine_of(where, *asked);
  if (std::ranges::find(engines, engine) == engines.end() || (is_gpsimds && engine != Engine::gpsimd)) {
    emu::refuse(where,
                is_gpsimds ? std::string(target::name(gpsimds)) + " runs on GpSimdE" : "an engine has the instruction",
                *asked, "Leave out the engine, or use another one.");
  }
  return engine;
}

// GpSimdE does not reach PSUM.
void require_reached(std::string_view where, Engine engine, std::initializer_list<const Tile*> tiles) {
  for (const Tile* tile : tiles) {
    if (engine == Engine::gpsimd && tile != nullptr) {
      emu::require_sbuf(where, tile->view);
    }
  }
}

// A function without a parameter of its own.
Activation activation_named(std::string_view where, const std::string& op) {
  const Activation function = named<Activation>(where, op);
  if (function == Activation::prelu) {
    emu::refuse(where, "prelu goes with a slope", "none", "Use activate2.");
  }
  return function;
}

// ScalarE's functions on GpSimdE: from NeuronCore-v4 on, without the registers.
void require_on_gpsimd(std::string_view where, const RecordedCore& core, Engine engine,
                       std::initializer_list<const Tile*> tiles, emu::ReduceCmd cmd, const emu::View* reduce_res) {
  if (engine != Engine::gpsimd) {
    return;
  }
  emu::require_generation(std::string(where) + " on GpSimdE", core.core, 4);
  require_reached(where, engine, tiles);
  if (cmd != emu::ReduceCmd::idle || reduce_res != nullptr) {
    emu::refuse(where, "ScalarE alone reduces", "gpsimd", "Use ScalarE, or tensor_reduce.");
  }
}

void require_bias(std::string_view where, const RecordedCore& core, const std::optional<Operand>& bias) {
  if (bias && tile_of(bias) == nullptr && emu::generation(core.core) < 3) {
    emu::refuse(where, "before NeuronCore-v3 a bias is a tile [P, 1]", "a number", "Set a tile to it.");
  }
}

void require_probability(const Tile& dst, const Tile& data, const Operand& prob) {
  constexpr std::string_view where = "dropout";
  emu::require_dtype(where, "source and result have one dtype", dst.view, dst.view.dtype == data.view.dtype,
                     "Cast with tensor_copy.");
  if (const auto* number = std::get_if<double>(&prob); number != nullptr && !(*number >= 0 && *number <= 1)) {
    emu::refuse(where, "a probability is 0 to 1", std::to_string(*number), "Check it.");
  }
  if (const Tile* tile = tile_of(prob)) {
    const bool is_exact = tile->view.dtype == target::Dtype::float32;
    emu::require_dtype(where, "probabilities are float32 for integers, else any floating type", tile->view,
                       emu::is_integer(data.view.dtype) ? is_exact : !emu::is_integer(tile->view.dtype), "Cast them.");
  }
}

bool is_int32_in_sbuf(const Tile* tile) {
  const target::Dtype dtype = tile->view.dtype;
  return (dtype == target::Dtype::int32 || dtype == target::Dtype::uint32) && tile->view.memory == target::Memory::sbuf;
}

void bind_elementwise(Class& core) {
  core.def(
          "tensor_tensor",
          [](RecordedCore& core, const Tile& dst, const Tile& data1, const Tile& data2, const std::string& op,
             const std::optional<std::string>& engine) {
            const Alu function = alu("tensor_tensor", op);
            constexpr std::string_view where = "tensor_tensor";
            if (target::is_unary(function)) {
              emu::refuse(where, "the operation takes two operands", op, "Use tensor_scalar.");
            }
            const bool is_native = std::ranges::all_of(std::array{&dst, &data1, &data2}, is_int32_in_sbuf);
            const bool prefers_gpsimd = is_native && !emu::is_bitwise(function);
            const Engine on = engine_for(where, engine, function == Alu::power ? function : Alu::none,
                                         prefers_gpsimd ? std::initializer_list{Engine::gpsimd, Engine::vector}
                                                        : std::initializer_list{Engine::vector, Engine::gpsimd});
            issue(core, Opcode::tensor_tensor, &dst, {&data1, &data2}, {.engine = on, .alu0 = function}, [&] {
              require_reached(where, on, {&dst, &data1, &data2});
              core.vector.tensor_tensor(dst.view, data1.view, data2.view, function, on == Engine::gpsimd);
            });
          },
          py::arg("dst"), py::arg("data1"), py::arg("data2"), py::arg("op"), py::arg("engine") = py::none())
      .def(
          "tensor_scalar",
          [](RecordedCore& core, const Tile& dst, const Tile& data, const std::string& op0,
             const std::optional<Operand>& operand0, bool reverse0, const std::optional<std::string>& op1,
             const std::optional<Operand>& operand1, bool reverse1, const std::optional<std::string>& engine) {
            constexpr std::string_view where = "tensor_scalar";
            const Alu first = alu(where, op0), second = alu(where, op1);
            const Alu gpsimds = first == Alu::rsqrt || second == Alu::rsqrt ? Alu::rsqrt : Alu::none;
            const Engine on = engine_for(where, engine, gpsimds, {Engine::vector, Engine::scalar, Engine::gpsimd});
            if (on == Engine::gpsimd && gpsimds == Alu::none) {
              emu::refuse(where, "GpSimdE has rsqrt only", op0, "Use VectorE.");
            }
            issue(core, Opcode::tensor_scalar, &dst, {&data, tile_of(operand0), tile_of(operand1)},
                  {.engine = on, .alu0 = first, .alu1 = second}, [&] {
                    require_reached(where, on, {&dst, &data, tile_of(operand0), tile_of(operand1)});
                    const emu::ScalarOperand x = operand_of(where, first, operand0);
                    const emu::ScalarOperand y = operand_of(where, second, operand1);
                    if (on == Engine::scalar && emu::generation(core.core) < 4) {
                      core.scalar.tensor_scalar(dst.view, data.view, first, x, second, y);
                    } else {
                      core.vector.tensor_scalar(dst.view, data.view, first, x, second, y,
                                                reverse0 && !target::is_unary(first),
                                                reverse1 && !target::is_unary(second));
                    }
                  });
          },
          py::arg("dst"), py::arg("data"), py::arg("op0"), py::arg("operand0") = py::none(),
          py::arg("reverse0") = false, py::arg("op1") = py::none(), py::arg("operand1") = py::none(),
          py::arg("reverse1") = false, py::arg("engine") = py::none(), "op1(op0(data, operand0), operand1)")
      .def(
          "scalar_tensor_tensor",
          [](RecordedCore& core, const Tile& dst, const Tile& data, const std::string& op0, const Operand& operand0,
             const std::string& op1, const Tile& operand1, bool reverse0, bool reverse1) {
            const Alu first = alu("scalar_tensor_tensor", op0), second = alu("scalar_tensor_tensor", op1);
            issue(core, Opcode::scalar_tensor_tensor, &dst, {&data, tile_of(operand0), &operand1},
                  {.alu0 = first, .alu1 = second}, [&] {
                    core.vector.scalar_tensor_tensor(dst.view, data.view, operand1.view, first, scalar(operand0),
                                                     second, reverse0, reverse1);
                  });
          },
          py::arg("dst"), py::arg("data"), py::arg("op0"), py::arg("operand0"), py::arg("op1"), py::arg("operand1"),
          py::arg("reverse0") = false, py::arg("reverse1") = false, "op1(op0(data, operand0), operand1)")
      .def(
          "tensor_copy",
          [](RecordedCore& core, const Tile& dst, const Tile& src, const std::optional<std::string>& engine) {
            constexpr std::string_view where = "tensor_copy";
            const Engine on = engine_of(where, engine, {Engine::vector, Engine::scalar, Engine::gpsimd});
            issue(core, Opcode::tensor_copy, &dst, {&src}, {.engine = on}, [&] {
              require_reached(where, on, {&dst, &src});
              if (on == Engine::scalar) {
                emu::require_generation("tensor_copy on ScalarE", core.core, 3);
                core.scalar.tensor_copy(dst.view, src.view);
              } else {
                core.vector.tensor_copy(dst.view, src.view);  // GpSimdE's too
              }
            });
          },
          py::arg("dst"), py::arg("src"), py::arg("engine") = py::none(), "A copy with the cast to dst's dtype.")
      .def(
          "tensor_copy_predicated",
          [](RecordedCore& core, const Tile& dst, const Operand& src, const Tile& predicate, bool reverse_pred) {
            issue(
                core, Opcode::tensor_copy_predicated, &dst, {tile_of(src), &predicate}, {.writes_in_part = true}, [&] {
                  const auto* tile = std::get_if<Tile>(&src);
                  if (tile != nullptr && reverse_pred) {
                    emu::refuse("tensor_copy_predicated", "reverse_pred goes with a scalar", "a tile",
                                "Invert the predicate.");
                  }
                  core.vector.tensor_copy_predicated(dst.view, tile ? &tile->view : nullptr,
                                                     tile ? 0.0 : std::get<double>(src), predicate.view, reverse_pred);
                  emu::mark_written(dst.view, predicate.view, reverse_pred);
                });
          },
          py::arg("dst"), py::arg("src"), py::arg("predicate"), py::arg("reverse_pred") = false)
      .def(
          "select",
          [](RecordedCore& core, const Tile& dst, const Tile& predicate, const Tile& on_true, const Operand& on_false) {
            issue(core, Opcode::select, &dst, {&predicate, &on_true, tile_of(on_false)}, {}, [&] {
              if (const auto* tile = std::get_if<Tile>(&on_false)) {
                core.vector.select(dst.view, predicate.view, on_true.view, tile->view);
              } else {
                core.vector.select(dst.view, predicate.view, on_true.view,
                                   static_cast<float>(std::get<double>(on_false)));
              }
            });
          },
          py::arg("dst"), py::arg("predicate"), py::arg("on_true"), py::arg("on_false"))
      .def(
          "reciprocal",
          [](RecordedCore& core, const Tile& dst, const Tile& data) {
            issue(core, Opcode::reciprocal, &dst, {&data}, {}, [&] { core.vector.reciprocal(dst.view, data.view); });
          },
          py::arg("dst"), py::arg("data"))
      .def(
          "memset",
          [](RecordedCore& core, const Tile& dst, double value, const std::optional<std::string>& engine) {
            const Engine on = engine_of("memset", engine, {Engine::vector, Engine::gpsimd});
            issue(core, Opcode::memset, &dst, {}, {.engine = on, .scalar0 = static_cast<float>(value)}, [&] {
              require_reached("memset", on, {&dst});
              if (emu::is_integer(dst.view.dtype) && value != std::trunc(value)) {
                emu::refuse("memset", "an integer tile is set to an integer", std::to_string(value), "Round it.");
              }
              core.vector.memset(dst.view, value);
            });
          },
          py::arg("dst"), py::arg("value"), py::arg("engine") = py::none())
      .def(
          "dropout",
          [](RecordedCore& core, const Tile& dst, const Tile& data, const Operand& prob) {
            issue(core, Opcode::dropout, &dst, {&data, tile_of(prob)}, {}, [&] {
              require_probability(dst, data, prob);
              core.vector.dropout(dst.view, data.view, scalar(prob));
            });
          },
          py::arg("dst"), py::arg("data"), py::arg("prob"))
      .def(
          "activation",
          [](RecordedCore& core, const Tile& dst, const std::string& op, const Tile& data,
             const std::optional<Operand>& bias, const Operand& scale, const std::optional<std::string>& reduce_op,
             const std::optional<Tile>& reduce_res, const std::string& cmd, const std::optional<std::string>& engine) {
            constexpr std::string_view where = "activation";
            const Activation function = activation_named(where, op);
            const emu::ReduceCmd command = reduce_cmd(where, cmd);
            const Engine on = engine_of(where, engine, {Engine::scalar, Engine::gpsimd});
            issue(core, Opcode::activation, &dst, {&data, tile_of(bias), tile_of(scale)},
                  {.engine = on, .function = function, .res = tile_of(reduce_res)}, [&] {
                    is_add("activation", reduce_op);
                    require_bias("activation", core, bias);
                    require_on_gpsimd(where, core, on, {&dst, &data, tile_of(bias), tile_of(scale)}, command,
                                      view_of(reduce_res));
                    core.scalar.activation(dst.view, data.view, function, scalar(scale),
                                           bias ? scalar(*bias) : emu::ScalarOperand(0.0F), command,
                                           view_of(reduce_res));
                  });
          },
          py::arg("dst"), py::arg("op"), py::arg("data"), py::arg("bias") = py::none(), py::arg("scale") = 1.0F,
          py::arg("reduce_op") = py::none(), py::arg("reduce_res") = py::none(), py::arg("reduce_cmd") = "idle",
          py::arg("engine") = py::none(), "op(data * scale + bias)")
      .def(
          "activate2",
          [](RecordedCore& core, const Tile& dst, const std::string& op, const Tile& data, const Operand& imm0,
             const Operand& imm1, const std::optional<std::string>& op0, const std::optional<std::string>& op1,
             const Operand& relu_param, bool reverse0, bool reverse1, const std::optional<std::string>& reduce_op,
             const std::optional<Tile>& reduce_res, const std::string& cmd, const std::optional<std::string>& engine) {
            constexpr std::string_view where = "activate2";
            auto stage = [&](const std::optional<std::string>& name) {
              return name && *name != "bypass" ? alu(where, *name) : Alu::none;
            };
            const emu::ScalarEngine::Activate2 how = {.function = named<Activation>(where, op),
                                                      .op0 = stage(op0),
                                                      .op1 = stage(op1),
                                                      .reverse0 = reverse0,
                                                      .reverse1 = reverse1,
                                                      .reduce_op = reduce_op ? alu(where, *reduce_op) : Alu::add,
                                                      .cmd = reduce_cmd(where, cmd)};
            const Engine on = engine_of(where, engine, {Engine::scalar, Engine::gpsimd});
            issue(
                core, Opcode::activate2, &dst, {&data, tile_of(imm0), tile_of(imm1), tile_of(relu_param)},
                {.engine = on, .alu0 = how.op0, .alu1 = how.op1, .function = how.function, .res = tile_of(reduce_res)},
                [&] {
                  require_on_gpsimd(where, core, on, {&dst, &data, tile_of(imm0), tile_of(imm1), tile_of(relu_param)},
                                    how.cmd, view_of(reduce_res));
                  core.scalar.activate2(dst.view, data.view, how, scalar(imm0), scalar(imm1), scalar(relu_param),
                                        view_of(reduce_res));
                });
          },
          py::arg("dst"), py::arg("op"), py::arg("data"), py::arg("imm0"), py::arg("imm1"), py::arg("op0"),
          py::arg("op1"), py::arg("relu_param") = 0.0, py::arg("reverse0") = false, py::arg("reverse1") = false,
          py::arg("reduce_op") = py::none(), py::arg("reduce_res") = py::none(), py::arg("reduce_cmd") = "idle",
          py::arg("engine") = py::none(), "op(op1(op0(data, imm0), imm1))")
      .def(
          "activation_reduce",
          [](RecordedCore& core, const Tile& dst, const std::string& op, const Tile& data, const std::string& reduce_op,
             const std::optional<Tile>& reduce_res, const std::optional<Operand>& bias, const Operand& scale) {
            const Activation function = activation_named("activation_reduce", op);
            issue(core, Opcode::activation_reduce, &dst, {&data, tile_of(bias), tile_of(scale)},
                  {.function = function, .res = tile_of(reduce_res)}, [&] {
                    is_add("activation_reduce", reduce_op);
                    require_bias("activation_reduce", core, bias);
                    core.scalar.activation_reduce(dst.view, data.view, function, scalar(scale),
                                                  bias ? scalar(*bias) : emu::ScalarOperand(0.0F), view_of(reduce_res));
                  });
          },
          py::arg("dst"), py::arg("op"), py::arg("data"), py::arg("reduce_op"), py::arg("reduce_res") = py::none(),
          py::arg("bias") = py::none(), py::arg("scale") = 1.0F);
}

}  // namespace

bool chooses(const std::string& where, const std::string& got, const std::string& yes, const std::string& no) {
  if (got != yes && got != no) {
    throw Error(Category::invalid_argument,
                "[" + where + "] " + no + " or " + yes + "; got " + got + ". Use one of them.");
  }
  return got == yes;
}

bool is_add(const std::string& where, const std::optional<std::string>& op) {
  if (op && *op != "add") {
    throw Error(Category::hardware_constraint, "[" + where + "] the operation is add; got " + *op + ". Use add.");
  }
  return op.has_value();
}

emu::ScalarOperand operand_of(std::string_view where, Alu function, const std::optional<Operand>& operand) {
  if (operand && function == Alu::none) {
    emu::refuse(where, "an operand goes with an operation", "operand1 without op1", "Leave it out.");
  }
  if (const auto* number = operand ? std::get_if<double>(&*operand) : nullptr;
      number != nullptr && emu::is_bitwise(function) && std::trunc(*number) != *number) {
    emu::refuse(where, "bitwise operations take integers", std::to_string(*number), "Pass an integer.");
  }
  if (!operand && function != Alu::none && !target::is_unary(function)) {
    emu::refuse(where, "an operation of two has an operand", "none for " + std::string(target::name(function)),
                "Pass a number or a tile.");
  }
  return operand ? scalar(*operand) : emu::ScalarOperand(0.0);
}

Engine engine_of(std::string_view where, const std::string& name) {
  return named<Engine>(where, name);
}

Engine engine_of(std::string_view where, const std::optional<std::string>& name,
                 std::initializer_list<Engine> engines) {
  return engine_for(where, name, Alu::none, engines);
}

Alu alu(std::string_view where, const std::string& name) {
  return named<Alu>(where, name);
}

Alu alu(std::string_view where, const std::optional<std::string>& name) {
  return name ? alu(where, *name) : Alu::none;
}

emu::ReduceCmd reduce_cmd(std::string_view where, const std::string& name) {
  constexpr std::string_view kNames[] = {"idle", "reset", "reduce", "reset_reduce", "load_reduce"};
  for (std::size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) {
      return static_cast<emu::ReduceCmd>(i);
    }
  }
  throw Error(Category::invalid_argument, "[" + std::string(where) +
                                              "] reduce_cmd is idle, reset, reduce, reset_reduce or load_reduce; got " +
                                              name + ". Use one of them.");
}

void bind_neuron_core(py::module_& module) {
  bind_tile(module);
  bind_logical_core(module);
  Class core(module, "NeuronCore");
  core.def(py::init([](const std::shared_ptr<LogicalCore>& logical, std::int16_t rank, std::uint64_t seed, bool strict,
                       const py::kwargs& departures) {
             emu::Numerics numerics = departures_from(departures);
             numerics.seed = seed;
             auto made = std::make_shared<RecordedCore>(logical, rank, seed, numerics);
             made->set_checks(true, strict);
             return made;
           }),
           py::arg("logical"), py::arg("rank") = 0, py::arg("seed") = 0, py::kw_only(), py::arg("strict") = false)
      .def_readonly("rank", &RecordedCore::rank, "Which of the logical core's cores it is, from 0.");
  bind_tiles(core);
  bind_elementwise(core);
  bind_reductions(module, core);
  bind_joined(core);
  core.def(
      "counts",
      [](const RecordedCore& core) {
        core.recorder.require_settled("counts");
        return counts_to_dict(core.recorder.count(core.core, core.rank));
      },
      "What the core's instructions so far have moved and computed.");
  module.def(
      "instructions",
      [] {
        py::list rows;
        for (const auto& opcode : target::kOpcodeNames) {
          const program::OpcodeTraits& traits = program::traits(opcode.value);
          py::dict row;
          row["name"] = std::string(opcode.name);
          row["engine"] = std::string(target::name(traits.engine));
          row["operands"] = std::string(traits.operands);
          row["limits"] = std::string(traits.limits);
          row["cycles"] = std::string(program::formula(traits.rule));
          row["first_generation"] = traits.first_generation;
          row["is_derived"] = traits.is_derived;
          rows.append(row);
        }
        return rows;
      },
      "The table of instructions, one dict each.");
}

}  // namespace trn::bindings
