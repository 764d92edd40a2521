// Cumulative operators: tensor_tensor_scan along the free axis, rows on partitions, long rows in chunks with a carry.
#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/spread_rows.h"
#include "program/count.h"
#include "target/error.h"

namespace trn::kernels {

using namespace tiling;

namespace {

// A running value v from `initial`: alu1(alu0(data0, v), data1), where one of the two is the input and the other
// `constant`; of a maximum or minimum both are the input.
struct Recurrence {
  Alu alu0 = Alu::maximum, alu1 = Alu::maximum;
  float initial = 0, constant = 0;

  explicit Recurrence(Alu alu) : alu0(alu), alu1(alu) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    if (alu == Alu::add) {
      alu0 = Alu::multiply;
      constant = 1;
    } else if (alu == Alu::multiply) {
      alu1 = Alu::add;
      initial = 1;
      constant = -0.0F;  // leaves the sign of a zero
    } else {
      initial = alu == Alu::maximum ? -kInfinity : kInfinity;
    }
  }
  bool has_constant() const { return alu0 != alu1; }
};

// The next elements of the running values of `in`; they begin with the carry, or where there is none at `initial`.
void emit_scan(Builder& builder, Alu alu, const Tile& out, const Tile& in, const Tile& constants,
               const std::optional<Tile>& carry) {
  const Recurrence recurrence(alu);
  const bool adds = alu == Alu::add;
  const Tile& other = recurrence.has_constant() ? constants : in;
  Instruction scan{.opcode = Opcode::tensor_tensor_scan,
                   .dst = out,
                   .src = {adds ? other : in, adds ? in : other},
                   .alu0 = recurrence.alu0,
                   .alu1 = recurrence.alu1,
                   .scalar0 = recurrence.initial};
  if (carry) {
    scan.src.push_back(*carry);
  }
  builder.emit(std::move(scan));
}

bool may_be_nan(Dtype dtype) {
  return dtype < Dtype::int8;  // the floating types come first
}

// Running values of a few long rows of floats, each over all partitions: of what a partition has, then, on one of them,
// of their last ones, which each partition takes from the one before. None if it is not that, or does not fit; nor of
// products, as those of a part may overflow where the row's do not.
std::optional<program::Program> spread_scan(const target::Target& target, const ScanShape& shape) {
  const std::int64_t elements = shape.rows * shape.cols;
  const auto is_whole = [&](const std::vector<Access>& operands) {
    return operands.size() == 1 && operands.front().elements == elements && is_real_float(operands.front().dtype);
  };
  if (shape.alu == Alu::multiply || !is_whole(shape.inputs) || !is_whole(shape.outputs) ||
      !rows::may_spread(target, shape.rows, shape.cols)) {
    return {};
  }
  const std::int64_t bytes = target::itemsize(sbuf_dtype(shape.inputs.front().dtype)) +
                             target::itemsize(sbuf_dtype(shape.outputs.front().dtype)) +
                             target::itemsize(Dtype::float32);
  rows::SpreadRows kernel(target, "scan", shape.rows, shape.cols,
                          {.element_bytes = bytes, .lines = 2 * target.core.num_partitions + 1});
  if (!kernel.fit()) {
    return {};
  }
  Builder& builder = kernel.builder;
  rows::RowTensor in = kernel.tensor("in0", shape.inputs.front());
  rows::RowTensor out = kernel.tensor("out0", shape.outputs.front(), true);
  kernel.give_tile(in);
  kernel.give_tile(out);
  const Recurrence recurrence(shape.alu);
  const std::int64_t partitions = kernel.partitions();
  const auto work = kernel.work("running", Dtype::float32), last = kernel.column("last"),
             carry = kernel.column("carry");
  const auto line = kernel.line("line", partitions), running = kernel.line("running_line", partitions + 1);
  const auto constant = builder.sbuf("constant", Dtype::float32, partitions, 1, 1);
  builder.nest("constant");
  builder.memset(on_chip_tile(constant, partitions, 1), recurrence.constant);
  kernel.groups([&](const Index& row, std::int64_t count) {
    const auto scan = [&](const Tile& dst, const Tile& src) {
      const Tile constants = on_chip_tile(constant, src.partitions, std::vector<Dim>{{src.free_elements(), 0}});
      emit_scan(builder, shape.alu, dst, src, constants, {});
    };
    kernel.load(in, row, count, recurrence.initial);
    builder.loop(count, [&](const Index& r) { scan(kernel.row(work, r), kernel.row(in.tile, r)); });
    Tile ends = kernel.by_row(work, count);
    ends.offset += ends.free.back().size - 1;
    ends.free.pop_back();
    builder.tensor_copy(kernel.columns(last, count), ends);
    builder.dma(on_chip_tile(line, 1, partitions * count), kernel.columns(last, count));
    builder.memset(on_chip_tile(running, 1, count), recurrence.initial);
    builder.loop(count, [&](const Index& r) {
      const std::vector<Dim> lanes = {{partitions, count}};
      scan(on_chip_tile(running, 1, lanes, r + Index(count)), on_chip_tile(line, 1, lanes, r));
    });
    builder.dma(kernel.columns(carry, count), on_chip_tile(running, 1, partitions * count));
    builder.loop(count, [&](const Index& r) {
      rows::op(builder, Opcode::tensor_scalar, kernel.row(out.tile, r), {kernel.row(work, r), kernel.scalar(carry, r)},
               shape.alu);
    });
    kernel.store(out, row, count);
  });
  return builder.take();
}

[[noreturn]] void only_counts(const std::string& rule, const std::string& got) {
  throw Error(Category::unimplemented, "[scan] " + rule + " counted, not executed; got " + got + ".");
}

program::Program scan_rows(const target::Target& target, const ScanShape& shape) {
  const std::int64_t elements = shape.rows * shape.cols;
  rows::RowKernel kernel(target, "scan", shape.rows, shape.cols);
  Builder& builder = kernel.builder;

  // A tensor of another size (a broadcast input, a scalar result) streams on its own, before or after the rows.
  std::vector<rows::RowTensor> inputs, outputs;
  std::vector<std::int16_t> other_inputs, other_outputs;
  std::vector<Access> other_accesses;
  std::int64_t bytes_per_element = 0;
  std::int64_t smallest = 8;
  auto declare = [&](const Access& access, const std::string& name, bool is_output) {
    const std::int16_t hbm = builder.hbm(name, access, is_output);
    smallest = std::min(smallest, target::itemsize(access.dtype));
    bytes_per_element += 2 * target::itemsize(sbuf_dtype(access.dtype));
    if (access.elements == elements) {
      (is_output ? outputs : inputs).push_back({.hbm = hbm});
    } else {
      (is_output ? other_outputs : other_inputs).push_back(hbm);
      other_accesses.push_back(access);
    }
  };
  for (const Access& access : shape.inputs) {
    declare(access, "in" + std::to_string(inputs.size() + other_inputs.size()), false);
  }
  for (const Access& access : shape.outputs) {
    declare(access, "out" + std::to_string(outputs.size() + other_outputs.size()), true);
  }

  // cummax and cummin also return where each running value stands: a mask of new values, their positions, and a second
  // scan over these.
  const bool with_positions = outputs.size() > 1;
  kernel.plan(bytes_per_element + 4 + (with_positions ? 8 : 0), smallest);
  auto side_stream = [&](const std::vector<std::int16_t>& tensors, std::size_t first_access, bool is_output) {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      const Access& access = other_accesses[first_access + t];
      const Dtype dtype = sbuf_dtype(access.dtype);
      const std::int64_t free =
          stream_free_elements(target, access.elements, target::itemsize(access.dtype), 2 * target::itemsize(dtype));
      const std::int16_t side =
          builder.sbuf("side" + std::to_string(tensors[t]), dtype, target.core.num_partitions, free);
      stream(
          builder, target, access.elements, free,
          [&](const StreamTile& tile) {
            const Tile on_chip = on_chip_tile(side, tile.partitions, tile.free);
            is_output ? builder.dma(tile.hbm(tensors[t]), on_chip) : builder.dma(on_chip, tile.hbm(tensors[t]));
          },
          1, is_output ? "results_" : "operands_");
    }
  };

