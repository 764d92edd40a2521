// Cumulative operators: tensor_tensor_scan along the free axis, rows on partitions, long rows in chunks with a carry.
#include <algorithm>

#include "kernels/build.h"
#include "kernels/rows.h"

namespace trn::kernels {

using namespace tiling;

program::Program scan(const target::Target& target, const ScanShape& shape) {
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
  const std::int16_t work = lacks_operand ? kernel.work("work", Dtype::float32, 1) : std::int16_t{-1};
  const std::int16_t positions = with_positions ? kernel.work("positions", Dtype::int32, 1) : std::int16_t{-1};
  const std::int16_t mask = with_positions ? kernel.work("mask", Dtype::float32, 1) : std::int16_t{-1};
  const std::int16_t carry = kernel.resident() ? std::int16_t{-1} : kernel.column("carry");

  kernel.row_groups([&](const Index& row, std::int64_t p, std::int64_t g) {
    kernel.chunks([&](const Index& col, std::int64_t width) {
      for (const auto& input : inputs) {
        kernel.load(input, row, p, g, col, width);
      }
      kernel.members(g, [&](const Index& member) {
        const std::int16_t source = inputs.empty() ? work : inputs.front().tile;
        const Tile in = kernel.row(source, p, member, width);
        const Tile out = kernel.row(outputs.empty() ? work : outputs.front().tile, p, member, width);
        std::vector<Tile> operands{in};
        if (carry >= 0) {
          operands.push_back(kernel.scalar(carry, p, member));
        }
        rows::op(builder, Opcode::tensor_tensor_scan, out, operands, shape.alu);
        if (carry >= 0) {
          const std::int16_t last = outputs.empty() ? work : outputs.front().tile;
          builder.tensor_copy(kernel.scalar(carry, p, member),
                              on_chip_tile(last, p, 1, member * kernel.chunk() + Index(width - 1)));
        }
        if (with_positions) {
          const Tile position = kernel.row(positions, p, member, width);
          const Tile is_new = kernel.row(mask, p, member, width);
          rows::op(builder, Opcode::iota, position, {hbm_tile(-1, p, 0, {{width, 1}}, col)});
          builder.tensor_tensor(is_new, in, out, Alu::equal);
          builder.tensor_tensor(is_new, is_new, position, Alu::multiply);
          rows::op(builder, Opcode::tensor_tensor_scan, kernel.row(outputs[1].tile, p, member, width), {is_new},
                   Alu::maximum);
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

}  // namespace trn::kernels
