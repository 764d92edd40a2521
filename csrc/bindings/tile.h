// A tile of a NeuronCore's memories as Python holds it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "emu/neuron_core.h"
#include "program/program.h"

namespace trn::bindings {

class RecordedCore;
using Core = std::shared_ptr<RecordedCore>;
// nki's access pattern: [step, num] pairs, outermost first.
using Pattern = std::vector<std::pair<std::int64_t, std::int64_t>>;

struct Tile {
  Core core;
  pybind11::object array;  // HBM: what owns the bytes
  emu::View view;
  std::string name;
  std::int64_t offset = 0, elements = 0;
  std::int16_t buffer = -1;  // of the recorded program
  std::int64_t start = 0;    // element of the buffer's row; in HBM of the buffer

  // The same tile as an operand of the recorded program.
  program::Tile operand() const;

  static Tile allocate(const Core& core, target::Memory memory, const std::string& dtype, std::int64_t partitions,
                       std::int64_t elements, const std::string& name, std::int64_t start_partition);
  // An array's rows as partitions, its other dimensions as free ones.
  static Tile in_hbm(const Core& core, const pybind11::array& array, const std::string& dtype);

  // The same over new memory, which reads as NaN.
  static Tile fresh_hbm(const Core& core, const std::vector<pybind11::ssize_t>& shape, const std::string& dtype);

  // A dense array of another tile's dtype and elements as its rows; `where` is for errors.
  static Tile rows(std::string_view where, const pybind11::array& array, const Tile& like);

  // Of this tile: [partitions, size] from its element `start` of its partition `start_partition` on.
  Tile part(std::int64_t partitions, std::int64_t start, std::int64_t size, std::int64_t start_partition) const;
  Tile pattern(std::int64_t partitions, std::int64_t start, const Pattern& free, std::int64_t start_partition) const;
  // An Error where it lies in an array that must not be written.
  void require_writable(std::string_view where) const;
  // Values as float32, or as int64 of integers; shape [partitions, elements].
  pybind11::array read() const;
  void write(const pybind11::array& values) const;

 private:
  // The same of the whole allocation.
  Tile placed(std::int64_t partitions, std::int64_t start, const emu::Extents& free,
              std::int64_t start_partition) const;
  // Finds the recorded program's tensor that holds the view.
  void place(const pybind11::array& in);
};

emu::Extents extents(const Pattern& pattern);

// A number or a tile of one element per partition.
using Operand = std::variant<double, Tile>;
inline emu::ScalarOperand scalar(const Operand& operand) {
  if (const auto* tile = std::get_if<Tile>(&operand)) {
    return tile->view;
  }
  return std::get<double>(operand);
}
inline const emu::View* view_of(const std::optional<Tile>& tile) {
  return tile ? &tile->view : nullptr;
}

void bind_tile(pybind11::module_& module);

}  // namespace trn::bindings
