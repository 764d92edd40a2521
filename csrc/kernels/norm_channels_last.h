// Batch normalisation of tensors whose channels are the contiguous axis: what its two directions share.
//
// A position of all channels is a row of HBM: positions lie on partitions, several to a descriptor, channels along the
// free axis. What belongs to a channel is a row too, the same on every partition. Sums over positions are matmuls with
// ones, whose result every partition has; mean and variance come from bn_stats, of tiles that TensorE has turned.
// Large tensors are read twice: for their statistics or sums, and for the result.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "kernels/norm_parameters.h"

namespace trn::kernels::channels_last {

using rows::Index;
using rows::kStatistics;
using rows::kTriple;
using rows::Opcode;
using rows::Tile;
using tiling::Builder;
using tiling::ceil_div;
using tiling::Dim;
using tiling::dims;
using tiling::hbm_tile;
using tiling::on_chip_tile;
using Positions = tiling::RowGroup;

class ChannelsLast {
 public:
  program::Program emit() {
    if (s_.rows > 0 && s_.cols > 0) {
      for (const auto& segment : tiling::split(s_.rows, block_)) {
        is_looped_ = segment.trips > 1;
        if (!is_looped_) {
          emit_block(segment.start, segment.size);
          continue;
        }
        b_.nest("body");
        b_.loop(segment.trips, [&](const Index& i) { emit_block(i * segment.size + segment.start, segment.size); });
      }
    }
    return b_.take();
  }
  virtual ~ChannelsLast() = default;

 protected:
  // Some channels of all positions.
  struct Block {
    Index channel;
    std::int64_t count = 0;
  };
  // What one instruction takes of a group of positions: `tiles` tiles from `tile` on, `count` channels from `channel`.
  struct Piece {
    std::int64_t lanes = 0;
    Index first, tile, channel;
    std::int64_t tiles = 1, count = 0;
  };

  ChannelsLast(const target::Target& target, const NormShape& shape, std::string name)
      : s_(shape),
        target_(target),
        lanes_(target.core.num_partitions),
        piece_(target.core.moving_free_max_elements),
        num_shares_(std::max<std::int64_t>(target.device.num_cores, 1)),
        b_(std::move(name)),
        dtype_(tiling::sbuf_dtype(shape.dtype)) {}

  virtual void emit_block(const Index& channel, std::int64_t count) = 0;

  // SBUF bytes of an element of the tiles and of a channel's rows; `kept` of the former, if any, are of what stays in
  // SBUF from its statistics to the result where all positions fit.
  void plan(std::int64_t bytes_per_element, std::int64_t bytes_per_channel, std::int64_t kept) {
    const std::int64_t sbuf = target_.core.sbuf_bytes_per_partition * 9 / 10, size = itemsize(s_.dtype);
    const std::int64_t all = ceil_div(std::max<std::int64_t>(s_.cols, 1), lanes_);
    const auto channels = [&](std::int64_t bytes) {
      const std::int64_t most = std::max<std::int64_t>(sbuf / bytes, 1);
      return std::min(s_.rows, most > lanes_ ? most / lanes_ * lanes_ : most);
    };
    const std::int64_t quarter = ceil_div(all, 4);  // four groups
    const std::int64_t keeping = channels(all * kept + quarter * bytes_per_element + bytes_per_channel);
    is_kept_ = kept > 0 && keeping >= std::min(s_.rows, target_.core.dma_saturating_bytes / 2 / size);
    if (is_kept_) {
      block_ = keeping;
      tiles_ = quarter;
      kept_tiles_ = all;
      return;
    }
    block_ = channels(bytes_per_element + bytes_per_channel);
    const std::int64_t free = sbuf - block_ * bytes_per_channel;
    const std::int64_t spare = std::max<std::int64_t>(s_.cols / (4 * num_shares_ * lanes_), 1);
    tiles_ = std::clamp<std::int64_t>(free / (block_ * bytes_per_element), 1,
                                      std::min(spare, tiling::rows_per_descriptor(target_, block_ * size)));
    kept_tiles_ = tiles_;
  }

  void phase(const std::string& name) {
    if (!is_looped_) {
      b_.nest(name);
    }
  }

