// Gradients of group and batch normalisation with the planes of channels on partitions.
//
// With xhat = rstd x + shift, over a group's, or a channel's, n elements: grad_in = scale grad_out + slope x + offset,
// where scale = weight rstd, slope = -rstd^2 sum(weight grad_out xhat) / n, offset = -rstd sum(weight grad_out) / n -
// mean slope; grad_weight = sum(grad_out xhat), grad_bias = sum(grad_out).
#include <algorithm>

#include "kernels/norm_planes.h"

namespace trn::kernels::planes {
namespace {

class Backward : public Planes {
 protected:
  Backward(const target::Target& target, const NormShape& shape, const Lanes& lanes)
      : Planes(target, shape, lanes, "norm_backward"),
        n_(at_.channels_per_lane),
        depends_on_sums_(s_.input_gradient && (is_group() || s_.training)),
        weight_gradient_(s_.weight_gradient && s_.weight),
        needs_dots_(depends_on_sums_ || weight_gradient_),
        needs_adds_(depends_on_sums_ || s_.bias_gradient) {
    const std::int64_t elements = s_.rows * s_.cols, num_parameters = at_.channels;
    grad_hbm_ = b_.hbm("grad_out", s_.dtype, elements);
    x_hbm_ = b_.hbm("in", s_.dtype, elements);
    mean_hbm_ = b_.hbm("mean", statistics_dtype(s_), s_.rows);
    rstd_hbm_ = b_.hbm("rstd", statistics_dtype(s_), s_.rows);
    weight_ = s_.weight && s_.input_gradient ? b_.hbm("weight", s_.parameter_dtype, num_parameters) : -1;
    out_hbm_ = s_.input_gradient ? b_.hbm("grad_in", s_.dtype, elements, true) : -1;
    weight_out_ = weight_gradient_ ? b_.hbm("grad_weight", s_.parameter_dtype, num_parameters, true) : -1;
    bias_out_ = s_.bias_gradient ? b_.hbm("grad_bias", s_.parameter_dtype, num_parameters, true) : -1;
  }

  // Those of `kept_steps` steps stay in SBUF; 0: none do.
  void give_tiles(std::int64_t kept_steps) {
    const auto tile = [&](const char* name) {
      return kept_steps > 0 ? kept_elements(name, kept_steps) : elements(name);
    };
    grad_ = tile("grad_tile");
    x_ = tile("tile");
    out_ = s_.input_gradient ? elements("result") : std::int16_t{-1};
    products_ = needs_dots_ ? b_.sbuf("products", Dtype::float32, at_.count, at_.width, 1) : std::int16_t{-1};
    unit_ = b_.psum("unit", Dtype::float32, partitions_, piece_);
    sums_ = scalars("sums", 2 * n_, 2);
  }

  bool sums() const { return needs_dots_ || needs_adds_; }
  bool uses_statistics() const { return s_.input_gradient || weight_gradient_; }

  // Of each channel of a lane, sum(grad_out) and, behind those, sum(grad_out xhat); its rstd and its shift, as far as
  // `pitch` apart.
  void add_up(std::int16_t of_lane, std::int64_t pitch, const Index& base) {
    if (needs_adds_) {
      b_.tensor_reduce(lanes(sums_, n_), on_chip_tile(grad_, at_.count, tiling::dims(n_, plane(), plane()), base),
                       Alu::add);
    } else {
      b_.memset(lanes(sums_, n_), 0);
    }
    if (!needs_dots_) {
      b_.memset(lanes(sums_, n_, n_), 0);
      return;
    }
    each_channel([&](const Index& i) {
      const Tile rstd = lanes(of_lane, 1, i * pitch),
                 shift = lanes(of_lane, 1, i * pitch + std::max<std::int64_t>(pitch * n_, 1));
      pieces(i, [&](auto part, std::int64_t width) {
        const Tile unit = lanes(unit_, width);
        rows::activation(b_, unit, part(x_, base), Activation::copy, {.scale = rstd, .bias = shift});
        b_.tensor_tensor(part(products_), part(grad_, base), unit, Alu::multiply);
      });
      const Tile products = plane_of(products_, i);
      rows::activation_reduce(b_, products, lanes(sums_, 1, i + n_), products, Activation::copy);
    });
  }

