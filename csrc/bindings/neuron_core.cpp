// Single instructions on an emulated NeuronCore, one Python call each.
#include "bindings/neuron_core.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "emu/neuron_core.h"
#include "target/error.h"
#include "target/isa.h"

namespace py = pybind11;

namespace trn::bindings {
namespace {

// A tile on the chip, and the core that must outlive it.
struct Tile {
  std::shared_ptr<emu::NeuronCore> core;
  emu::View view;
  std::string name;
  std::int64_t offset = 0, elements = 0;

  // [partitions, size] from element `start`.
  Tile part(std::int64_t partitions, std::int64_t start, std::int64_t size) const {
    Tile tile = *this;
    tile.view = view.memory == target::Memory::sbuf
                    ? core->sbuf.view(offset, elements, view.dtype, partitions, start, {{size, 1}}, name)
                    : core->psum.view(offset, elements, view.dtype, partitions, start, {{size, 1}}, name);
    return tile;
  }
};

using Core = std::shared_ptr<emu::NeuronCore>;

template <class Memory>
Tile allocate(const Core& core, Memory& memory, const std::string& dtype, std::int64_t partitions,
              std::int64_t elements, const std::string& name) {
  const target::Dtype type = target::dtype_from_name(dtype);
  const std::int64_t offset = memory.allocate(elements * target::itemsize(type), name);
  return {core, memory.view(offset, elements, type, partitions, 0, {{elements, 1}}, name), name, offset, elements};
}

// A dense array as HBM rows of a tile's shape.
emu::View hbm(const py::buffer_info& info, const Tile& tile) {
  const std::int64_t columns = tile.view.free_elements();
  const std::int64_t bytes = info.size * info.itemsize;
  const emu::HbmTensor tensor{info.ptr, bytes / target::itemsize(tile.view.dtype), tile.view.dtype};
  return tensor.view(tile.view.partitions, columns, 0, {{columns, 1}}, "array");
}

}  // namespace

void bind_neuron_core(py::module_& module) {
  py::class_<Tile>(module, "Tile")
      .def("part", &Tile::part, py::arg("partitions"), py::arg("start"), py::arg("size"),
           "The first partitions, and `size` elements of each from `start`.");
  py::class_<emu::NeuronCore, Core>(module, "NeuronCore")
      .def(py::init([](const target::Target& target, std::uint64_t seed) {
             return std::make_shared<emu::NeuronCore>(target.core, seed);
           }),
           py::arg("target"), py::arg("seed") = 0)
      .def(
          "sbuf",
          [](const Core& core, const std::string& dtype, std::int64_t partitions, std::int64_t elements,
             const std::string& name) { return allocate(core, core->sbuf, dtype, partitions, elements, name); },
          py::arg("dtype"), py::arg("partitions"), py::arg("elements"), py::arg("name") = "tile",
          "A tile of SBUF; NaN until written.")
      .def(
          "psum",
          [](const Core& core, const std::string& dtype, std::int64_t partitions, std::int64_t elements,
             const std::string& name) { return allocate(core, core->psum, dtype, partitions, elements, name); },
          py::arg("dtype"), py::arg("partitions"), py::arg("elements"), py::arg("name") = "tile",
          "A tile of PSUM, from the start of a bank; NaN until written.")
      .def(
          "load",
          [](emu::NeuronCore& core, const Tile& tile, const py::buffer& array) {
            core.dma.copy(tile.view, hbm(array.request(), tile));
          },
          py::arg("tile"), py::arg("array"), "DMA from a dense array of the tile's dtype.")
      .def(
          "store",
          [](emu::NeuronCore& core, const py::buffer& array, const Tile& tile) {
            core.dma.copy(hbm(array.request(true), tile), tile.view);
          },
          py::arg("array"), py::arg("tile"), "DMA to a dense array of the tile's dtype.")
      .def(
          "nc_matmul",
          [](emu::NeuronCore& core, const Tile& dst, const Tile& stationary, const Tile& moving, bool accumulate) {
            core.tensor.nc_matmul(dst.view, stationary.view, moving.view, accumulate);
          },
          py::arg("dst"), py::arg("stationary"), py::arg("moving"), py::arg("accumulate") = false,
          "dst[M, N] (+)= stationary[K, M]^T @ moving[K, N], in PSUM.")
      .def(
          "nc_transpose",
          [](emu::NeuronCore& core, const Tile& dst, const Tile& src) { core.tensor.nc_transpose(dst.view, src.view); },
          py::arg("dst"), py::arg("src"), "dst[F, P] = src[P, F]^T, in PSUM.")
      .def(
          "tensor_tensor",
          [](emu::NeuronCore& core, const Tile& dst, const Tile& a, const Tile& b, const std::string& alu) {
            core.vector.tensor_tensor(dst.view, a.view, b.view, target::from_name<target::Alu>(alu));
          },
          py::arg("dst"), py::arg("a"), py::arg("b"), py::arg("alu"))
      .def(
          "tensor_copy",
          [](emu::NeuronCore& core, const Tile& dst, const Tile& src) { core.vector.tensor_copy(dst.view, src.view); },
          py::arg("dst"), py::arg("src"), "A copy with the cast to dst's dtype.")
      .def(
          "activation",
          [](emu::NeuronCore& core, const Tile& dst, const Tile& x, const std::string& function, float scale,
             float bias) {
            core.scalar.activation(dst.view, x.view, target::from_name<target::Activation>(function), scale, bias);
          },
          py::arg("dst"), py::arg("x"), py::arg("function"), py::arg("scale") = 1.0F, py::arg("bias") = 0.0F,
          "function(scale * x + bias)");
}

}  // namespace trn::bindings
