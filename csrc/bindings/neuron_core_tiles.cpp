// Memories, DMA and TensorE of an emulated NeuronCore, with the operand names of nki.isa.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bindings/neuron_core.h"
#include "bindings/tile.h"
#include "emu/limits.h"

namespace py = pybind11;

namespace trn::bindings {
namespace {

using target::Alu;
using target::Engine;
using target::Opcode;

using Numbers = std::vector<std::int64_t>;

std::vector<const Tile*> pointers(const std::vector<Tile>& tiles) {
  std::vector<const Tile*> result;
  for (const Tile& tile : tiles) {
    result.push_back(&tile);
  }
  return result;
}

// How a transfer's descriptors are made and served: checked as documented, without a cost of their own.
void require_hints(const std::string& where, const RecordedCore& core, std::optional<int> priority,
                   const std::string& oob_mode, const std::string& dge_mode, const std::optional<std::string>& engine) {
  chooses(where, oob_mode, "skip", "error");
  constexpr std::string_view kModes[] = {kAny, "none", "swdge", "hwdge"};
  if (std::ranges::find(kModes, dge_mode) == std::end(kModes)) {
    emu::refuse(where, "dge_mode is unknown, none, swdge or hwdge", dge_mode, "Use one of them.");
  }
  if (dge_mode == "hwdge") {
    emu::require_generation(where + " hwdge", core.core, 3);
  }
  if (priority) {
    emu::require_generation(where + " priority", core.core, 4);
    emu::require_index(where, "a priority is 0 to 3", *priority, 4, "Use one of them.");
  }
  if (engine && *engine != kAny) {
    engine_of(where, engine, {Engine::sync, Engine::scalar});
    if (dge_mode != "hwdge") {
      emu::refuse(where, "an engine goes with dge_mode hwdge", dge_mode, "Leave it out.");
    }
  }
}

// Both are given, or neither: then the tile is the whole array.
emu::ArrayTile array_tile(std::string_view where, const std::optional<Numbers>& position,
                          const std::optional<Numbers>& size) {
  const Numbers at = position.value_or(Numbers()), of = size.value_or(Numbers());
  if (at.size() != of.size() || (!at.empty() && at.size() != 2)) {
    emu::refuse(where, "tile_position and tile_size are both given, each of rows and columns, or neither",
                std::to_string(at.size()) + " and " + std::to_string(of.size()) + " numbers", "Give both.");
  }
  if (at.empty()) {
    return {};
  }
  for (const std::int64_t number : of) {
    emu::require_at_least(where, "a tile of the array has rows and columns", number, 1, "Leave out both.");
  }
  return {at[0], at[1], of[0], of[1]};
}

// nki.isa: the first write to a place in PSUM overwrites, later ones accumulate.
bool accumulates(std::string_view where, const Tile& dst, std::optional<bool> accumulate) {
  if (accumulate) {
    return *accumulate;
  }
  const bool is_written = emu::has_written(dst.view);
  if (is_written && emu::has_unwritten(dst.view)) {
    emu::refuse(where, "a result is written as a whole, or new as a whole, where accumulate is left out",
                "one written in part", "Pass accumulate=True or accumulate=False.");
  }
  return is_written;
}

void bind_memory(Class& core) {
  for (const auto memory : {target::Memory::sbuf, target::Memory::psum}) {
    core.def(
        std::string(target::name(memory)).c_str(),
        [memory](const Core& core, const std::string& dtype, std::int64_t partitions, std::int64_t elements,
                 const std::string& name, std::int64_t start_partition) {
          return Tile::allocate(core, memory, dtype, partitions, elements, name, start_partition);
        },
        py::arg("dtype"), py::arg("partitions"), py::arg("elements"), py::arg("name") = "tile",
        py::arg("start_partition") = 0, "A tile, NaN until written; in PSUM from the start of a bank.");
  }
  core.def("hbm", &Tile::in_hbm, py::arg("array"), py::arg("dtype") = "float32",
           "An array as a tensor in HBM: its rows are partitions. Not copied.")
      .def("hbm", &Tile::fresh_hbm, py::arg("shape"), py::arg("dtype") = "float32",
           "A new tensor in HBM, NaN until written; `array` holds its bytes.")
      .def(
          "load",
          [](RecordedCore& core, const Tile& tile, const py::array& array) {
            const Tile src = Tile::rows("load", array, tile);
            issue(core, Opcode::dma_copy, &tile, {&src}, {}, [&] { core.dma.copy(tile.view, src.view); });
          },
          py::arg("tile"), py::arg("array"),
          "DMA from a dense array of the tile's dtype and elements, its partitions as rows.")
      .def(
          "store",
          [](RecordedCore& core, const py::array& array, const Tile& tile) {
            const Tile dst = Tile::rows("store", array, tile);
            issue(core, Opcode::dma_copy, &dst, {&tile}, {}, [&] { core.dma.copy(dst.view, tile.view); });
          },
          py::arg("array").noconvert(), py::arg("tile"),
          "DMA to a dense array of the tile's dtype and elements, its partitions as rows.");
}

void bind_dma(Class& core) {
  core.def(
          "dma_copy",
          [](RecordedCore& core, const Tile& dst, const Tile& src, std::optional<int> priority,
             const std::string& oob_mode, const std::string& dge_mode, const std::optional<std::string>& engine,
             const std::optional<std::string>& dst_rmw_op, std::optional<int> queue) {
            const bool adds = is_add("dma_copy", dst_rmw_op);
            issue(core, Opcode::dma_copy, &dst, {&src}, {.alu0 = adds ? Alu::add : Alu::none, .queue = queue}, [&] {
              require_hints("dma_copy", core, priority, oob_mode, dge_mode, engine);
              emu::require_dtype("dma_copy", "hwdge keeps the dtype", dst.view,
                                 dge_mode != "hwdge" || dst.view.dtype == src.view.dtype, "Use another dge_mode.");
              adds ? core.dma.accumulate(dst.view, src.view) : core.dma.copy(dst.view, src.view);
            });
          },
          py::arg("dst"), py::arg("src"), py::arg("priority") = py::none(), py::arg("oob_mode") = "error",
          py::arg("dge_mode") = kAny, py::arg("engine") = py::none(), py::arg("dst_rmw_op") = py::none(),
          py::arg("queue") = py::none())
      .def(
          "dma_compute",
          [](RecordedCore& core, const Tile& dst, const std::vector<Tile>& srcs, const std::string& reduce_op,
             const std::optional<std::vector<double>>& scales, bool unique_indices, const std::string& oob_mode,
             std::optional<int> queue) {
            constexpr const char* where = "dma_compute";
            issue(core, Opcode::dma_compute, &dst, pointers(srcs), {.queue = queue}, [&] {
              is_add(where, reduce_op);
              chooses(where, oob_mode, "skip", "error");
              if (!unique_indices) {
                emu::refuse(where, "indices are unique", "unique_indices=False", "Add in several steps.");
              }
              std::vector<emu::View> views;
              for (const Tile& src : srcs) {
                views.push_back(src.view);
              }
              if (scales) {
                emu::require_equal(where, "every source has a scale", std::ssize(*scales), std::ssize(srcs),
                                   "Pass one for each.");
                for (const double scale : *scales) {
                  if (scale != 1) {
                    emu::refuse(where, "scales are 1", std::to_string(scale), "Scale on an engine.");
                  }
                }
              }
              core.dma.compute(dst.view, views);
            });
          },
          py::arg("dst"), py::arg("srcs"), py::arg("reduce_op"), py::arg("scales") = py::none(),
          py::arg("unique_indices") = true, py::arg("oob_mode") = "error", py::arg("queue") = py::none())
      .def(
          "dma_transpose",
          [](RecordedCore& core, const Tile& dst, const Tile& src, const std::optional<std::vector<int>>& axes,
             std::optional<int> priority, const std::string& dge_mode, const std::string& oob_mode,
             std::optional<int> queue) {
            constexpr const char* where = "dma_transpose";
            issue(core, Opcode::dma_transpose, &dst, {&src}, {.queue = queue}, [&] {
              require_hints(where, core, priority, oob_mode, dge_mode, std::nullopt);
              emu::require_memory(where, "the result lies in SBUF", dst.view, dst.view.memory == target::Memory::sbuf,
                                  "Store it by dma_copy.");
              const std::int64_t size = target::itemsize(src.view.dtype);
              emu::require_dtype(where, "elements have 2 or 4 bytes", src.view, size == 2 || size == 4, "Cast them.");
              static const std::vector<int> kDefaults[] = {{}, {}, {1, 0}, {2, 1, 0}, {3, 1, 2, 0}};
              const std::size_t rank = std::min<std::size_t>(src.view.free.size() + 1, 4);
              core.dma.transpose(dst.view, src.view, axes ? *axes : kDefaults[rank]);
            });
          },
          py::arg("dst"), py::arg("src"), py::arg("axes") = py::none(), py::arg("priority") = py::none(),
          py::arg("dge_mode") = kAny, py::arg("oob_mode") = "error", py::arg("queue") = py::none())
      .def(
          "dma_gather",
          [](RecordedCore& core, const Tile& dst, const Tile& src, const Tile& index, const std::string& oob_mode,
             std::optional<int> queue) {
            issue(core, Opcode::dma_gather, &dst, {&src, &index}, {.writes_in_part = true, .queue = queue}, [&] {
              core.dma.gather(dst.view, src.view, index.view, chooses("dma_gather", oob_mode, "skip", "error"));
            });
          },
          py::arg("dst"), py::arg("src"), py::arg("index"), py::arg("oob_mode") = "error",
          py::arg("queue") = py::none())
      .def(
          "dma_scatter",
          [](RecordedCore& core, const Tile& dst, const Tile& src, const Tile& index,
             const std::optional<std::string>& dst_rmw_op, const std::string& oob_mode, std::optional<int> queue) {
            issue(core, Opcode::dma_scatter, &dst, {&src, &index},
                  {.alu0 = dst_rmw_op ? Alu::add : Alu::none, .queue = queue}, [&] {
                    core.dma.scatter(dst.view, src.view, index.view, is_add("dma_scatter", dst_rmw_op),
                                     chooses("dma_scatter", oob_mode, "skip", "error"));
                  });
          },
          py::arg("dst"), py::arg("src"), py::arg("index"), py::arg("dst_rmw_op") = py::none(),
          py::arg("oob_mode") = "error", py::arg("queue") = py::none());
}

void bind_products(Class& core) {
  core.def(
          "nc_matmul",
          [](RecordedCore& core, const Tile& dst, const Tile& stationary, const Tile& moving, bool, bool,
             bool is_transpose, const std::optional<bool>& accumulate, const std::optional<Numbers>& tile_position,
             const std::optional<Numbers>& tile_size, const std::string& perf_mode) {
            constexpr const char* where = "nc_matmul";
            const bool is_double_row = chooses(where, perf_mode, "double_row", "none");
            const emu::ArrayTile tile = array_tile(where, tile_position, tile_size);
            if (is_transpose && emu::generation(core.core) >= 3) {  // before, it is a product, and says what it is for
              issue(core, Opcode::nc_transpose, &dst, {&stationary, &moving}, {.engine = Engine::tensor},
                    [&] { core.tensor.nc_matmul_transpose(dst.view, stationary.view, moving.view); });
              return;
            }
            const bool adds = !is_transpose && accumulates(where, dst, accumulate);
            issue(core, Opcode::nc_matmul, &dst, {&stationary, &moving},
                  {.accumulate = adds, .is_single_row = !is_double_row}, [&] {
                    if (is_double_row) {
                      core.tensor.nc_matmul_double_row(dst.view, stationary.view, moving.view, adds, tile);
                    } else {
                      core.tensor.nc_matmul(dst.view, stationary.view, moving.view, adds, tile);
                    }
                  });
          },
          py::arg("dst"), py::arg("stationary"), py::arg("moving"), py::arg("is_stationary_onezero") = false,
          py::arg("is_moving_onezero") = false, py::arg("is_transpose") = false, py::arg("accumulate") = py::none(),
          py::arg("tile_position") = py::none(), py::arg("tile_size") = py::none(), py::arg("perf_mode") = "none",
          "dst[M, N] (+)= stationary[K, M]^T @ moving[K, N], in PSUM; accumulate None: onto what was written there.")
      .def(
          "nc_matmul_mx",
          [](RecordedCore& core, const Tile& dst, const Tile& stationary, const Tile& moving,
             const Tile& stationary_scale, const Tile& moving_scale, const std::optional<Numbers>& tile_position,
             const std::optional<Numbers>& tile_size, const std::optional<bool>& accumulate) {
            constexpr const char* where = "nc_matmul_mx";
            const emu::ArrayTile tile = array_tile(where, tile_position, tile_size);
            const bool adds = accumulates(where, dst, accumulate);
            issue(core, Opcode::nc_matmul_mx, &dst, {&stationary, &moving, &stationary_scale, &moving_scale},
                  {.accumulate = adds}, [&] {
                    core.tensor.nc_matmul_mx(dst.view, stationary.view, moving.view, stationary_scale.view,
                                             moving_scale.view, adds, tile);
                  });
          },
          py::arg("dst"), py::arg("stationary"), py::arg("moving"), py::arg("stationary_scale"),
          py::arg("moving_scale"), py::arg("tile_position") = py::none(), py::arg("tile_size") = py::none(),
          py::arg("accumulate") = py::none())
      .def(
          "nc_transpose",
          [](RecordedCore& core, const Tile& dst, const Tile& data, const std::optional<std::string>& engine) {
            // Into SBUF only VectorE writes, and small tiles only.
            const bool suits_vector = dst.view.memory == target::Memory::sbuf && data.view.partitions <= 32 &&
                                      data.view.free_elements() <= 32;
            const Engine on = engine_of("nc_transpose", engine,
                                        suits_vector ? std::initializer_list{Engine::vector, Engine::tensor}
                                                     : std::initializer_list{Engine::tensor, Engine::vector});
            issue(core, Opcode::nc_transpose, &dst, {&data}, {.engine = on}, [&] {
              on == Engine::vector ? core.vector.nc_transpose(dst.view, data.view)
                                   : core.tensor.nc_transpose(dst.view, data.view);
            });
          },
          py::arg("dst"), py::arg("data"), py::arg("engine") = py::none(), "dst[F, P] = data[P, F]^T");
}

}  // namespace

void bind_tiles(Class& core) {
  bind_memory(core);
  bind_dma(core);
  bind_products(core);
}

}  // namespace trn::bindings