  // slope and offset lie side by side, a channel's own `pitch` apart from the next one's.
  void apply(std::int16_t scale, const Index& slope, std::int16_t of_lane, std::int64_t pitch, const Index& base) {
    each_channel([&](const Index& i) {
      const Tile factor = lanes(scale, 1, i);
      if (!depends_on_sums_) {
        rows::activation(b_, plane_of(out_, i), plane_of(grad_, i, base), Activation::copy, {.scale = factor});
        return;
      }
      const Index at = slope + i * pitch;
      const Tile bias = lanes(of_lane, 1, at + std::max<std::int64_t>(pitch * n_, 1));
      pieces(i, [&](auto part, std::int64_t width) {
        const Tile unit = lanes(unit_, width);
        rows::activation(b_, unit, part(x_, base), Activation::copy, {.scale = lanes(of_lane, 1, at), .bias = bias});
        rows::op(b_, Opcode::scalar_tensor_tensor, part(out_), {part(grad_, base), unit, factor}, Alu::multiply,
                 Alu::add);
      });
    });
  }

  const std::int64_t n_;        // channels of a lane
  const bool depends_on_sums_;  // grad_in
  const bool weight_gradient_, needs_dots_, needs_adds_;
  std::int16_t grad_hbm_ = -1, x_hbm_ = -1, mean_hbm_ = -1, rstd_hbm_ = -1, weight_ = -1, out_hbm_ = -1,
               weight_out_ = -1, bias_out_ = -1;
  std::int16_t grad_ = -1, x_ = -1, out_ = -1, products_ = -1, unit_ = -1, sums_ = -1;
};

class GroupBackward final : public Backward {
 public:
  GroupBackward(const target::Target& target, const NormShape& shape, const Lanes& lanes)
      : Backward(target, shape, lanes), all_channels_(n_ * at_.tiles_per_sample) {
    give_tiles(0);
    statistics_ = scalars("statistics", 2, 2);
    means_ = scalars("means", 1, 2);
    of_lane_ = scalars("lane_statistics", 2, 2);
    if (s_.input_gradient) {
      scale_ = scalars("scale", n_, 2);
      weighted_ = weight_ >= 0 ? scalars("weighted", 2 * n_, 2) : sums_;
      lane_sums_ = scalars("lane_sums", 2, 2);
      gathered_ = scalars("gathered", 2 * at_.lanes_per_group, 2);
      totals_ = scalars("totals", 2, 2);
      bends_ = scalars("bends", 2, 2);
      lane_bends_ = scalars("lane_bends", 2, 2);
    }
    if (weight_ >= 0) {
      parameters_ = scalars("parameters", all_channels_);
      weights_ = scalars("weights", all_channels_);
    }
    if (weight_gradient_ || s_.bias_gradient) {
      collected_ = scalars("collected", num_shares_ * 2 * all_channels_);
      of_owner_ = scalars("owner_sums", entries() * 2 * all_channels_);
      gradients_ = scalars("gradients", 2 * all_channels_);
    }
  }

