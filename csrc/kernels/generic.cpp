// What no family covers: every input read once, every output written once, one VectorE pass per output element.
#include <algorithm>

#include "kernels/build.h"
#include "kernels/side_by_side.h"

namespace trn::kernels {

using namespace tiling;

program::Program generic(const target::Target& target, const GenericShape& shape) {
  Builder builder("generic");
  std::vector<std::int16_t> tensors;
  std::vector<std::int64_t> sizes;
  std::int64_t bytes_per_element = 0;
  std::int64_t smallest = 8;
  auto declare = [&](const Access& access, const std::string& name, bool is_output) {
    tensors.push_back(builder.hbm(name, access, is_output));
    sizes.push_back(access.elements);
    bytes_per_element += 2 * target::itemsize(sbuf_dtype(access.dtype));
    smallest = std::min(smallest, target::itemsize(access.dtype));
  };
  const std::size_t num_inputs = shape.inputs.size();
  for (std::size_t i = 0; i < num_inputs; ++i) {
    declare(shape.inputs[i], "in" + std::to_string(i), false);
  }
  for (std::size_t i = 0; i < shape.outputs.size(); ++i) {
    declare(shape.outputs[i], "out" + std::to_string(i), true);
  }
  if (sizes.empty()) {
    return builder.take();
  }

  const std::int64_t largest = *std::max_element(sizes.begin(), sizes.end());
  const auto rounds = share(target, sizes, stream_free_elements(target, largest, smallest, bytes_per_element));
  // Operands of the pass are as wide as its widest result, so every buffer is as wide as the widest.
  std::int64_t width = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    width = std::max(width, widest(rounds, i));
  }
  std::vector<std::int16_t> tiles;
  for (const auto tensor : tensors) {
    tiles.push_back(builder.sbuf("tile" + std::to_string(tiles.size()), sbuf_dtype(builder.dtype(tensor)),
                                 target.core.num_partitions, width));
  }

  stream_together(builder, rounds, [&](const std::vector<StreamTile>& shares) {
    auto tile = [&](std::size_t i, const StreamTile& extent) {
      return on_chip_tile(tiles[i], extent.partitions, extent.free);
    };
    for (std::size_t i = 0; i < num_inputs; ++i) {
      if (shares[i].free > 0) {
        builder.dma(tile(i, shares[i]), shares[i].hbm(tensors[i]));
      }
    }
    for (std::size_t o = num_inputs; o < tensors.size(); ++o) {
      const StreamTile& out = shares[o];
      if (out.free == 0) {
        continue;
      }
      if (num_inputs == 0) {
        builder.memset(tile(o, out), 0);
      } else if (num_inputs == 1) {
        builder.tensor_copy(tile(o, out), tile(0, out));
      } else {
        builder.tensor_tensor(tile(o, out), tile(0, out), tile(1, out), Alu::add);
      }
      builder.dma(out.hbm(tensors[o]), tile(o, out));
    }
  });
  return builder.take();
}

}  // namespace trn::kernels
