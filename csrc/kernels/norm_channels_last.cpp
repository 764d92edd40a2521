// Batch normalisation of channels last, forward.
#include "kernels/norm_channels_last.h"

namespace trn::kernels {
namespace channels_last {
namespace {

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
      rows::block_diagonal(b_, identity_, lanes_, 1, 1);
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
    rows::join_statistics(b_, stats_, width, column, all, group.rows());
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
    rows::scaled_product(b_, shift, mean, scale, -1);
    if (bias_hbm_ >= 0) {
      load_row(parameter_, bias_hbm_, block);
      b_.tensor_tensor(shift, shift, all_of(parameter_, block), Alu::add);
    }
    set_operand(factor_, scale_, block);
  }

  void update(std::int16_t to, std::int16_t from, std::int16_t current, float share, const Block& block) {
    load_row(parameter_, from, block);
    update_running(b_, all_of(parameter_, block), all_of(current, block), s_.momentum, share);
    store_row(to, parameter_, block);
  }

  const std::int64_t turned_tiles_;  // tiles of positions that one bn_stats takes
  std::int16_t x_hbm_ = -1, weight_hbm_ = -1, bias_hbm_ = -1, out_hbm_ = -1;
  std::int16_t running_mean_ = -1, running_var_ = -1, saved_mean_ = -1, saved_rstd_ = -1, new_mean_ = -1, new_var_ = -1;
  std::int16_t x_ = -1, out_ = -1, turned_ = -1, stats_ = -1, triples_ = -1, moments_ = -1, identity_ = -1,
               diagonal_ = -1, ones_ = -1;
  std::int16_t mean_ = -1, var_ = -1, scale_ = -1, shift_ = -1, parameter_ = -1, factor_ = -1;
};

}  // namespace
}  // namespace channels_last

// HBM bytes / itemsize, per element of the tensor. Forward: in read once, twice in training where not all positions fit
// in SBUF. Backward: grad_out once and in once where sums over it are asked for; both again, as grad_in needs them,
// where they do not fit. out, grad_in written once; a channel's values once each.
program::Program norm_channels_last(const target::Target& target, const NormShape& shape) {
  return shape.backward ? channels_last::backward(target, shape) : channels_last::Forward(target, shape).emit();
}

}  // namespace trn::kernels