  program::Program emit() override {
    if (weight_ >= 0 || collected_ >= 0) {
      b_.nest("parameters");
    }
    if (weight_ >= 0) {
      b_.dma(owners(parameters_, all_channels_), parameters_in_hbm(weight_));
      to_lanes(0, weights_, parameters_, all_channels_);
    }
    if (collected_ >= 0) {
      b_.memset(lanes(collected_, num_shares_ * 2 * all_channels_), 0);
    }
    b_.nest("body");
    const auto all_tiles = [&](const Index& step, const Index& share, bool is_parallel) {
      b_.loop(
          at_.tiles_per_sample, [&](const Index& t) { emit_tile(step * at_.tiles_per_sample + t, t, share); },
          is_parallel);
    };
    if (num_shares_ == 1) {
      b_.parallel_loop(at_.tiles_per_sample, [&](const Index& t) {
        b_.loop(at_.steps(), [&](const Index& step) { emit_tile(step * at_.tiles_per_sample + t, t, 0); });
      });
    } else {
      shared_steps([&](const Index& step, const Index& share) { all_tiles(step, share, true); });
    }
    if (collected_ >= 0) {
      b_.nest("parameter_gradients");
      finish_parameters();
    }
    return b_.take();
  }

 private:
  Tile parameters_in_hbm(std::int16_t hbm) const {
    return hbm_tile(hbm, at_.owners(), n_, tiling::dims(at_.tiles_per_sample, at_.owners() * n_, n_));
  }

  void emit_tile(const Index& tile, const Index& t, const Index& share) {
    const auto in_hbm = [&](std::int16_t hbm) { return hbm_tile(hbm, at_.groups(), 1, {{1, 1}}, tile * at_.groups()); };
    const Tile mean = group_owners(means_, 1), rstd = group_owners(statistics_, 1);
    load(grad_, grad_hbm_, tile);
    if (needs_dots_) {
      load(x_, x_hbm_, tile);
    }
    if (uses_statistics()) {
      b_.dma(mean, in_hbm(mean_hbm_));
      b_.dma(rstd, in_hbm(rstd_hbm_));
      rows::scaled_product(b_, group_owners(statistics_, 1, 1), mean, rstd, -1);
      groups_to_lanes(of_lane_, statistics_, 2);
    }
    add_up(of_lane_, 0, 0);
    if (collected_ >= 0) {
      // sum(grad_out) of all tiles, then sum(grad_out xhat).
      const Tile into =
          on_chip_tile(collected_, at_.count, tiling::dims(2, all_channels_, n_), share * (2 * all_channels_) + t * n_);
      b_.tensor_tensor(into, into, on_chip_tile(sums_, at_.count, tiling::dims(2, n_, n_)), Alu::add);
    }
    if (s_.input_gradient) {
      bend(t, mean, rstd);
      apply(scale_, 0, lane_bends_, 0, 0);
      store(out_hbm_, out_, tile);
    }
  }

  void bend(const Index& t, const Tile& mean, const Tile& rstd) {
    if (weight_ >= 0) {
      const Tile weights = channels(weights_, t * n_);
      Tile twice = weights;
      twice.free.insert(twice.free.begin(), Dim{2, 0});
      rows::op(b_, Opcode::tensor_scalar, channels(scale_, 0), {weights, lanes(of_lane_, 1)}, Alu::multiply);
      b_.tensor_tensor(on_chip_tile(weighted_, at_.count, tiling::dims(2, n_, n_)),
                       on_chip_tile(sums_, at_.count, tiling::dims(2, n_, n_)), twice, Alu::multiply);
    } else {
      b_.tensor_copy(channels(scale_, 0), on_chip_tile(of_lane_, at_.count, std::vector<Dim>{{n_, 0}}));
    }
    b_.tensor_reduce(lanes(lane_sums_, 2), on_chip_tile(weighted_, at_.count, tiling::dims(2, n_, n_)), Alu::add);
    lanes_to_groups(gathered_, lane_sums_, 2);
    b_.tensor_reduce(group_owners(totals_, 2),
                     on_chip_tile(gathered_, at_.groups(), {{2, 1}, {at_.lanes_per_group, 2}}), Alu::add);
    const float share = -1.0F / static_cast<float>(s_.cols);
    const Tile add = group_owners(totals_, 1), dot = group_owners(totals_, 1, 1);
    const Tile slope = group_owners(bends_, 1), offset = group_owners(bends_, 1, 1);
    rows::scaled_product(b_, slope, dot, rstd, share);
    b_.tensor_tensor(slope, slope, rstd, Alu::multiply);
    rows::scaled_product(b_, offset, add, rstd, share);
    b_.tensor_tensor(dot, mean, slope, Alu::multiply);
    b_.tensor_tensor(offset, offset, dot, Alu::subtract);
    groups_to_lanes(lane_bends_, bends_, 2);
  }

