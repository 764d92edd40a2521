// Tiles: allocation, parts, values.
#include "bindings/tile.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "bindings/recorded_core.h"
#include "emu/convert.h"
#include "emu/lanes.h"
#include "emu/limits.h"
#include "target/error.h"

namespace py = pybind11;

namespace trn::bindings {

emu::Extents extents(const Pattern& pattern) {
  emu::Extents result;
  for (const auto& [step, num] : pattern) {
    if (num < 1) {
      throw Error(Category::invalid_argument, "[tile] every dimension has elements; got " + std::to_string(num) +
                                                  ", limit 1. Give it one or more.");
    }
    result.push_back({num, step});
  }
  return result;
}

Tile Tile::allocate(const Core& core, target::Memory memory, const std::string& dtype, std::int64_t partitions,
                    std::int64_t elements, const std::string& name, std::int64_t start_partition) {
  Tile tile{.core = core, .array = {}, .view = {}, .name = name, .elements = elements};
  tile.view.memory = memory;
  tile.view.dtype = target::dtype_from_name(dtype);
  emu::require_chip_dtype(target::name(memory), core->core, core->numerics, tile.view.dtype);
  const std::int64_t bytes =
      emu::bounded_product(std::max<std::int64_t>(elements, 0), target::itemsize(tile.view.dtype));
  tile.offset = memory == target::Memory::sbuf ? core->sbuf.allocate(bytes, name) : core->psum.allocate(bytes, name);
  tile.buffer = core->recorder.add({.memory = memory,
                                    .dtype = tile.view.dtype,
                                    .name = name,
                                    .partitions = core->core.num_partitions,
                                    .elements_per_partition = elements});
  return tile.placed(partitions, 0, {{elements, 1}}, start_partition);
}

namespace {

// The tile's own type, or for floating types that numpy may lack the codes as unsigned integers.
void require_array_dtype(std::string_view where, const py::array& array, target::Dtype dtype) {
  const auto expected = target::name(dtype);
  const auto size = target::itemsize(dtype);
  const auto got = py::str(array.dtype()).cast<std::string>();  // ">f4" of another byte order
  const bool is_coded = !emu::is_integer(dtype) && dtype != target::Dtype::float32 && !target::is_complex(dtype);
  const bool is_codes = is_coded && array.dtype().kind() == 'u' && array.itemsize() == size && got.starts_with("uint");
  if (got != expected && !is_codes) {
    throw Error(Category::invalid_argument,
                "[" + std::string(where) + "] an array has the tile's dtype; got " + got + ", the tile is " +
                    std::string(expected) + ". Convert it" +
                    (is_coded ? ", or pass the codes as uint" + std::to_string(8 * size) : "") + ".");
  }
}

// As many elements as the tile, and its partitions as leading dimensions; flat arrays have none.
void require_array_shape(std::string_view where, const py::array& array, const Tile& tile) {
  py::ssize_t rows = 1;
  bool has_rows = array.ndim() <= 1 || tile.view.partitions == 1;
  for (py::ssize_t d = 0; d < array.ndim() && !has_rows; ++d) {
    rows *= array.shape(d);
    has_rows = rows == tile.view.partitions;
  }
  if (array.size() == tile.view.elements() && has_rows) {
    return;
  }
  throw Error(Category::invalid_argument,
              "[" + std::string(where) + "] an array has the tile's partitions as rows, and its elements; got shape " +
                  py::str(array.attr("shape")).cast<std::string>() + ", the tile is (" +
                  std::to_string(tile.view.partitions) + ", " + std::to_string(tile.view.free_elements()) +
                  "). Reshape or slice it.");
}

// Integers that the dtype holds; Python compares exactly, and NaN with nothing.
void require_values_fit(const py::array& values, target::Dtype dtype) {
  if (!emu::is_integer(dtype) || dtype == target::Dtype::boolean || values.size() == 0) {
    return;
  }
  const auto bits = 8 * target::itemsize(dtype);
  const bool is_unsigned = target::name(dtype).starts_with("u");
  // Values pass through int64.
  const std::int64_t most =
      bits == 64 ? std::numeric_limits<std::int64_t>::max() : (std::int64_t{1} << (is_unsigned ? bits : bits - 1)) - 1;
  const std::int64_t least = is_unsigned ? 0 : -most - 1;
  for (const char* end : {"min", "max"}) {
    const py::object value = values.attr(end)();
    if (!(value >= py::int_(least)) || !(value <= py::int_(most))) {
      throw Error(Category::invalid_argument, "[tile] values fit the tile's dtype; got " +
                                                  py::str(value).cast<std::string>() + ", limit " +
                                                  std::to_string(least) + " to " + std::to_string(most) + " of " +
                                                  std::string(target::name(dtype)) + ". Use a wider tile.");
    }
  }
}

// What owns an array's bytes, and where they begin.
py::array owner(py::array array) {
  while (py::isinstance<py::array>(array.base())) {
    array = py::reinterpret_borrow<py::array>(array.base());
  }
  return array;
}

// Another array may get the address of one that is gone. Memory of others than numpy does not tell: it is kept.
void forget_with(const Core& core, const py::array& whole, std::pair<const void*, target::Dtype> key) {
  if (const py::object base = whole.base()) {
    core->logical->kept.push_back(base);
    return;
  }
  const std::weak_ptr<LogicalCore> weak = core->logical;
  py::weakref(whole, py::cpp_function([weak, key](py::handle reference) {
                if (const auto alive = weak.lock()) {
                  alive->tensors.erase(key);
                }
                reference.dec_ref();
              }))
      .release();
}

}  // namespace

void Tile::require_writable(std::string_view where) const {
  if (view.memory == target::Memory::hbm && !array.cast<py::array>().writeable()) {
    throw Error(Category::invalid_argument,
                "[" + std::string(where) + "] a result is written; got a read-only array." + " Copy it first.");
  }
}

program::Tile Tile::operand() const {
  program::Tile tile;
  tile.buffer = buffer;
  tile.partitions = view.partitions;
  tile.offset = start;
  if (view.memory == target::Memory::hbm) {
    tile.partition_stride = view.partition_bytes / target::itemsize(view.dtype);
  } else {
    tile.start_partition = view.start_partition;
  }
  for (const emu::Extent& extent : view.free) {
    tile.free.push_back({extent.size, extent.stride});
  }
  return tile;
}

Tile Tile::in_hbm(const Core& core, const py::array& array, const std::string& dtype) {
  Tile tile{.core = core, .array = array, .view = {}, .name = "array", .elements = array.size()};
  tile.view.memory = target::Memory::hbm;
  tile.view.dtype = target::dtype_from_name(dtype);
  const auto size = target::itemsize(tile.view.dtype);
  require_array_dtype("hbm", array, tile.view.dtype);
  if (array.ndim() < 1) {
    throw Error(Category::invalid_argument, "[hbm] an array has rows; got a number, limit 1 dimension. Reshape it.");
  }
  for (py::ssize_t d = 0; d < array.ndim(); ++d) {
    if (array.shape(d) > 1 && array.strides(d) % size != 0) {
      throw Error(Category::invalid_argument, "[hbm] strides are whole elements; got " +
                                                  std::to_string(array.strides(d)) + " bytes for elements of " +
                                                  std::to_string(size) + ". Copy the array.");
    }
  }
  tile.view.data = static_cast<std::byte*>(const_cast<void*>(array.data()));
  tile.view.partitions = array.shape(0);
  tile.view.partition_bytes = array.strides(0);
  for (py::ssize_t d = 1; d < array.ndim(); ++d) {
    tile.view.free.push_back({array.shape(d), array.strides(d) / size});
  }
  tile.place(array);
  return tile;
}

Tile Tile::fresh_hbm(const Core& core, const std::vector<py::ssize_t>& shape, const std::string& dtype) {
  const target::Dtype kind = target::dtype_from_name(dtype);
  if (std::ranges::any_of(shape, [](py::ssize_t size) { return size < 0; })) {
    throw Error(
        Category::invalid_argument,
        "[hbm] sizes are not negative; got " + std::to_string(std::ranges::min(shape)) + ", limit 0. Check the shape.");
  }
  std::int64_t bytes = target::itemsize(kind);
  for (const py::ssize_t size : shape) {
    bytes = emu::bounded_product(bytes, size);
  }
  core->logical->require_room(bytes);
  const bool has_numpy = emu::is_integer(kind) || kind == target::Dtype::float32 || kind == target::Dtype::float16;
  py::array array(py::dtype(has_numpy ? dtype : "u" + std::to_string(target::itemsize(kind))), shape);
  std::memset(array.mutable_data(), 0xFF, static_cast<std::size_t>(array.nbytes()));
  return in_hbm(core, array, dtype);
}

Tile Tile::rows(std::string_view where, const py::array& array, const Tile& like) {
  require_array_dtype(where, array, like.view.dtype);
  require_array_shape(where, array, like);
  if ((array.flags() & py::array::c_style) == 0) {
    throw Error(Category::invalid_argument,
                "[" + std::string(where) + "] the array is dense and in C order; got another one. Copy it first.");
  }
  const std::int64_t columns = like.view.free_elements();
  const emu::HbmTensor tensor{const_cast<void*>(array.data()),
                              static_cast<std::int64_t>(array.nbytes()) / target::itemsize(like.view.dtype),
                              like.view.dtype};
  Tile tile{.core = like.core, .array = array, .view = {}, .name = "array", .elements = array.size()};
  tile.view = tensor.view(like.view.partitions, columns, 0, {{columns, 1}}, "array");
  tile.place(array);
  return tile;
}

void Tile::place(const py::array& in) {
  const py::array whole = owner(in);
  const std::int64_t size = target::itemsize(view.dtype);
  const std::pair<const void*, target::Dtype> key{whole.data(), view.dtype};
  auto& tensors = core->logical->tensors;
  const auto other = tensors.lower_bound({whole.data(), target::Dtype{}});
  const bool is_shared = other != tensors.end() && other->first.first == key.first;
  const std::int16_t owner = is_shared ? core->recorder.program().owner(other->second) : std::int16_t{-1};
  if (!is_shared) {
    core->logical->require_room(static_cast<std::int64_t>(whole.nbytes()));
  }
  const auto [found, is_new] = tensors.try_emplace(key, std::int16_t{-1});
  if (is_new) {
    found->second = core->recorder.add({.memory = target::Memory::hbm,
                                        .dtype = view.dtype,
                                        .name = name,
                                        .elements = static_cast<std::int64_t>(whole.nbytes()) / size,
                                        .shares_with = owner});
    forget_with(core, whole, key);
  }
  buffer = found->second;
  start = (view.data - static_cast<const std::byte*>(whole.data())) / size;
}

Tile Tile::part(std::int64_t partitions, std::int64_t start, std::int64_t size, std::int64_t start_partition) const {
  return pattern(partitions, start, {{1, size}}, start_partition);
}

Tile Tile::pattern(std::int64_t partitions, std::int64_t start, const Pattern& free,
                   std::int64_t start_partition) const {
  if (view.memory == target::Memory::hbm) {
    throw Error(Category::invalid_argument,
                "[tile] parts are taken on the chip; got hbm. Slice the array, and pass hbm(array[...]).");
  }
  const emu::Extents dims = extents(free);
  const emu::Reach own = emu::reach(view.free);
  const std::string_view where = target::name(view.memory);
  emu::require_partitions_within(where, start_partition, partitions, view.partitions);
  emu::require_within(where, emu::tile_called(name), "its buffer", partitions, dims, start - own.lowest,
                      own.highest - own.lowest + 1);
  return placed(partitions, this->start + start, dims, view.start_partition + start_partition);
}

Tile Tile::placed(std::int64_t partitions, std::int64_t start, const emu::Extents& free,
                  std::int64_t start_partition) const {
  Tile tile = *this;
  auto part_of = [&](auto& memory) {
    return memory.view(offset, elements, view.dtype, partitions, start, free, name, start_partition);
  };
  tile.view = view.memory == target::Memory::sbuf ? part_of(core->sbuf) : part_of(core->psum);
  tile.start = start;
  return tile;
}

py::array Tile::read() const {
  core->recorder.settle({.opcode = target::Opcode::dma_copy, .src = {operand()}, .core = core->rank}, "tile");
  emu::Lanes lanes;
  const std::vector<std::int64_t> shape = {view.partitions, view.free_elements()};
  if (emu::is_integer(view.dtype)) {
    py::array_t<std::int64_t> values(shape);
    for (std::int64_t p = 0; p < view.partitions; ++p) {
      lanes.read_row(view, p, values.mutable_data(p, 0));
    }
    return values;
  }
  py::array_t<float> values(shape);
  for (std::int64_t p = 0; p < view.partitions; ++p) {
    lanes.read_row(view, p, values.mutable_data(p, 0));
  }
  return values;
}

void Tile::write(const py::array& values) const {
  require_writable("tile");
  require_array_shape("tile", values, *this);
  require_values_fit(values, view.dtype);
  core->recorder.settle({.opcode = target::Opcode::dma_copy, .dst = operand(), .core = core->rank}, "tile");
  emu::Lanes lanes;
  const std::int64_t n = view.free_elements();
  auto store = [&](auto typed) {
    for (std::int64_t p = 0; p < view.partitions; ++p) {
      lanes.write_row(view, p, typed.mutable_data() + p * n);
    }
  };
  if (emu::is_integer(view.dtype)) {
    store(py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>(py::array(values.attr("copy")())));
  } else {
    store(py::array_t<float, py::array::c_style | py::array::forcecast>(py::array(values.attr("copy")())));
  }
  emu::mark_written(view);
}

void bind_tile(py::module_& module) {
  py::class_<Tile>(module, "Tile")
      .def_property_readonly("dtype", [](const Tile& tile) { return std::string(target::name(tile.view.dtype)); })
      .def_property_readonly("memory", [](const Tile& tile) { return std::string(target::name(tile.view.memory)); })
      .def_property_readonly("shape",
                             [](const Tile& tile) {
                               std::vector<std::int64_t> shape = {tile.view.partitions};
                               for (const emu::Extent& extent : tile.view.free) {
                                 shape.push_back(extent.size);
                               }
                               return py::tuple(py::cast(shape));
                             })
      .def_property_readonly("array", [](const Tile& tile) { return tile.array ? tile.array : py::none(); })
      .def("part", &Tile::part, py::arg("partitions"), py::arg("start"), py::arg("size"),
           py::arg("start_partition") = 0,
           "`size` elements from `start` on of each of `partitions` partitions of this tile.")
      .def("pattern", &Tile::pattern, py::arg("partitions"), py::arg("start"), py::arg("pattern"),
           py::arg("start_partition") = 0,
           "Elements of this tile from `start` on, by [step, num] pairs, outermost first.")
      .def("read", &Tile::read, "Values as float32, int64 of integers; no instruction.")
      .def("write", &Tile::write, py::arg("values"), "Sets values, rounded to nearest even; no instruction.");
}

}  // namespace trn::bindings
