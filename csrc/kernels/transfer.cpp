// Host <-> device and device <-> device copies: DMA alone, over the host link or between two HBM ranges.
#include "kernels/build.h"
#include "kernels/tiling.h"
#include "target/error.h"

namespace trn::kernels {

using namespace tiling;

program::Program transfer(const target::Target& target, const TransferShape& shape) {
  if (!shape.to_device && !shape.from_device) {
    throw Error(
        Category::invalid_argument,
        "[transfer] one end at least must be a device; got to_device false and from_device false. Set to_device, "
        "from_device or both.");
  }
  Builder builder("transfer");
  const std::int16_t src = builder.hbm("src", Dtype::uint8, shape.bytes);
  const std::int16_t dst = builder.hbm("dst", Dtype::uint8, shape.bytes, true);
  const std::int64_t free = stream_free_elements(target, shape.bytes, 1, 2);
  if (shape.to_device && shape.from_device) {
    const std::int16_t staged = builder.sbuf("staged", Dtype::uint8, target.core.num_partitions, free);
    stream(builder, target, shape.bytes, free, [&](const StreamTile& tile) {
      builder.dma(on_chip_tile(staged, tile.partitions, tile.free), tile.hbm(src));
      builder.dma(tile.hbm(dst), on_chip_tile(staged, tile.partitions, tile.free));
    });
    return builder.take();
  }
  stream(builder, target, shape.bytes, free,
         [&](const StreamTile& tile) { builder.dma(tile.hbm(dst), tile.hbm(src)); });
  auto program = builder.take();
  const std::int16_t host = shape.to_device ? src : dst;
  program.buffers[static_cast<std::size_t>(host)].memory = program::Memory::host;
  return program;
}

}  // namespace trn::kernels