  side_stream(other_inputs, 0, false);
  for (auto* tensors : {&inputs, &outputs}) {
    for (auto& tensor : *tensors) {
      kernel.give_tile(tensor);
    }
  }
  const bool lacks_operand = inputs.empty() || outputs.empty();
  const Recurrence recurrence(shape.alu);
  const std::int16_t work = lacks_operand ? kernel.work("work", Dtype::float32, 1) : std::int16_t{-1};
  const std::int16_t positions = with_positions ? kernel.work("positions", Dtype::int32, 1) : std::int16_t{-1};
  const std::int16_t mask = with_positions ? kernel.work("mask", Dtype::float32, 1) : std::int16_t{-1};
  const std::int16_t carry = kernel.resident() ? std::int16_t{-1} : kernel.column("carry");
  const std::int16_t last = carry >= 0 && with_positions ? kernel.column("last_position") : std::int16_t{-1};
  const std::int16_t constant = recurrence.has_constant() && inputs.size() < 2
                                    ? builder.sbuf("constant", Dtype::float32, kernel.partitions(), 1, 1)
                                    : std::int16_t{-1};
  auto carried = [&](std::int16_t column, std::int64_t p, const Index& member) {
    return column >= 0 ? std::optional(kernel.scalar(column, p, member)) : std::nullopt;
  };
  auto keep_last = [&](std::int16_t column, std::int16_t tile, std::int64_t p, const Index& member,
                       std::int64_t width) {
    if (column >= 0) {
      builder.tensor_copy(kernel.scalar(column, p, member),
                          on_chip_tile(tile, p, 1, member * kernel.chunk() + Index(width - 1)));
    }
  };

