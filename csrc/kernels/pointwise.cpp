// Pointwise functions: every operand streams through SBUF once, and the steps run on each tile.
//
//   HBM bytes read    = sum of elements * size over the inputs     (a broadcast input counts its distinct elements)
//   HBM bytes written = sum of elements * size over the outputs
#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/pointwise_broadcast.h"
#include "kernels/tiling.h"
#include "program/opcode.h"
#include "target/error.h"

namespace trn::kernels {
namespace {

using tiling::Builder;
using tiling::Dim;
using tiling::hbm_tile;
using tiling::Index;
using tiling::on_chip_tile;
using tiling::Opcode;
using tiling::StreamTile;
using tiling::Tile;

// The longest period of a broadcast input, 1 if nothing but scalars is broadcast.
std::int64_t longest_period(const PointwiseShape& shape) {
  std::int64_t period = 1;
  for (const Access& input : shape.inputs) {
    if (input.elements < shape.elements && input.elements > 0 && shape.elements % input.elements == 0) {
      period = std::max(period, input.elements);
    }
  }
  return shape.segments > 1 ? 1 : period;
}

// How an operand follows the iteration space.
enum class Reach {
  dense,      // one element each
  periodic,   // element i % n
  unrelated,  // any other count: its bytes move in a nest of their own
};

struct Operand {
  Access access;
  Reach reach = Reach::dense;
  tiling::Spacing spacing = {};
  std::int16_t hbm = -1, sbuf = -1;
};

class Emitter {
 public:
  Emitter(const target::Target& target, const PointwiseShape& shape)
      : target_(target), shape_(shape), partitions_(target.core.num_partitions), builder_("pointwise") {
    period_ = longest_period(shape);
    unit_ = spaced_unit();
    for (const Access& access : shape.inputs) {
      inputs_.push_back(declare_hbm(access, "in_" + std::to_string(inputs_.size()), false));
    }
    for (const Access& access : shape.outputs) {
      outputs_.push_back(declare_hbm(access, "out_" + std::to_string(outputs_.size()), true));
    }
    choose_layout();
    for (Operand& input : inputs_) {
      input.sbuf = declare_sbuf(input);
    }
    for (Operand& output : outputs_) {
      output.sbuf = declare_sbuf(output);
    }
    for (std::int64_t t = 0; t < tiling::num_temporaries(shape.steps); ++t) {
      const std::string name = t == 0 ? "value" : "value" + std::to_string(t);
      scratch_.push_back(builder_.sbuf(name, Dtype::float32, partitions_, free_, 1));
    }
  }

  program::Program emit() {
    for (const Operand& input : inputs_) {
      load_once(input);
    }
    if (shape_.elements > 0) {
      switch (layout_) {
        case Layout::flat:
          stream_rows();
          break;
        case Layout::rows_on_partitions:
          columns_outside();
          break;
        case Layout::period_on_partitions:
          period_outside();
          break;
      }
    }
    for (const Operand& output : outputs_) {
      store_once(output);
    }
    return builder_.take();
  }

 private:
  // flat: a partition holds consecutive elements, whole periods where there is one.
  // rows_on_partitions: a partition holds part of a period; each part of the broadcast operand is loaded once.
  // period_on_partitions: a period lies across partitions, and all its repetitions meet the same tile of it.
  enum class Layout { flat, rows_on_partitions, period_on_partitions };

  Operand declare_hbm(const Access& access, const std::string& name, bool is_output) {
    Operand operand{.access = access};
    const bool is_repeated = !is_output && access.elements > 0 && access.elements < shape_.elements;
    if (access.elements == shape_.elements) {
      operand.reach = Reach::dense;
    } else if (is_repeated && (access.elements == 1 || (period_ % access.elements == 0))) {
      operand.reach = Reach::periodic;
    } else {
      operand.reach = Reach::unrelated;
    }
    if (unit_ > 0 && operand.reach == Reach::dense) {
      operand.spacing = tiling::spacing(target_, access, is_output);
    }
    operand.hbm = builder_.hbm(name, access, operand.spacing, is_output);
    return operand;
  }

  // What a flat tile of spaced operands is a multiple of: whole periods and whole runs. 0: no operand is spaced, or one
  // such unit is too large for a partition, so that every run is a descriptor.
  std::int64_t spaced_unit() const {
    std::int64_t unit = period_, bytes = 4 * tiling::num_temporaries(shape_.steps);
    bool is_spaced = false;
    for (const auto* list : {&shape_.inputs, &shape_.outputs}) {
      for (const Access& access : *list) {
        const auto spacing = tiling::spacing(target_, access, list == &shape_.outputs);
        const bool moves_span = spacing.moves_span && access.elements == shape_.elements;
        is_spaced = is_spaced || moves_span;
        unit = std::lcm(unit, moves_span ? spacing.run : 1);
        bytes += 2 * (moves_span ? tiling::ceil_div(spacing.pitch, spacing.run) : 1) * target::itemsize(access.dtype);
      }
    }
    const bool fits = unit <= target_.core.sbuf_bytes_per_partition / bytes && shape_.elements % unit == 0;
    return is_spaced && fits && shape_.segments <= 1 ? unit : 0;
  }

