// Instructions that reduce, search, gather, convert formats or synchronise, with the operand names of nki.isa.
#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "bindings/neuron_core.h"
#include "bindings/tile.h"
#include "emu/limits.h"
#include "target/error.h"
#include "target/isa.h"

namespace py = pybind11;

namespace trn::bindings {
namespace {

using target::Alu;
using target::Engine;
using target::Opcode;

// The reduced axes are the innermost ones: the result has the elements of the others.
void require_axes(const Tile& dst, const Tile& data, const std::variant<int, std::vector<int>>& axis) {
  const std::vector<int> axes =
      std::holds_alternative<int>(axis) ? std::vector<int>{std::get<int>(axis)} : std::get<std::vector<int>>(axis);
  const emu::Extents& free = data.view.free;
  std::int64_t kept = 1;
  for (std::size_t d = 0; d + axes.size() < free.size(); ++d) {
    kept *= free[d].size;
  }
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const int a = axes[i];
    if (std::count(axes.begin(), axes.end(), a) > 1 || a < 1 || static_cast<std::size_t>(a) > free.size() ||
        static_cast<std::size_t>(a) + axes.size() <= free.size()) {
      throw Error(Category::hardware_constraint, "[tensor_reduce] reduced axes are the innermost free ones; got axis " +
                                                     std::to_string(a) + ". Transpose first.");
    }
  }
  if (dst.view.free_elements() != kept) {
    throw Error(Category::hardware_constraint, "[tensor_reduce] the result has the elements that are kept; got " +
                                                   std::to_string(dst.view.free_elements()) + ", limit " +
                                                   std::to_string(kept) + ". Check axis.");
  }
}

// nki.language's operators that are marked as legal for reductions.
void require_foldable(std::string_view where, Alu function) {
  constexpr std::array kFoldable = {Alu::add,         Alu::subtract,    Alu::multiply,    Alu::maximum,
                                    Alu::minimum,     Alu::abs_max,     Alu::bitwise_and, Alu::bitwise_or,
                                    Alu::bitwise_xor, Alu::logical_and, Alu::logical_or,  Alu::logical_xor};
  if (std::ranges::find(kFoldable, function) == kFoldable.end()) {
    emu::refuse(where, "the operation reduces", target::name(function), "Use add, maximum, bitwise_or, ...");
  }
}

void require_maximum(std::string_view where, const std::string& reduce_op) {
  if (alu(where, reduce_op) != Alu::maximum) {
    emu::refuse(where, "reduce_op is maximum", reduce_op, "Use tensor_reduce.");
  }
}

// A value to load goes with load_reduce, and load_reduce with a value.
void require_loaded(std::string_view where, emu::ReduceCmd cmd, const std::string& name,
                    const std::optional<Operand>& value) {
  if ((cmd == emu::ReduceCmd::load_reduce) != value.has_value()) {
    emu::refuse(where, name + " goes with load_reduce", value ? "another reduce_cmd" : "load_reduce alone",
                value ? "Leave it out." : "Pass it.");
  }
}

emu::IndexPattern index_pattern(std::string_view where, const Pattern& pattern, std::int64_t offset,
                                std::int64_t channel_multiplier) {
  emu::require_at_most(where, "a pattern has few dimensions", std::ssize(pattern), 4, "Merge dimensions.");
  emu::require_int32(where, "offset", offset);
  emu::require_int32(where, "channel_multiplier", channel_multiplier);
  for (const auto& [step, size] : pattern) {
    emu::require_int32(where, "a step", step);
  }
  return {offset, channel_multiplier, extents(pattern)};
}

void bind_vector(Class& core) {
  core.def(
          "tensor_reduce",
          [](RecordedCore& core, const Tile& dst, const std::string& op, const Tile& data,
             const std::variant<int, std::vector<int>>& axis, bool negate, bool) {
            const Alu function = alu("tensor_reduce", op);
            require_foldable("tensor_reduce", function);
            issue(core, Opcode::tensor_reduce, &dst, {&data}, {.alu0 = function}, [&] {
              require_axes(dst, data, axis);
              core.vector.tensor_reduce(dst.view, function, data.view, negate);
            });
          },
          py::arg("dst"), py::arg("op"), py::arg("data"), py::arg("axis"), py::arg("negate") = false,
          py::arg("keepdims") = false)
      .def(
          "tensor_scalar_reduce",
          [](RecordedCore& core, const Tile& dst, const Tile& data, const std::string& op0,
             const std::optional<Operand>& operand0, const std::string& reduce_op,
             const std::optional<Tile>& reduce_res, bool reverse0, const std::string& cmd,
             const std::optional<Operand>& reduce_init, bool reduce_res_negate) {
            constexpr std::string_view where = "tensor_scalar_reduce";
            const Alu function = alu(where, op0), reduction = alu(where, reduce_op);
            if (reduction == Alu::subtract) {
              emu::refuse(where, "reduce_op is add, multiply, maximum or minimum", reduce_op, "Add, and negate.");
            }
            const emu::ReduceCmd command = reduce_cmd(where, cmd);
            issue(core, Opcode::tensor_scalar_reduce, &dst, {&data, tile_of(operand0), tile_of(reduce_init)},
                  {.alu0 = function, .res = tile_of(reduce_res)}, [&] {
                    require_loaded(where, command, "reduce_init", reduce_init);
                    core.vector.tensor_scalar_reduce(
                        dst.view, data.view, function, operand_of(where, function, operand0), reduction,
                        view_of(reduce_res), command, reduce_init ? scalar(*reduce_init) : emu::ScalarOperand(0.0),
                        reverse0 && !target::is_unary(function), reduce_res_negate);
                  });
          },
          py::arg("dst"), py::arg("data"), py::arg("op0"), py::arg("operand0"), py::arg("reduce_op"),
          py::arg("reduce_res") = py::none(), py::arg("reverse0") = false, py::arg("reduce_cmd") = "reset_reduce",
          py::arg("reduce_init") = py::none(), py::arg("reduce_res_negate") = false)
      .def(
          "tensor_scalar_cumulative",
          [](RecordedCore& core, const Tile& dst, const Tile& src, const std::string& op0, const std::string& op1,
             const Operand& imm0, const std::optional<Operand>& imm1, const std::string& cmd) {
            constexpr std::string_view where = "tensor_scalar_cumulative";
            const Alu first = alu(where, op0), second = alu(where, op1);
            const emu::ReduceCmd command = reduce_cmd(where, cmd);
            issue(core, Opcode::tensor_scalar_cumulative, &dst, {&src, tile_of(imm0), tile_of(imm1)},
                  {.alu0 = first, .alu1 = second}, [&] {
                    require_loaded(where, command, "imm1", imm1);
                    core.vector.tensor_scalar_cumulative(dst.view, src.view, first, second, scalar(imm0),
                                                         imm1 ? scalar(*imm1) : emu::ScalarOperand(0.0F), command);
                  });
          },
          py::arg("dst"), py::arg("src"), py::arg("op0"), py::arg("op1"), py::arg("imm0"), py::arg("imm1") = py::none(),
          py::arg("reduce_cmd") = "reset_reduce")
      .def(
          "tensor_tensor_scan",
          [](RecordedCore& core, const Tile& dst, const Tile& data0, const Tile& data1, const Operand& initial,
             const std::string& op0, const std::string& op1, bool reverse0, bool reverse1) {
            const Alu first = alu("tensor_tensor_scan", op0), second = alu("tensor_tensor_scan", op1);
            issue(core, Opcode::tensor_tensor_scan, &dst, {&data0, &data1, tile_of(initial)},
                  {.alu0 = first, .alu1 = second}, [&] {
                    core.vector.tensor_tensor_scan(dst.view, data0.view, data1.view, scalar(initial), first, second,
                                                   reverse0, reverse1);
                  });
          },
          py::arg("dst"), py::arg("data0"), py::arg("data1"), py::arg("initial"), py::arg("op0"), py::arg("op1"),
          py::arg("reverse0") = false, py::arg("reverse1") = false)
      .def(
          "bn_stats",
          [](RecordedCore& core, const Tile& dst, const Tile& data) {
            issue(core, Opcode::bn_stats, &dst, {&data}, {}, [&] { core.vector.bn_stats(dst.view, data.view); });
          },
          py::arg("dst"), py::arg("data"))
      .def(
          "bn_aggr",
          [](RecordedCore& core, const Tile& dst, const Tile& data) {
            issue(core, Opcode::bn_aggr, &dst, {&data}, {}, [&] { core.vector.bn_aggr(dst.view, data.view); });
          },
          py::arg("dst"), py::arg("data"))
      .def(
          "select_reduce",
          [](RecordedCore& core, const Tile& dst, const Tile& predicate, const Tile& on_true, const Operand& on_false,
             const std::optional<Tile>& reduce_res, const std::string& cmd, const std::string& reduce_op,
             bool reverse_pred) {
            issue(core, Opcode::select_reduce, &dst, {&predicate, &on_true, tile_of(on_false)},
                  {.res = tile_of(reduce_res)}, [&] {
                    require_maximum("select_reduce", reduce_op);
                    core.vector.select_reduce(dst.view, predicate.view, on_true.view, scalar(on_false),
                                              view_of(reduce_res), reduce_cmd("select_reduce", cmd), reverse_pred);
                  });
          },
          py::arg("dst"), py::arg("predicate"), py::arg("on_true"), py::arg("on_false"),
          py::arg("reduce_res") = py::none(), py::arg("reduce_cmd") = "idle", py::arg("reduce_op") = "maximum",
          py::arg("reverse_pred") = false)
      .def(
          "range_select",
          [](RecordedCore& core, const Tile& dst, const Tile& on_true_tile, const std::string& comp_op0,
             const std::string& comp_op1, const Tile& bound0, const Tile& bound1, const std::string& cmd,
             const std::optional<Tile>& reduce_res, const std::string& reduce_op, float range_start,
             float on_false_value) {
            constexpr std::string_view where = "range_select";
            const Alu first = alu(where, comp_op0), second = alu(where, comp_op1);
            const emu::ReduceCmd command = reduce_cmd(where, cmd);
            issue(core, Opcode::range_select, &dst, {&on_true_tile, &bound0, &bound1},
                  {.alu0 = first, .alu1 = second, .res = tile_of(reduce_res)}, [&] {
                    require_maximum(where, reduce_op);
                    core.vector.range_select(dst.view, on_true_tile.view, first, second, bound0.view, bound1.view,
                                             view_of(reduce_res), command, range_start, on_false_value);
                  });
          },
          py::arg("dst"), py::arg("on_true_tile"), py::arg("comp_op0"), py::arg("comp_op1"), py::arg("bound0"),
          py::arg("bound1"), py::arg("reduce_cmd") = "reset_reduce", py::arg("reduce_res") = py::none(),
          py::arg("reduce_op") = "maximum", py::arg("range_start") = 0.0F,
          py::arg("on_false_value") = std::numeric_limits<float>::lowest())
      .def(
          "exponential",
          [](RecordedCore& core, const Tile& dst, const Tile& src, const Operand& max_value,
             const std::optional<Tile>& reduce_res, const std::string& cmd, const Operand& reduce_init) {
            const emu::ReduceCmd command = reduce_cmd("exponential", cmd);
            emu::require_dtype("exponential", "the result is not uint32", dst.view,
                               dst.view.dtype != target::Dtype::uint32, "Cast it afterwards.");
            issue(core, Opcode::exponential, &dst, {&src, tile_of(max_value), tile_of(reduce_init)},
                  {.res = tile_of(reduce_res)}, [&] {
                    core.vector.exponential(dst.view, src.view, scalar(max_value), view_of(reduce_res), command,
                                            scalar(reduce_init));
                  });
          },
          py::arg("dst"), py::arg("src"), py::arg("max_value") = 0.0F, py::arg("reduce_res") = py::none(),
          py::arg("reduce_cmd") = "idle", py::arg("reduce_init") = 0.0F)
      .def(
          "max8",
          [](RecordedCore& core, const Tile& dst, const Tile& src) {
            issue(core, Opcode::max8, &dst, {&src}, {}, [&] { core.vector.max8(dst.view, src.view); });
          },
          py::arg("dst"), py::arg("src"))
      .def(
          "nc_find_index8",
          [](RecordedCore& core, const Tile& dst, const Tile& data, const Tile& vals) {
            issue(core, Opcode::nc_find_index8, &dst, {&data, &vals}, {},
                  [&] { core.vector.nc_find_index8(dst.view, data.view, vals.view); });
          },
          py::arg("dst"), py::arg("data"), py::arg("vals"))
      .def(
          "nc_match_replace8",
          [](RecordedCore& core, const Tile& dst, const Tile& data, const Tile& vals, float imm,
             const std::optional<Tile>& dst_idx) {
            issue(core, Opcode::nc_match_replace8, &dst, {&data, &vals}, {.res = tile_of(dst_idx)},
                  [&] { core.vector.nc_match_replace8(dst.view, data.view, vals.view, imm, view_of(dst_idx)); });
          },
          py::arg("dst"), py::arg("data"), py::arg("vals"), py::arg("imm"), py::arg("dst_idx") = py::none())
      .def(
          "nc_stream_shuffle",
          [](RecordedCore& core, const Tile& dst, const Tile& src, const std::array<int, 32>& shuffle_mask) {
            issue(core, Opcode::nc_stream_shuffle, &dst, {&src}, {},
                  [&] { core.vector.nc_stream_shuffle(dst.view, src.view, shuffle_mask); });
          },
          py::arg("dst"), py::arg("src"), py::arg("shuffle_mask"))
      .def(
          "quantize_mx",
          [](RecordedCore& core, const Tile& dst, const Tile& src, const Tile& dst_scale) {
            issue(core, Opcode::quantize_mx, &dst, {&src}, {.res = &dst_scale},
                  [&] { core.vector.quantize_mx(dst.view, src.view, dst_scale.view); });
          },
          py::arg("dst"), py::arg("src"), py::arg("dst_scale"));
}

void bind_gpsimd(Class& core) {
  core.def(
          "iota",
          [](RecordedCore& core, const Tile& dst, const Pattern& pattern, std::int64_t offset,
             std::int64_t channel_multiplier) {
            issue(core, Opcode::iota, &dst, {}, {},
                  [&] { core.gpsimd.iota(dst.view, index_pattern("iota", pattern, offset, channel_multiplier), 0); });
          },
          py::arg("dst"), py::arg("pattern"), py::arg("offset") = 0, py::arg("channel_multiplier") = 0)
      .def(
          "affine_select",
          [](RecordedCore& core, const Tile& dst, const Pattern& pattern, std::int64_t channel_multiplier,
             const Tile& on_true_tile, float on_false_value, const std::string& cmp_op, std::int64_t offset) {
            const Alu comparison = alu("affine_select", cmp_op);
            issue(core, Opcode::affine_select, &dst, {&on_true_tile}, {.alu0 = comparison}, [&] {
              core.gpsimd.affine_select(dst.view, index_pattern("affine_select", pattern, offset, channel_multiplier),
                                        on_true_tile.view, on_false_value, comparison);
            });
          },
          py::arg("dst"), py::arg("pattern"), py::arg("channel_multiplier"), py::arg("on_true_tile"),
          py::arg("on_false_value"), py::arg("cmp_op") = "equal", py::arg("offset") = 0)
      .def(
          "rng",
          [](RecordedCore& core, const Tile& dst, const std::optional<std::string>& engine) {
            const Engine on = engine_of("rng", engine, {Engine::vector, Engine::gpsimd});
            issue(core, Opcode::rng, &dst, {}, {.engine = on},
                  [&] { on == Engine::gpsimd ? core.gpsimd.rng(dst.view) : core.vector.rng(dst.view); });
          },
          py::arg("dst"), py::arg("engine") = py::none())
      .def(
          "rand2",
          [](RecordedCore& core, const Tile& dst, const Operand& min, const Operand& max) {
            issue(core, Opcode::rand2, &dst, {tile_of(min), tile_of(max)}, {},
                  [&] { core.vector.rand2(dst.view, scalar(min), scalar(max)); });
          },
          py::arg("dst"), py::arg("min"), py::arg("max"))
      .def(
          "rand_set_state",
          [](RecordedCore& core, const Tile& src_seeds, const std::optional<std::string>& engine) {
            const Engine on = engine_of("rand_set_state", engine, {Engine::gpsimd, Engine::vector});
            issue(core, Opcode::rand_set_state, nullptr, {&src_seeds}, {.engine = on}, [&] {
              on == Engine::gpsimd ? core.gpsimd.rand_set_state(src_seeds.view)
                                   : core.vector.rand_set_state(src_seeds.view);
            });
          },
          py::arg("src_seeds"), py::arg("engine") = py::none())
      .def(
          "rand_get_state",
          [](RecordedCore& core, const Tile& dst, const std::optional<std::string>& engine) {
            const Engine on = engine_of("rand_get_state", engine, {Engine::gpsimd, Engine::vector});
            issue(core, Opcode::rand_get_state, &dst, {}, {.engine = on}, [&] {
              on == Engine::gpsimd ? core.gpsimd.rand_get_state(dst.view) : core.vector.rand_get_state(dst.view);
            });
          },
          py::arg("dst"), py::arg("engine") = py::none())
      .def(
          "nonzero_with_count",
          [](RecordedCore& core, const Tile& dst, const Tile& src, std::int64_t index_offset,
             std::int64_t padding_val) {
            issue(core, Opcode::nonzero_with_count, &dst, {&src}, {},
                  [&] { core.gpsimd.nonzero_with_count(dst.view, src.view, index_offset, padding_val); });
          },
          py::arg("dst"), py::arg("src"), py::arg("index_offset") = 0, py::arg("padding_val") = -1)
      .def(
          "topk",
          [](RecordedCore& core, const Tile& val_dst, const Tile& idx_dst, const Tile& src, std::int64_t n) {
            issue(core, Opcode::topk, &val_dst, {&src}, {.res = &idx_dst, .writes_in_part = true, .value = n},
                  [&] { core.gpsimd.topk(val_dst.view, idx_dst.view, src.view, n); });
          },
          py::arg("val_dst"), py::arg("idx_dst"), py::arg("src"), py::arg("n"))
      .def(
          "set_rng_seed",
          [](RecordedCore& core, const Tile& src_seeds) {
            issue(core, Opcode::set_rng_seed, nullptr, {&src_seeds}, {},
                  [&] { core.vector.set_rng_seed(src_seeds.view); });
          },
          py::arg("src_seeds"))
      .def(
          "local_gather",
          [](RecordedCore& core, const Tile& dst, const Tile& src_buffer, const Tile& index,
             std::int64_t num_elem_per_idx, const std::optional<std::int64_t>& num_valid_indices) {
            issue(core, Opcode::local_gather, &dst, {&src_buffer, &index}, {.value = num_elem_per_idx}, [&] {
              core.gpsimd.local_gather(dst.view, src_buffer.view, index.view, num_elem_per_idx,
                                       num_valid_indices.value_or(0));
            });
          },
          py::arg("dst"), py::arg("src_buffer"), py::arg("index"), py::arg("num_elem_per_idx") = 1,
          py::arg("num_valid_indices") = py::none())
      .def(
          "nc_n_gather",
          [](RecordedCore& core, const Tile& dst, const Tile& data, const Tile& indices) {
            issue(core, Opcode::nc_n_gather, &dst, {&data, &indices}, {},
                  [&] { core.gpsimd.nc_n_gather(dst.view, data.view, indices.view); });
          },
          py::arg("dst"), py::arg("data"), py::arg("indices"))
      .def(
          "tensor_partition_reduce",
          [](RecordedCore& core, const Tile& dst, const std::string& op, const Tile& data) {
            const Alu function = alu("tensor_partition_reduce", op);
            issue(core, Opcode::tensor_partition_reduce, &dst, {&data}, {.alu0 = function},
                  [&] { core.gpsimd.tensor_partition_reduce(dst.view, function, data.view); });
          },
          py::arg("dst"), py::arg("op"), py::arg("data"))
      .def(
          "sequence_bounds",
          [](RecordedCore& core, const Tile& dst, const Tile& segment_ids) {
            issue(core, Opcode::sequence_bounds, &dst, {&segment_ids}, {},
                  [&] { core.gpsimd.sequence_bounds(dst.view, segment_ids.view); });
          },
          py::arg("dst"), py::arg("segment_ids"));
}

Also at(std::string_view where, const std::string& engine, std::optional<int> queue, std::int64_t semaphore,
        std::int64_t value) {
  return {.engine = engine_of(where, engine),
          .queue = engine == "dma" ? std::optional(queue.value_or(0)) : std::nullopt,
          .semaphore = static_cast<std::int32_t>(semaphore),
          .value = value};
}

// A register by what register_alloc gave out, or by its number.
struct Register {
  Core core;
  std::int64_t number = 0;
  std::int64_t value() const { return core->sync.register_value(number); }
};
using AnyRegister = std::variant<Register, std::int64_t>;

std::int64_t number_of(const RecordedCore& core, const AnyRegister& any) {
  const auto* known = std::get_if<Register>(&any);
  if (known == nullptr) {
    return std::get<std::int64_t>(any);
  }
  if (known->core.get() != &core) {
    emu::refuse("register", "a register is of the core that runs the instruction", "another core's",
                "Allocate it on this one.");
  }
  return known->number;
}

void load_register(RecordedCore& core, const AnyRegister& dst, const Tile& src) {
  const std::int64_t number = number_of(core, dst);
  issue(core, Opcode::register_load, nullptr, {&src}, {}, [&] { core.sync.register_load(number, src.view); });
}

// From another register, or a constant.
void move_register(RecordedCore& core, const AnyRegister& dst, const AnyRegister& src) {
  const std::int64_t number = number_of(core, dst);
  const bool is_constant = std::holds_alternative<std::int64_t>(src);
  const std::int64_t value = number_of(core, src);
  issue(core, Opcode::register_move, nullptr, {}, {},
        [&] { is_constant ? core.sync.register_move(number, value) : core.sync.register_copy(number, value); });
}

void bind_register(py::module_& module) {
  py::class_<Register>(module, "Register", "A register of SyncE: its value as a number, or as a condition.")
      .def_readonly("number", &Register::number, "Which of the engine's registers it is.")
      .def_property_readonly("value", &Register::value, "The signed 32-bit value that it holds.")
      .def("__int__", &Register::value)
      .def("__bool__", [](const Register& self) { return self.value() != 0; })
      .def("__repr__", [](const Register& self) {
        return "Register(" + std::to_string(self.number) + ", value=" + std::to_string(self.value()) + ")";
      });
}

void bind_sync(Class& core) {
  core.def(
          "register_alloc",
          [](const Core& core, const std::optional<std::variant<Register, std::int64_t, Tile>>& x) {
            const Register made{core, core->sync.register_alloc()};
            if (const auto* tile = x ? std::get_if<Tile>(&*x) : nullptr) {
              load_register(*core, made, *tile);
            } else if (const auto* from = x ? std::get_if<Register>(&*x) : nullptr) {
              move_register(*core, made, *from);
            } else if (x) {
              move_register(*core, made, std::get<std::int64_t>(*x));
            }
            return made;
          },
          py::arg("x") = py::none(), "A register that was not given out before, which holds x.")
      .def("register_load", &load_register, py::arg("dst"), py::arg("src"))
      .def(
          "register_store",
          [](RecordedCore& core, const Tile& dst, const AnyRegister& src) {
            const std::int64_t number = number_of(core, src);
            issue(core, Opcode::register_store, &dst, {}, {}, [&] { core.sync.register_store(dst.view, number); });
          },
          py::arg("dst"), py::arg("src"))
      .def("register_move", &move_register, py::arg("dst"), py::arg("src"))
      .def(
          "register_value",
          [](const RecordedCore& core, const AnyRegister& index) {
            return core.sync.register_value(number_of(core, index));
          },
          py::arg("index"))
      .def(
          "semaphore_increment",
          [](RecordedCore& core, std::int64_t semaphore, std::int64_t value, const std::string& engine,
             std::optional<int> queue) {
            issue(core, Opcode::semaphore_increment, nullptr, {},
                  at("semaphore_increment", engine, queue, semaphore, value),
                  [&] { core.sync.semaphore_increment(semaphore, value); });
          },
          py::arg("semaphore"), py::arg("value") = 1, py::arg("engine") = "sync", py::arg("queue") = py::none(),
          "After all that the engine, or the DMA queue, was given before.")
      .def(
          "semaphore_wait",
          [](RecordedCore& core, std::int64_t semaphore, std::int64_t value, const std::string& engine,
             std::optional<int> queue) {
            issue(core, Opcode::semaphore_wait, nullptr, {}, at("semaphore_wait", engine, queue, semaphore, value),
                  [&] { core.sync.semaphore_wait(semaphore, value); });
          },
          py::arg("semaphore"), py::arg("value"), py::arg("engine") = "sync", py::arg("queue") = py::none(),
          "Holds all that the engine, or the DMA queue, is given from here on.");
}

}  // namespace

void bind_reductions(py::module_& module, Class& core) {
  bind_vector(core);
  bind_gpsimd(core);
  bind_register(module);
  bind_sync(core);
}

}  // namespace trn::bindings
