// Gradients of batch normalisation of channels last.
#include "kernels/norm_channels_last.h"

namespace trn::kernels::channels_last {
namespace {

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
    if (s_.input_gradient || weight_gradient_) {
      phase("parameters");
      load_parameters(block);
    }
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
    rows::scaled_product(b_, result, all_of(dot_, block), scale, share);
    b_.tensor_tensor(result, result, rstd, Alu::multiply);
    set_operand(slope_, result_, block);
    rows::scaled_product(b_, offset, all_of(sum_, block), scale, share);
    rows::scaled_product(b_, result, result, all_of(mean_, block), -1);
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

program::Program backward(const target::Target& target, const NormShape& shape) {
  return Backward(target, shape).emit();
}

}  // namespace trn::kernels::channels_last