  void finish_parameters() {
    const std::int64_t all = 2 * all_channels_;
    for (std::int64_t share = 1; share < num_shares_; ++share) {
      b_.tensor_tensor(lanes(collected_, all), lanes(collected_, all), lanes(collected_, all, share * all), Alu::add);
    }
    to_owners(0, of_owner_, lanes(collected_, all));
    b_.tensor_reduce(owners(gradients_, all), on_chip_tile(of_owner_, at_.owners(), {{all, 1}, {entries(), all}}),
                     Alu::add);
    if (s_.bias_gradient) {
      b_.dma(parameters_in_hbm(bias_out_), owners(gradients_, all_channels_));
    }
    if (weight_gradient_) {
      b_.dma(parameters_in_hbm(weight_out_), owners(gradients_, all_channels_, all_channels_));
    }
  }

  const std::int64_t all_channels_;  // of a lane, in all tiles of a sample
  std::int16_t statistics_ = -1, means_ = -1, of_lane_ = -1, scale_ = -1, weighted_ = -1, lane_sums_ = -1,
               gathered_ = -1, totals_ = -1, bends_ = -1, lane_bends_ = -1;
  std::int16_t parameters_ = -1, weights_ = -1, collected_ = -1, of_owner_ = -1, gradients_ = -1;
};

class BatchBackward final : public Backward {
 public:
  BatchBackward(const target::Target& target, const NormShape& shape, const Lanes& lanes)
      : Backward(target, shape, lanes),
        is_kept_(s_.input_gradient && sums() &&
                 fits(at_.steps() * 2 * itemsize(dtype_) + 2 * itemsize(dtype_) + itemsize(Dtype::float32))) {
    give_tiles(is_kept_ ? at_.steps() : 0);
    means_ = scalars("means", n_);
    statistics_ = scalars("statistics", 2 * n_);
    of_lane_ = scalars("lane_statistics", 2 * n_);
    if (sums()) {
      collected_ = scalars("collected", num_shares_ * 2 * n_);
      gathered_ = scalars("gathered", num_shares_ * entries() * 2 * n_);
      totals_ = scalars("totals", 2 * n_);
    }
    if (s_.input_gradient) {
      coefficients_ = scalars("coefficients", 3 * n_);
      lane_coefficients_ = scalars("lane_coefficients", 3 * n_);
      parameter_ = scalars("parameter", n_);
    }
  }

  program::Program emit() override {
    looped_tiles([&](const Index& t) {
      if (uses_statistics()) {
        phase("parameters");
        load_statistics(t);
      }
      if (sums()) {
        phase("sums");
        b_.memset(lanes(collected_, num_shares_ * 2 * n_), 0);
        shared_steps([&](const Index& step, const Index& share) {
          const Index base = load_tile(step, t, needs_dots_);
          add_up(of_lane_, 1, base);
          const Tile into = lanes(collected_, 2 * n_, share * (2 * n_));
          b_.tensor_tensor(into, into, lanes(sums_, 2 * n_), Alu::add);
        });
      }
      phase("coefficients");
      finish(t);
      if (s_.input_gradient) {
        phase("result");
        b_.parallel_loop(at_.steps(), [&](const Index& step) {
          const Index base = is_kept_ ? step * at_.width : load_tile(step, t, depends_on_sums_);
          apply(lane_coefficients_, n_, lane_coefficients_, 1, base);
          store(out_hbm_, out_, step * at_.tiles_per_sample + t);
        });
      }
    });
    return b_.take();
  }