  kernel.row_groups([&](const Index& row, std::int64_t p, std::int64_t g) {
    if (carry >= 0) {
      builder.memset(on_chip_tile(carry, p, g), recurrence.initial);
    }
    if (last >= 0) {
      builder.memset(on_chip_tile(last, p, g), 0);
    }
    if (constant >= 0) {
      builder.memset(on_chip_tile(constant, p, 1), recurrence.constant);
    }
    kernel.chunks([&](const Index& col, std::int64_t width) {
      for (const auto& input : inputs) {
        kernel.load(input, row, p, g, col, width);
      }
      kernel.members(g, [&](const Index& member) {
        const std::int16_t source = inputs.empty() ? work : inputs.front().tile;
        const std::int16_t result = outputs.empty() ? work : outputs.front().tile;
        const Tile in = kernel.row(source, p, member, width), out = kernel.row(result, p, member, width);
        const Tile constants = inputs.size() > 1 ? kernel.row(inputs[1].tile, p, member, width)
                                                 : on_chip_tile(constant, p, std::vector<Dim>{{width, 0}});
        emit_scan(builder, shape.alu, out, in, constants, carried(carry, p, member));
        keep_last(carry, result, p, member, width);
        if (with_positions) {  // the last of those that equal the running value; a NaN equals any other
          const Tile position = kernel.row(positions, p, member, width);
          const Tile is_new = kernel.row(mask, p, member, width);
          const Tile found = kernel.row(outputs[1].tile, p, member, width);
          rows::op(builder, Opcode::iota, position, {hbm_tile(-1, p, 0, {{width, 1}}, col)});
          builder.tensor_tensor(is_new, in, out, Alu::equal);
          if (!shape.inputs.empty() && may_be_nan(shape.inputs.front().dtype)) {
            builder.tensor_tensor(found, in, in, Alu::not_equal);
            builder.tensor_tensor(is_new, is_new, found, Alu::maximum);
          }
          builder.tensor_tensor(is_new, is_new, position, Alu::multiply);
          const auto before = last >= 0 ? carried(last, p, member) : std::optional<Tile>();
          builder.emit({.opcode = Opcode::tensor_tensor_scan,
                        .dst = found,
                        .src = {is_new, is_new, before.value_or(Tile{})},
                        .alu0 = Alu::maximum,
                        .alu1 = Alu::maximum});
          keep_last(last, outputs[1].tile, p, member, width);
        }
      });
      for (const auto& output : outputs) {
        kernel.store(output, row, p, g, col, width);
      }
    });
  });
  side_stream(other_outputs, other_inputs.size(), true);
  return builder.take();
}

}  // namespace

program::Program scan(const target::Target& target, const ScanShape& shape) {
  program::Program program = scan_rows(target, shape);
  std::optional<program::Program> spread = spread_scan(target, shape);
  return spread ? program::faster(std::move(program), std::move(*spread), target) : std::move(program);
}

void require_executable(const ScanShape& shape) {
  const bool takes_larger = shape.alu == Alu::maximum || shape.alu == Alu::minimum;
  if (shape.alu != Alu::add && shape.alu != Alu::multiply && !takes_larger) {
    only_counts("running values of this operation are", std::string(target::name(shape.alu)));
  }
  const std::size_t num_outputs = shape.outputs.size();
  const std::size_t most_inputs = shape.alu == Alu::add ? 2 : 1;
  if (shape.inputs.empty() || shape.inputs.size() > most_inputs || num_outputs < 1 ||
      num_outputs > (takes_larger ? 2 : 1)) {
    only_counts("other operands than an input, its running values and their positions are",
                std::to_string(shape.inputs.size()) + " inputs and " + std::to_string(num_outputs) + " outputs");
  }
  auto check = [&](const Access& access) {
    if (access.elements != shape.rows * shape.cols) {
      only_counts("operands of another size than the rows are", std::to_string(access.elements) + " elements");
    }
    if (is_complex(access.dtype)) {
      only_counts("complex elements are", std::string(target::name(access.dtype)));
    }
  };
  std::ranges::for_each(shape.inputs, check);
  std::ranges::for_each(shape.outputs, check);
}

}  // namespace trn::kernels