  void choose_layout() {
    std::int64_t smallest = 8, bytes = 4 * tiling::num_temporaries(shape_.steps);
    for (const auto* list : {&inputs_, &outputs_}) {
      for (const Operand& operand : *list) {
        const std::int64_t size = target::itemsize(tiling::sbuf_dtype(operand.access.dtype));
        smallest = std::min(smallest, size);
        bytes += 2 * tiling::ceil_div(operand.spacing.pitch, operand.spacing.run) * size;
      }
    }
    const std::int64_t per_segment = shape_.elements / std::max<std::int64_t>(shape_.segments, 1);
    free_ = tiling::stream_free_elements(target_, std::max<std::int64_t>(per_segment, 1), smallest, bytes);
    if (unit_ > 0 || period_ <= free_) {
      unit_ = std::max(unit_, period_);
      layout_ = Layout::flat;
      free_ = std::max<std::int64_t>(free_ / unit_, 1) * unit_;
      return;
    }
    for (Operand& input : inputs_) {  // these layouts take one period
      if (input.reach == Reach::periodic && input.access.elements != 1 && input.access.elements != period_) {
        input.reach = Reach::unrelated;
      }
    }
    layout_ = shape_.elements / period_ >= partitions_ ? Layout::rows_on_partitions : Layout::period_on_partitions;
  }

  std::int16_t declare_sbuf(const Operand& operand) {
    const bool resident = is_resident(operand);
    return builder_.sbuf(builder_.name(operand.hbm) + "_tile", tiling::sbuf_dtype(operand.access.dtype), partitions_,
                         resident ? operand.access.elements : operand.spacing.span(free_), resident ? 1 : 2);
  }

  bool is_resident(const Operand& operand) const {
    return operand.reach == Reach::periodic && (operand.access.elements == 1 || layout_ == Layout::flat);
  }

  // Short broadcast operands stay in SBUF, one copy in each partition. Unrelated ones pass through.
  void load_once(const Operand& input) {
    const std::int64_t n = input.access.elements;
    if (is_resident(input)) {
      builder_.nest("broadcast_" + builder_.name(input.hbm));
      builder_.dma(on_chip_tile(input.sbuf, partitions_, n), hbm_tile(input.hbm, partitions_, 0, {{n, 1}}));
    } else if (input.reach == Reach::unrelated && n > 0) {
      tiling::stream(
          builder_, target_, n, free_,
          [&](const StreamTile& tile) {
            builder_.dma(on_chip_tile(input.sbuf, tile.partitions, tile.free), tile.hbm(input.hbm));
          },
          1, builder_.name(input.hbm) + "_");
    }
  }

  void store_once(const Operand& output) {
    if (output.reach == Reach::dense || output.access.elements == 0) {
      return;
    }
    tiling::stream(
        builder_, target_, output.access.elements, free_,
        [&](const StreamTile& tile) {
          builder_.dma(tile.hbm(output.hbm), on_chip_tile(output.sbuf, tile.partitions, tile.free));
        },
        1, builder_.name(output.hbm) + "_");
  }

  // One tile of [partitions, free] elements; address(operand) is its place in a dense HBM operand, and `repeated` the
  // view of a periodic one.
  template <class Address, class View>
  void tile(std::int64_t partitions, std::int64_t free, Address address, View repeated, const Tile& position) {
    std::vector<Tile> inputs, outputs;
    for (const Operand& input : inputs_) {
      if (input.reach == Reach::dense) {
        inputs.push_back(input.spacing.picked(input.sbuf, {partitions, free}));
        builder_.dma(input.spacing.loaded(input.sbuf, {partitions, free}), address(input));
      } else if (input.reach == Reach::periodic && input.access.elements != 1) {
        inputs.push_back(repeated(input));
      } else {
        inputs.push_back(on_chip_tile(input.sbuf, partitions, std::vector<Dim>{{free, 0}}));
      }
    }
    for (const Operand& output : outputs_) {
      outputs.push_back(output.spacing.picked(output.sbuf, {partitions, free}));
      if (output.spacing.has_gaps()) {
        builder_.dma(output.spacing.loaded(output.sbuf, {partitions, free}), address(output));
      }
    }
    std::vector<Tile> scratch;
    for (const std::int16_t buffer : scratch_) {
      scratch.push_back(on_chip_tile(buffer, partitions, free));
    }
    tiling::apply_steps(builder_, shape_.steps, inputs, outputs, scratch, position);
    for (const Operand& output : outputs_) {
      if (output.reach == Reach::dense) {
        builder_.dma(address(output), output.spacing.loaded(output.sbuf, {partitions, free}));
      }
    }
  }

