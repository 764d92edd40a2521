// Pointwise functions of operands that repeat along any of their axes.
//
// A tile of such an operand holds each of its elements once, and engines read them through strides of 0. It is loaded
// where the loops that it depends on are open, so
//   HBM bytes read = sum over inputs of elements * size * trips of the loops outside, over axes that it repeats along
// The loops over axes along which most repeats are the innermost.
#include "kernels/pointwise_broadcast.h"

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/box_tiles.h"
#include "target/error.h"

namespace trn::kernels {

using box_tiles::BoxTile;
using box_tiles::BoxTiles;
using tiling::Builder;
using tiling::on_chip_tile;
using tiling::Tile;

namespace {

class BroadcastEmitter {
 public:
  BroadcastEmitter(const target::Target& target, const PointwiseShape& shape)
      : shape_(shape), tiles_(target, shape.axes, free_elements(target, shape), smallest_itemsize(shape)) {
    for (std::size_t i = 0; i < shape.inputs.size(); ++i) {
      inputs_.push_back(declare(shape.inputs[i], "in_" + std::to_string(i), shape.repeats[i], false));
    }
    for (std::size_t i = 0; i < shape.outputs.size(); ++i) {
      outputs_.push_back(declare(shape.outputs[i], "out_" + std::to_string(i), 0, true));
    }
    order_loops();
    const std::int64_t partitions = target.core.num_partitions;
    for (Operand* operand : operands()) {
      operand->level = load_level(*operand);
      operand->sbuf =
          builder_.sbuf(builder_.name(operand->hbm) + "_tile", tiling::sbuf_dtype(operand->access.dtype), partitions,
                        tiles_.loaded_elements(tiles_.extents(), operand->strides), operand->level == kOnce ? 1 : 2);
    }
    const BoxTile largest{.partitions = 1, .extents = tiles_.extents(), .at = {}};
    for (std::int64_t t = 0; t < tiling::num_temporaries(shape.steps); ++t) {
      const std::string name = t == 0 ? "value" : "value" + std::to_string(t);
      scratch_.push_back(builder_.sbuf(name, Dtype::float32, partitions, largest.free_elements(), 1));
    }
  }

  program::Program emit() {
    for (const Operand& input : inputs_) {
      if (input.level == kOnce && !tiles_.order().empty()) {
        builder_.nest("broadcast_" + builder_.name(input.hbm));
        BoxTile whole{.partitions = 1, .extents = tiles_.extents(), .at = std::vector<tiling::Index>(axes())};
        whole.partitions = tiles_.most_partitions();
        load(input, whole);
      }
    }
    tiles_.walk(
        builder_, [&](std::size_t level, const BoxTile& tile) { load_at(static_cast<std::int64_t>(level), tile); },
        [&](const BoxTile& tile) { compute(tile); });
    return builder_.take();
  }

 private:
  static constexpr std::int64_t kOnce = -1;

  struct Operand {
    Access access;
    std::vector<std::int64_t> strides;  // along the axes, 0 where it repeats
    std::int16_t hbm = -1, sbuf = -1;
    std::int64_t level = kOnce;  // the innermost loop that it depends on
  };

  std::size_t axes() const { return shape_.axes.size(); }

  static std::int64_t smallest_itemsize(const PointwiseShape& shape) {
    std::int64_t smallest = 8;
    for (const auto* list : {&shape.inputs, &shape.outputs}) {
      for (const Access& access : *list) {
        smallest = std::min(smallest, target::itemsize(tiling::sbuf_dtype(access.dtype)));
      }
    }
    return smallest;
  }

  static std::int64_t free_elements(const target::Target& target, const PointwiseShape& shape) {
    std::int64_t bytes = 4 * tiling::num_temporaries(shape.steps);
    for (const auto* list : {&shape.inputs, &shape.outputs}) {
      for (const Access& access : *list) {
        bytes += 2 * target::itemsize(tiling::sbuf_dtype(access.dtype));
      }
    }
    return tiling::stream_free_elements(target, shape.elements, smallest_itemsize(shape), bytes);
  }

  Operand declare(const Access& access, const std::string& name, std::int64_t repeats, bool is_output) {
    Operand operand{.access = access, .strides = std::vector<std::int64_t>(axes())};
    std::int64_t stride = 1;
    for (std::size_t axis = axes(); axis-- > 0;) {
      const bool is_repeated = (repeats >> axis & 1) != 0;
      operand.strides[axis] = is_repeated ? 0 : stride;
      stride *= is_repeated ? 1 : shape_.axes[axis];
    }
    operand.hbm = builder_.hbm(name, access, is_output);
    return operand;
  }

  std::vector<Operand*> operands() {
    std::vector<Operand*> all;
    for (auto* list : {&inputs_, &outputs_}) {
      for (Operand& operand : *list) {
        all.push_back(&operand);
      }
    }
    return all;
  }

