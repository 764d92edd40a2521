// Batch normalisation of tensors whose channels are the contiguous axis, forward and backward.
//
// A position of all channels is a row of HBM: positions lie on partitions, several to a descriptor, channels along the
// free axis. What belongs to a channel is a row too, the same on every partition. Sums over positions are matmuls with
// ones, whose result every partition has; mean and variance come from bn_stats, of tiles that TensorE has turned.
// Large tensors are read twice: for their statistics or sums, and for the result.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "kernels/conv_plan.h"
#include "kernels/norm_parameters.h"

namespace trn::kernels {

using rows::Index;
using rows::kStatistics;
using rows::kTriple;
using rows::Opcode;
using rows::Tile;
using tiling::Builder;
using tiling::ceil_div;
using tiling::Dim;
using tiling::hbm_tile;
using tiling::on_chip_tile;
using Positions = tiling::RowGroup;

namespace {

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
  void scaled_product(const Tile& dst, const Tile& a, const Tile& b, float factor) {
    b_.emit({.opcode = Opcode::scalar_tensor_tensor,
             .dst = dst,
             .src = {a, b},
             .alu0 = Alu::multiply,
             .alu1 = Alu::multiply,
             .scalar0 = factor});
  }

  // body(first position, group) for all positions.
  template <class Body>
  void positions(Body body) {
    b_.groups(tiling::row_groups(s_.cols, lanes_, tiles_), std::move(body), true);
  }
  // The same for sums over positions: body(first, group, share), where each physical core has a share of its own.
  template <class Body>
  void shared_positions(Body body) {
    for (const Positions& group : tiling::row_groups(s_.cols, lanes_, tiles_)) {
      const std::int64_t each = group.trips / num_shares_, rows = group.rows();
      if (each > 0) {
        b_.parallel_loop(num_shares_, [&](const Index& share) {
          b_.loop(each, [&](const Index& i) { body(share * (each * rows) + i * rows + group.start, group, share); });
        });
      }
      b_.loop(group.trips - each * num_shares_,
              [&](const Index& i) { body(i * rows + (group.start + each * num_shares_ * rows), group, Index(0)); });
    }
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
  static std::vector<Dim> dims(std::int64_t tiles, std::int64_t pitch, std::int64_t count) {
    return tiles == 1 ? std::vector<Dim>{{count, 1}} : std::vector<Dim>{{tiles, pitch}, {count, 1}};
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

class Forward : public ChannelsLast {
 public:
  Forward(const target::Target& target, const NormShape& shape)
      : ChannelsLast(target, shape, "norm"), turned_tiles_(std::max<std::int64_t>(piece_ / lanes_, 1)) {
    const std::int64_t elements = s_.rows * s_.cols;
    const Dtype statistics = statistics_dtype(s_);
    const bool updates = s_.training && s_.running_statistics;
    x_hbm_ = b_.hbm("in", s_.dtype, elements);
    weight_hbm_ = s_.weight ? b_.hbm("weight", s_.parameter_dtype, s_.rows) : -1;
    bias_hbm_ = s_.bias ? b_.hbm("bias", s_.parameter_dtype, s_.rows) : -1;
    if (!s_.training || updates) {
      running_mean_ = b_.hbm("running_mean", statistics, s_.rows);
      running_var_ = b_.hbm("running_var", statistics, s_.rows);
    }
    out_hbm_ = b_.hbm("out", s_.dtype, elements, true);
    if (s_.training) {
      saved_mean_ = b_.hbm("mean", statistics, s_.rows, true);
      saved_rstd_ = b_.hbm("rstd", statistics, s_.rows, true);
    }
    if (updates) {
      new_mean_ = b_.hbm("new_running_mean", statistics, s_.rows, true);
      new_var_ = b_.hbm("new_running_var", statistics, s_.rows, true);
    }
    give_tiles();
  }

 private:
  void give_tiles() {
    const std::int64_t size = itemsize(dtype_);
    plan(4 * size, 8 * itemsize(Dtype::float32), s_.training ? size : 0);
    x_ = tile("tile", true);
    out_ = tile("result", false);
    mean_ = channel_row("mean_row");
    var_ = channel_row("var_row");
    scale_ = channel_row("scale_row");
    shift_ = channel_row("shift_row");
    parameter_ = s_.weight || s_.bias || new_mean_ >= 0 ? channel_row("parameter_row") : -1;
    factor_ = operand_row("factor", 1);
    unit_ = b_.psum("unit", Dtype::float32, lanes_, piece_);
    if (s_.training) {
      turned_ = b_.psum("turned", dtype_, lanes_, turned_tiles_ * lanes_);
      stats_ = b_.sbuf("stats", Dtype::float32, lanes_, num_shares_ * num_columns() * pitch(), 1);
      triples_ = b_.sbuf("triples", Dtype::float32, lanes_, num_shares_ * kTriple, 1);
      moments_ = b_.sbuf("moments", Dtype::float32, lanes_, 2, 1);
      identity_ = b_.sbuf("identity", Dtype::float32, lanes_, lanes_, 1);
      diagonal_ = b_.sbuf("diagonal", Dtype::float32, lanes_, lanes_, 1);
      ones_ = b_.sbuf("ones", Dtype::float32, lanes_, lanes_, 1);
    }
  }

  // Statistics of 128 channels lie in a column each, a column for each share: a triple of what went before, then the
  // pieces of a group.
  std::int64_t num_columns() const { return ceil_div(block_, lanes_); }
  std::int64_t pitch() const { return kTriple + kStatistics * ceil_div(tiles_, turned_tiles_); }

  void emit_block(const Index& channel, std::int64_t count) override {
    const Block block{channel, count};
    if (s_.training) {
      phase("statistics");
      b_.memset(on_chip_tile(stats_, lanes_, {{num_shares_ * num_columns(), pitch()}, {kTriple, 1}}), 0);
      shared_positions([&](const Index& first, const Positions& group, const Index& share) {
        load(x_, x_hbm_, first, group, block);
        b_.tiles(count, lanes_, [&](const Index& c, std::int64_t width) { measure(first, group, share, c, width); });
      });
    }
    phase("coefficients");
    if (s_.training) {
      block_diagonal(b_, identity_, lanes_, 1, 1);
      b_.memset(on_chip_tile(ones_, lanes_, lanes_), 1);
      b_.tiles(count, lanes_, [&](const Index& c, std::int64_t width) { spread_moments(c, width); });
    } else {
      load_row(mean_, running_mean_, block);
      load_row(var_, running_var_, block);
    }
    finish(block);
    phase("result");
    positions([&](const Index& first, const Positions& group) {
      if (!is_kept_) {
        load(x_, x_hbm_, first, group, block);
      }
      pieces(first, group, block, [&](const Piece& piece) {
        b_.tensor_tensor(unit(piece), part(x_, piece, true), row_of(factor_, piece), Alu::multiply);
        b_.tensor_tensor(part(out_, piece, false), unit(piece), row_of(shift_, piece), Alu::add);
      });
      store(out_hbm_, out_, first, group, block);
    });
  }

  void measure(const Index& first, const Positions& group, const Index& share, const Index& c, std::int64_t width) {
    const Index column = (share * num_columns() + c / lanes_) * pitch();
    b_.tiles(group.tiles, turned_tiles_, [&](const Index& t, std::int64_t tiles) {
      b_.loop(tiles, [&](const Index& i) {
        b_.transpose(on_chip_tile(turned_, width, group.lanes, i * group.lanes),
                     on_chip_tile(x_, group.lanes, width, base(first, true) + (t + i) * block_ + c));
      });
      rows::op(b_, Opcode::bn_stats,
               on_chip_tile(stats_, width, kStatistics, column + kTriple + t / turned_tiles_ * kStatistics),
               {on_chip_tile(turned_, width, tiles * group.lanes)});
    });
    const std::int64_t all = kTriple + kStatistics * ceil_div(group.tiles, turned_tiles_);
    const Tile number = on_chip_tile(stats_, width, 1, column), deviation = on_chip_tile(stats_, width, 1, column + 2);
    rows::op(b_, Opcode::bn_aggr, on_chip_tile(stats_, width, 2, column + 1),
             {on_chip_tile(stats_, width, all, column)});
    b_.tensor_scalar(number, number, Alu::add, static_cast<float>(group.rows()));
    b_.tensor_tensor(deviation, deviation, number, Alu::multiply);
  }

  // Mean and variance of 128 channels, of all shares, from a column to rows on every partition: ones times a diagonal,
  // as a transpose of NeuronCore-v2 would spread one channel's NaN over all.
  void spread_moments(const Index& c, std::int64_t width) {
    for (std::int64_t share = 0; share < num_shares_; ++share) {
      b_.tensor_copy(on_chip_tile(triples_, width, kTriple, share * kTriple),
                     on_chip_tile(stats_, width, kTriple, (c / lanes_ + share * num_columns()) * pitch()));
    }
    rows::op(b_, Opcode::bn_aggr, on_chip_tile(moments_, width, 2),
             {on_chip_tile(triples_, width, num_shares_ * kTriple)});
    for (const auto& [row, which] : {std::pair{mean_, 0}, std::pair{var_, 1}}) {
      const Tile diagonal = on_chip_tile(diagonal_, width, width);
      rows::op(
          b_, Opcode::select, diagonal,
          {on_chip_tile(identity_, width, width), on_chip_tile(moments_, width, std::vector<Dim>{{width, 0}}, which)});
      b_.matmul(on_chip_tile(unit_, lanes_, width), on_chip_tile(ones_, width, lanes_), diagonal);
      b_.tensor_copy(on_chip_tile(row, lanes_, width, c), on_chip_tile(unit_, lanes_, width));
    }
  }

  // out = scale x + shift, and the statistics that are kept.
  void finish(const Block& block) {
    const Tile scale = all_of(scale_, block), shift = all_of(shift_, block), mean = all_of(mean_, block);
    b_.activation(scale, all_of(var_, block), Activation::rsqrt, 1, s_.eps);
    if (saved_mean_ >= 0) {
      store_row(saved_mean_, mean_, block);
      store_row(saved_rstd_, scale_, block);
    }
    if (new_mean_ >= 0) {
      const float unbiased = static_cast<float>(s_.cols) / static_cast<float>(s_.cols - 1);
      update(new_mean_, running_mean_, mean_, s_.momentum, block);
      update(new_var_, running_var_, var_, s_.momentum * unbiased, block);
    }
    if (weight_hbm_ >= 0) {
      load_row(parameter_, weight_hbm_, block);
      b_.tensor_tensor(scale, scale, all_of(parameter_, block), Alu::multiply);
    }
    scaled_product(shift, mean, scale, -1);
    if (bias_hbm_ >= 0) {
      load_row(parameter_, bias_hbm_, block);
      b_.tensor_tensor(shift, shift, all_of(parameter_, block), Alu::add);
    }
    set_operand(factor_, scale_, block);
  }

  // running = (1 - momentum) running + share current
  void update(std::int16_t to, std::int16_t from, std::int16_t current, float share, const Block& block) {
    const Tile running = all_of(parameter_, block);
    load_row(parameter_, from, block);
    b_.tensor_scalar(running, running, Alu::multiply, 1 - s_.momentum);
    b_.emit({.opcode = Opcode::scalar_tensor_tensor,
             .dst = running,
             .src = {all_of(current, block), running},
             .alu0 = Alu::multiply,
             .alu1 = Alu::add,
             .scalar0 = share});
    store_row(to, parameter_, block);
  }

  const std::int64_t turned_tiles_;  // tiles of positions that one bn_stats takes
  std::int16_t x_hbm_ = -1, weight_hbm_ = -1, bias_hbm_ = -1, out_hbm_ = -1;
  std::int16_t running_mean_ = -1, running_var_ = -1, saved_mean_ = -1, saved_rstd_ = -1, new_mean_ = -1, new_var_ = -1;
  std::int16_t x_ = -1, out_ = -1, turned_ = -1, stats_ = -1, triples_ = -1, moments_ = -1, identity_ = -1,
               diagonal_ = -1, ones_ = -1;
  std::int16_t mean_ = -1, var_ = -1, scale_ = -1, shift_ = -1, parameter_ = -1, factor_ = -1;
};

// With d = x - mean: grad_in = scale (grad_out - sum(grad_out) / n - d rstd^2 sum(grad_out d) / n), in evaluation
// without the sums; scale = weight rstd, grad_weight = rstd sum(grad_out d), grad_bias = sum(grad_out).
class Backward : public ChannelsLast {
 public:
  Backward(const target::Target& target, const NormShape& shape)
      : ChannelsLast(target, shape, "norm_backward"),
        depends_on_sums_(s_.input_gradient && s_.training),
        weight_gradient_(s_.weight_gradient && s_.weight),
        needs_dots_(depends_on_sums_ || weight_gradient_),
        needs_sums_(depends_on_sums_ || s_.bias_gradient) {
    const std::int64_t elements = s_.rows * s_.cols;
    grad_hbm_ = b_.hbm("grad_out", s_.dtype, elements);
    x_hbm_ = b_.hbm("in", s_.dtype, elements);
    mean_hbm_ = b_.hbm("mean", statistics_dtype(s_), s_.rows);
    rstd_hbm_ = b_.hbm("rstd", statistics_dtype(s_), s_.rows);
    weight_hbm_ = s_.weight && s_.input_gradient ? b_.hbm("weight", s_.parameter_dtype, s_.rows) : -1;
    out_hbm_ = s_.input_gradient ? b_.hbm("grad_in", s_.dtype, elements, true) : -1;
    weight_out_ = weight_gradient_ ? b_.hbm("grad_weight", s_.parameter_dtype, s_.rows, true) : -1;
    bias_out_ = s_.bias_gradient ? b_.hbm("grad_bias", s_.parameter_dtype, s_.rows, true) : -1;
    give_tiles();
  }

 private:
  void give_tiles() {
    const std::int64_t size = itemsize(dtype_), fp32 = itemsize(Dtype::float32);
    plan(6 * size + 2 * fp32, (6 + 2 * num_shares_) * fp32, sums() ? 2 * size : 0);
    grad_ = tile("grad_tile", true);
    x_ = tile("tile", true);
    mean_ = channel_row("mean_row");
    rstd_ = channel_row("rstd_row");
    scale_ = channel_row("scale_row");
    result_ = channel_row("parameter_row");
    unit_ = b_.psum("unit", Dtype::float32, lanes_, piece_);
    factor_ = operand_row("factor", 2);
    if (sums()) {
      folded_ = b_.psum("folded", Dtype::float32, lanes_, piece_);
      ones_ = b_.sbuf("ones", Dtype::float32, lanes_, lanes_, 1);
      grad_ones_ = dtype_ == Dtype::float32 || !needs_sums_ ? ones_ : b_.sbuf("grad_ones", dtype_, lanes_, lanes_, 1);
    }
    sum_ = needs_sums_ ? channel_row("sum", num_shares_) : -1;
    dot_ = needs_dots_ ? channel_row("dot", num_shares_) : -1;
    products_ = needs_dots_ ? b_.sbuf("products", Dtype::float32, lanes_, tiles_ * block_, 1) : -1;
    out_ = s_.input_gradient ? tile("result", false) : -1;
    if (depends_on_sums_) {
      slope_ = operand_row("slope", 2);
      offset_ = channel_row("offset_row");
      bent_ = b_.sbuf("bent", Dtype::float32, lanes_, piece_);
    }
  }

  bool sums() const { return needs_sums_ || needs_dots_; }

  void emit_block(const Index& channel, std::int64_t count) override {
    const Block block{channel, count};
    phase("parameters");
    load_parameters(block);
    if (sums()) {
      phase("sums");
      prepare_sums(block);
      shared_positions([&](const Index& first, const Positions& group, const Index& share) {
        load(grad_, grad_hbm_, first, group, block);
        if (needs_dots_) {
          load(x_, x_hbm_, first, group, block);
          pieces(first, group, block, [&](const Piece& piece) {
            b_.tensor_tensor(unit(piece), part(x_, piece, true), row_of(factor_, piece), Alu::subtract);
            b_.tensor_tensor(part(products_, piece, false), unit(piece), part(grad_, piece, true), Alu::multiply);
          });
          fold({dot_, products_, ones_, false}, first, group, share, block);
        }
        if (needs_sums_) {
          fold({sum_, grad_, grad_ones_, true}, first, group, share, block);
        }
      });
    }
    phase("coefficients");
    finish(block);
    if (s_.input_gradient) {
      phase("result");
      positions([&](const Index& first, const Positions& group) { apply(first, group, block); });
    }
  }

  void load_parameters(const Block& block) {
    const Tile rstd = all_of(rstd_, block);
    load_row(mean_, mean_hbm_, block);
    load_row(rstd_, rstd_hbm_, block);
    if (!s_.training) {
      b_.activation(rstd, rstd, Activation::rsqrt, 1, s_.eps);
    }
    if (needs_dots_) {
      set_operand(factor_, mean_, block);
    }
  }

  void prepare_sums(const Block& block) {
    b_.memset(on_chip_tile(ones_, lanes_, lanes_), 1);
    if (grad_ones_ != ones_) {
      b_.memset(on_chip_tile(grad_ones_, lanes_, lanes_), 1);
    }
    for (const auto sum : {sum_, dot_}) {
      if (sum >= 0) {
        b_.memset(on_chip_tile(sum, lanes_, dims(num_shares_, block_, block.count)), 0);
      }
    }
  }

  struct Fold {
    std::int16_t sum, values, ones;
    bool is_kept;
  };
  void fold(const Fold& fold, const Index& first, const Positions& group, const Index& share, const Block& block) {
    b_.tiles(block.count, piece_, [&](const Index& c, std::int64_t count) {
      const Tile folded = on_chip_tile(folded_, lanes_, count);
      b_.loop(group.tiles, [&](const Index& t) {
        b_.matmul(folded, on_chip_tile(fold.ones, group.lanes, lanes_),
                  on_chip_tile(fold.values, group.lanes, count, base(first, fold.is_kept) + t * block_ + c),
                  static_cast<std::int16_t>(b_.depth() - 1));
      });
      const Tile into = on_chip_tile(fold.sum, lanes_, count, share * block_ + c);
      b_.tensor_tensor(into, into, folded, Alu::add);
    });
  }

  // grad_in = factor grad_out + slope x + offset
  void finish(const Block& block) {
    for (const auto sum : {sum_, dot_}) {
      for (std::int64_t share = 1; sum >= 0 && share < num_shares_; ++share) {
        b_.tensor_tensor(all_of(sum, block), all_of(sum, block), all_of(sum, block, share), Alu::add);
      }
    }
    const Tile rstd = all_of(rstd_, block), scale = all_of(scale_, block), result = all_of(result_, block);
    if (needs_dots_) {
      b_.tensor_tensor(all_of(dot_, block), all_of(dot_, block), rstd, Alu::multiply);
    }
    if (weight_gradient_) {
      store_row(weight_out_, dot_, block);
    }
    if (s_.bias_gradient) {
      store_row(bias_out_, sum_, block);
    }
    if (!s_.input_gradient) {
      return;
    }
    if (weight_hbm_ >= 0) {
      load_row(result_, weight_hbm_, block);
      b_.tensor_tensor(scale, rstd, result, Alu::multiply);
    } else {
      b_.tensor_copy(scale, rstd);
    }
    set_operand(factor_, scale_, block);
    if (!depends_on_sums_) {
      return;
    }
    const float share = -1.0F / static_cast<float>(s_.cols);
    const Tile offset = all_of(offset_, block);
    scaled_product(result, all_of(dot_, block), scale, share);
    b_.tensor_tensor(result, result, rstd, Alu::multiply);
    set_operand(slope_, result_, block);
    scaled_product(offset, all_of(sum_, block), scale, share);
    scaled_product(result, result, all_of(mean_, block), -1);
    b_.tensor_tensor(offset, offset, result, Alu::add);
  }

  void apply(const Index& first, const Positions& group, const Block& block) {
    if (!is_kept_) {
      load(grad_, grad_hbm_, first, group, block);
    }
    if (depends_on_sums_ && !is_kept_) {
      load(x_, x_hbm_, first, group, block);
    }
    pieces(first, group, block, [&](const Piece& piece) {
      const Tile out = part(out_, piece, false);
      b_.tensor_tensor(depends_on_sums_ ? unit(piece) : out, part(grad_, piece, true), row_of(factor_, piece),
                       Alu::multiply);
      if (depends_on_sums_) {
        const Tile bent = on_chip_tile(bent_, piece.lanes, dims(piece.tiles, piece.count, piece.count));
        b_.tensor_tensor(bent, part(x_, piece, true), row_of(slope_, piece), Alu::multiply);
        b_.tensor_tensor(unit(piece), unit(piece), bent, Alu::add);
        b_.tensor_tensor(out, unit(piece), row_of(offset_, piece), Alu::add);
      }
    });
    store(out_hbm_, out_, first, group, block);
  }

  const bool depends_on_sums_;  // of grad_in
  const bool weight_gradient_, needs_dots_, needs_sums_;
  std::int16_t grad_hbm_ = -1, x_hbm_ = -1, mean_hbm_ = -1, rstd_hbm_ = -1, weight_hbm_ = -1, out_hbm_ = -1,
               weight_out_ = -1, bias_out_ = -1;
  std::int16_t grad_ = -1, x_ = -1, out_ = -1, products_ = -1, bent_ = -1, ones_ = -1, grad_ones_ = -1, folded_ = -1;
  std::int16_t mean_ = -1, rstd_ = -1, scale_ = -1, result_ = -1, sum_ = -1, dot_ = -1, factor_ = -1, slope_ = -1,
               offset_ = -1;
};

}  // namespace

// HBM bytes / itemsize, per element of the tensor. Forward: in read once, twice in training where not all positions fit
// in SBUF. Backward: grad_out once and in once where sums over it are asked for; both again, as grad_in needs them,
// where they do not fit. out, grad_in written once; a channel's values once each.
program::Program norm_channels_last(const target::Target& target, const NormShape& shape) {
  return shape.backward ? Backward(target, shape).emit() : Forward(target, shape).emit();
}

}  // namespace trn::kernels