  void stream_rows() {
    const std::int64_t segments = std::max<std::int64_t>(shape_.segments, 1);
    const std::int64_t rows = shape_.elements / unit_ / segments;
    const std::int64_t left_over = shape_.elements - rows * unit_ * segments;
    auto body = [&](std::int64_t start) {
      return [this, start](const StreamTile& at) {
        const StreamTile elements{at.partitions, at.free * unit_, at.first * unit_ + start};
        tile(
            at.partitions, elements.free,
            [&](const Operand& operand) { return operand.spacing.hbm(operand.hbm, elements); },
            [&](const Operand& operand) {
              const std::int64_t n = operand.access.elements;
              return on_chip_tile(operand.sbuf, at.partitions, std::vector<Dim>{{elements.free / n, 0}, {n, 1}});
            },
            elements.position());
      };
    };
    tiling::stream(builder_, target_, rows, free_ / unit_, body(0), segments);
    if (left_over > 0) {
      tiling::stream(builder_, target_, left_over, free_, body(shape_.elements - left_over), 1, "left_over_");
    }
  }

  void columns_outside() {
    const std::int64_t rows = shape_.elements / period_;
    for (const tiling::Segment& columns : tiling::split(period_, free_)) {
      builder_.nest(columns.start == 0 ? "body" : "edge");
      builder_.parallel_loop(columns.trips, [&](const Index& i) {
        const Index column = i * columns.size + columns.start;
        for (const Operand& input : inputs_) {
          if (input.reach == Reach::periodic && input.access.elements != 1) {
            builder_.dma(on_chip_tile(input.sbuf, partitions_, columns.size),
                         hbm_tile(input.hbm, partitions_, 0, {{columns.size, 1}}, column));
          }
        }
        builder_.tiles(
            rows, partitions_,
            [&](const Index& row, std::int64_t count) {
              tile(
                  count, columns.size,
                  [&](const Operand& operand) {
                    return hbm_tile(operand.hbm, count, period_, {{columns.size, 1}}, row * period_ + column);
                  },
                  [&](const Operand& operand) { return on_chip_tile(operand.sbuf, count, columns.size); },
                  hbm_tile(-1, count, period_, {{columns.size, 1}}, row * period_ + column));
            },
            true);
      });
    }
  }

  void period_outside() {
    const std::int64_t rows = shape_.elements / period_;
    tiling::stream(builder_, target_, period_, free_, [&](const StreamTile& at) {
      for (const Operand& input : inputs_) {
        if (input.reach == Reach::periodic && input.access.elements != 1) {
          builder_.dma(on_chip_tile(input.sbuf, at.partitions, at.free), at.hbm(input.hbm));
        }
      }
      builder_.parallel_loop(rows, [&](const Index& row) {
        const StreamTile elements{at.partitions, at.free, at.first + row * period_};
        tile(
            at.partitions, at.free, [&](const Operand& operand) { return elements.hbm(operand.hbm); },
            [&](const Operand& operand) { return on_chip_tile(operand.sbuf, at.partitions, at.free); },
            elements.position());
      });
    });
  }

  const target::Target& target_;
  const PointwiseShape& shape_;
  const std::int64_t partitions_;
  Builder builder_;
  std::vector<Operand> inputs_, outputs_;
  Layout layout_ = Layout::flat;
  std::int64_t period_ = 1, unit_ = 1, free_ = 1;
  std::vector<std::int16_t> scratch_;
};

bool executes(Opcode opcode) {
  switch (opcode) {
    case Opcode::tensor_tensor:
    case Opcode::scalar_tensor_tensor:
    case Opcode::tensor_scalar:
    case Opcode::activation:
    case Opcode::reciprocal:
    case Opcode::tensor_copy:
    case Opcode::select:
    case Opcode::tensor_copy_predicated:
    case Opcode::memset:
    case Opcode::iota:
    case Opcode::rng:
      return true;
    default:
      return false;
  }
}

[[noreturn]] void refuse(const std::string& rule, const std::string& got) {
  throw Error(Category::unimplemented, "[pointwise] " + rule + "; got " + got + ". Use reference numerics for it.");
}

}  // namespace

program::Program pointwise(const target::Target& target, const PointwiseShape& shape) {
  return shape.axes.empty() ? Emitter(target, shape).emit() : pointwise_broadcast(target, shape);
}

void require_executable(const std::vector<Step>& steps) {
  for (const Step& step : steps) {
    if (!executes(step.opcode)) {
      refuse("this step is counted, not executed", std::string(program::name(step.opcode)));
    }
  }
}

void require_executable(const PointwiseShape& shape) {
  require_executable(shape.steps);
  const std::int64_t period = longest_period(shape);
  for (const auto* list : {&shape.inputs, &shape.outputs}) {
    for (const Access& access : *list) {
      const bool is_output = list == &shape.outputs;
      if (is_complex(access.dtype)) {
        refuse("complex elements are counted, not executed", std::string(target::name(access.dtype)));
      }
      const bool repeats = !is_output && (access.elements == 1 || access.elements == period || !shape.axes.empty());
      if (access.elements != shape.elements && !repeats) {
        refuse("an operand has every element of the iteration space, one element, or one period of it",
               std::to_string(access.elements) + " of " + std::to_string(shape.elements));
      }
    }
  }
}

}  // namespace trn::kernels