 private:
  Index load_tile(const Index& step, const Index& t, bool with_x) {
    const Index tile = step * at_.tiles_per_sample + t, base = is_kept_ ? step * at_.width : Index(0);
    load(grad_, grad_hbm_, tile, base);
    if (with_x) {
      load(x_, x_hbm_, tile, base);
    }
    return base;
  }

  void load_statistics(const Index& t) {
    const Tile mean = owners(means_, n_), rstd = owners(statistics_, n_);
    b_.dma(mean, channels_in_hbm(mean_hbm_, t));
    b_.dma(rstd, channels_in_hbm(rstd_hbm_, t));
    if (!s_.training) {
      b_.activation(rstd, rstd, Activation::rsqrt, 1, s_.eps);
    }
    rows::scaled_product(b_, owners(statistics_, n_, n_), mean, rstd, -1);
    if (needs_dots_) {
      to_lanes(0, of_lane_, statistics_, 2 * n_);
    }
  }

  void finish(const Index& t) {
    const std::int64_t each = entries() * 2 * n_;
    if (sums()) {
      for (std::int64_t share = 0; share < num_shares_; ++share) {
        to_owners(share * each, gathered_, lanes(collected_, 2 * n_, share * (2 * n_)));
      }
      b_.tensor_reduce(owners(totals_, 2 * n_),
                       on_chip_tile(gathered_, at_.owners(), {{2 * n_, 1}, {num_shares_ * entries(), 2 * n_}}),
                       Alu::add);
    }
    const Tile add = owners(totals_, n_), dot = owners(totals_, n_, n_);
    if (s_.bias_gradient) {
      b_.dma(channels_in_hbm(bias_out_, t), add);
    }
    if (weight_gradient_) {
      b_.dma(channels_in_hbm(weight_out_, t), dot);
    }
    if (!s_.input_gradient) {
      return;
    }
    const Tile mean = owners(means_, n_), rstd = owners(statistics_, n_), parameter = owners(parameter_, n_);
    const Tile scale = owners(coefficients_, n_), slope = owners(coefficients_, n_, n_),
               offset = owners(coefficients_, n_, 2 * n_);
    if (weight_ >= 0) {
      b_.dma(parameter, channels_in_hbm(weight_, t));
      b_.tensor_tensor(scale, rstd, parameter, Alu::multiply);
    } else {
      b_.tensor_copy(scale, rstd);
    }
    if (depends_on_sums_) {
      const float share = -1.0F / static_cast<float>(s_.cols);
      rows::scaled_product(b_, slope, dot, scale, share);
      b_.tensor_tensor(slope, slope, rstd, Alu::multiply);
      rows::scaled_product(b_, offset, add, scale, share);
      b_.tensor_tensor(parameter, mean, slope, Alu::multiply);
      b_.tensor_tensor(offset, offset, parameter, Alu::subtract);
    }
    to_lanes(0, lane_coefficients_, coefficients_, (depends_on_sums_ ? 3 : 1) * n_);
  }

  const bool is_kept_;  // what is read for its sums stays in SBUF
  std::int16_t means_ = -1, statistics_ = -1, of_lane_ = -1, collected_ = -1, gathered_ = -1, totals_ = -1,
               coefficients_ = -1, lane_coefficients_ = -1, parameter_ = -1;
};

}  // namespace

std::optional<program::Program> backward(const target::Target& target, const NormShape& shape) {
  const std::int64_t size = itemsize(tiling::sbuf_dtype(shape.dtype));
  const auto lanes = lanes_of(target, shape, 3 * size, itemsize(Dtype::float32));
  if (!lanes) {
    return std::nullopt;
  }
  return shape.kind == NormKind::group ? GroupBackward(target, shape, *lanes).emit()
                                       : BatchBackward(target, shape, *lanes).emit();
}

}  // namespace trn::kernels::planes