  std::int16_t tile(const std::string& name, bool is_kept) {
    return b_.sbuf(name, dtype_, lanes_, (is_kept ? kept_tiles_ : tiles_) * block_, is_kept && is_kept_ ? 1 : 2);
  }
  // A value for each channel, on every partition.
  std::int16_t channel_row(const std::string& name, std::int64_t shares = 1) {
    return b_.sbuf(name, Dtype::float32, lanes_, shares * block_, 1);
  }
  // The same where VectorE reads fp32 at its full rate: in PSUM, as far as that has banks to spare.
  std::int16_t operand_row(const std::string& name, std::int64_t num_operands) {
    const bool fits = num_operands * ceil_div(block_, piece_) <= 4;
    return fits ? b_.psum(name, Dtype::float32, lanes_, block_, 1) : channel_row(name);
  }
  Tile all_of(std::int16_t row, const Block& block, const Index& share = 0) const {
    return on_chip_tile(row, lanes_, block.count, share * block_);
  }
  void load_row(std::int16_t row, std::int16_t hbm, const Block& block) {
    b_.dma(all_of(row, block), hbm_tile(hbm, lanes_, 0, {{block.count, 1}}, block.channel));
  }
  void store_row(std::int16_t hbm, std::int16_t row, const Block& block) {
    b_.dma(hbm_tile(hbm, 1, block.count, {{block.count, 1}}, block.channel), on_chip_tile(row, 1, block.count));
  }
  void set_operand(std::int16_t operand, std::int16_t row, const Block& block) {
    b_.tiles(block.count, piece_, [&](const Index& c, std::int64_t count) {
      b_.tensor_copy(on_chip_tile(operand, lanes_, count, c), on_chip_tile(row, lanes_, count, c));
    });
  }

  // body(first position, group) for all positions.
  template <class Body>
  void positions(Body body) {
    b_.groups(tiling::row_groups(s_.cols, lanes_, tiles_), std::move(body), true);
  }
  // The same for sums over positions: body(first, group, share), where each physical core has a share of its own.
  template <class Body>
  void shared_positions(Body body) {
    b_.shared_groups(tiling::row_groups(s_.cols, lanes_, tiles_), num_shares_, std::move(body));
  }
  template <class Body>
  void pieces(const Index& first, const Positions& group, const Block& block, Body body) {
    const std::int64_t together = std::clamp<std::int64_t>(piece_ / block.count, 1, group.tiles);
    b_.tiles(group.tiles, together, [&](const Index& t, std::int64_t tiles) {
      b_.tiles(block.count, piece_, [&](const Index& c, std::int64_t count) {
        body(Piece{.lanes = group.lanes, .first = first, .tile = t, .channel = c, .tiles = tiles, .count = count});
      });
    });
  }

  Index base(const Index& first, bool is_kept) const {
    return is_kept && is_kept_ ? first / lanes_ * block_ : Index(0);
  }
  // A piece of a tile of elements, of a channel row, and of what is computed on the way, in PSUM.
  Tile part(std::int16_t buffer, const Piece& piece, bool is_kept) const {
    return on_chip_tile(buffer, piece.lanes, dims(piece.tiles, block_, piece.count),
                        base(piece.first, is_kept) + piece.tile * block_ + piece.channel);
  }
  Tile row_of(std::int16_t row, const Piece& piece) const {
    return on_chip_tile(row, piece.lanes, dims(piece.tiles, 0, piece.count), piece.channel);
  }
  Tile unit(const Piece& piece) const {
    return on_chip_tile(unit_, piece.lanes, dims(piece.tiles, piece.count, piece.count));
  }

  void load(std::int16_t buffer, std::int16_t hbm, const Index& first, const Positions& group, const Block& block) {
    move(buffer, hbm, first, group, block, true,
         [&](const Tile& on_chip, const Tile& in_hbm) { b_.dma(on_chip, in_hbm); });
  }
  void store(std::int16_t hbm, std::int16_t buffer, const Index& first, const Positions& group, const Block& block) {
    move(buffer, hbm, first, group, block, false,
         [&](const Tile& on_chip, const Tile& in_hbm) { b_.dma(in_hbm, on_chip); });
  }

  const NormShape& s_;
  const target::Target& target_;
  const std::int64_t lanes_, piece_, num_shares_;
  Builder b_;
  const Dtype dtype_;  // of elements in SBUF
  std::int64_t block_ = 1, tiles_ = 1, kept_tiles_ = 1;
  bool is_kept_ = false;  // what is read first stays in SBUF
  bool is_looped_ = false;
  std::int16_t unit_ = -1;

 private:
  template <class Transfer>
  void move(std::int16_t buffer, std::int16_t hbm, const Index& first, const Positions& group, const Block& block,
            bool is_kept, Transfer transfer) {
    transfer(on_chip_tile(buffer, group.lanes, dims(group.tiles, block_, block.count), base(first, is_kept)),
             hbm_tile(hbm, group.lanes, group.tiles * s_.rows, dims(group.tiles, s_.rows, block.count),
                      first * s_.rows + block.channel));
  }
};

program::Program backward(const target::Target& target, const NormShape& shape);

}  // namespace trn::kernels::channels_last