  // What a trip would load again.
  void order_loops() {
    std::vector<std::int64_t> weights(axes());
    for (const Operand& input : inputs_) {
      const std::int64_t bytes = tiles_.loaded_elements(tiles_.extents(), input.strides) *
                                 target::itemsize(input.access.dtype) *
                                 (input.strides[tiles_.partition_axis()] == 0 ? 1 : tiles_.most_partitions());
      for (std::size_t axis = 0; axis < axes(); ++axis) {
        weights[axis] += input.strides[axis] == 0 ? bytes : 0;
      }
    }
    tiles_.order_by(weights);
  }

  std::int64_t load_level(const Operand& operand) const {
    for (std::size_t level = tiles_.order().size(); level-- > 0;) {
      if (operand.strides[tiles_.order()[level]] != 0) {
        return static_cast<std::int64_t>(level);
      }
    }
    return kOnce;
  }

  void load(const Operand& input, const BoxTile& tile) {
    const Tile from = tiles_.hbm(input.hbm, tile, input.strides);
    builder_.dma(on_chip_tile(input.sbuf, from.partitions, tiles_.loaded_elements(tile.extents, input.strides)), from);
  }

  void load_at(std::int64_t level, const BoxTile& tile) {
    for (const Operand& input : inputs_) {
      if (input.level == level) {
        load(input, tile);
      }
    }
  }

  void compute(const BoxTile& tile) {
    if (tiles_.order().empty()) {
      load_at(kOnce, tile);
    }
    std::vector<Tile> inputs, outputs, scratch;
    for (const Operand& input : inputs_) {
      inputs.push_back(tiles_.on_chip(input.sbuf, tile, input.strides));
    }
    for (const Operand& output : outputs_) {
      outputs.push_back(tiles_.on_chip(output.sbuf, tile, output.strides));
    }
    for (const std::int16_t buffer : scratch_) {
      scratch.push_back(on_chip_tile(buffer, tile.partitions, tile.free_elements()));
    }
    tiling::apply_steps(builder_, shape_.steps, inputs, outputs, scratch,
                        tiles_.hbm(-1, tile, outputs_.front().strides));
    for (const Operand& output : outputs_) {
      builder_.dma(tiles_.hbm(output.hbm, tile, output.strides),
                   on_chip_tile(output.sbuf, tile.partitions, tile.free_elements()));
    }
  }

  const PointwiseShape& shape_;
  BoxTiles tiles_;
  Builder builder_{"pointwise"};
  std::vector<Operand> inputs_, outputs_;
  std::vector<std::int16_t> scratch_;
};

[[noreturn]] void refuse(const std::string& rule, std::int64_t got, std::int64_t limit) {
  throw Error(Category::invalid_argument, "[pointwise] " + rule + "; got " + std::to_string(got) + ", limit " +
                                              std::to_string(limit) + ". Leave axes empty, or name all of them.");
}

}  // namespace

void check_axes(const PointwiseShape& shape) {
  constexpr std::size_t kMostAxes = 32;
  if (shape.axes.size() > kMostAxes) {
    refuse("the iteration space has few axes", static_cast<std::int64_t>(shape.axes.size()), kMostAxes);
  }
  auto elements_along = [&](std::int64_t repeats) {
    std::int64_t elements = 1;
    for (std::size_t axis = 0; axis < shape.axes.size(); ++axis) {
      elements *= (repeats >> axis & 1) != 0 ? 1 : shape.axes[axis];
    }
    return elements;
  };
  if (elements_along(0) != shape.elements || shape.elements == 0) {
    refuse("axes hold the iteration space", elements_along(0), shape.elements);
  }
  if (shape.repeats.size() != shape.inputs.size()) {
    refuse("each input says where it repeats", static_cast<std::int64_t>(shape.repeats.size()),
           static_cast<std::int64_t>(shape.inputs.size()));
  }
  for (std::size_t i = 0; i < shape.inputs.size(); ++i) {
    if (shape.inputs[i].elements != elements_along(shape.repeats[i])) {
      refuse("an input has the elements of the axes that it does not repeat along", shape.inputs[i].elements,
             elements_along(shape.repeats[i]));
    }
  }
  if (shape.outputs.empty()) {
    refuse("a function has results", 0, 1);
  }
  for (const Access& output : shape.outputs) {
    if (output.elements != shape.elements) {
      refuse("a result has every element of the iteration space", output.elements, shape.elements);
    }
  }
}

program::Program pointwise_broadcast(const target::Target& target, const PointwiseShape& shape) {
  check_axes(shape);
  return BroadcastEmitter(target, shape).emit();
}

}  // namespace trn::kernels
