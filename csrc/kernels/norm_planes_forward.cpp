// Group and batch normalisation with the planes of channels on partitions, forward.
#include "kernels/norm_planes.h"

namespace trn::kernels::planes {
namespace {

class Forward : public Planes {
 protected:
  Forward(const target::Target& target, const NormShape& shape, const Lanes& lanes)
      : Planes(target, shape, lanes, "norm") {
    const std::int64_t elements = s_.rows * s_.cols, num_parameters = at_.channels;
    const Dtype statistics = statistics_dtype(s_);
    const bool measures = is_group() || s_.training, updates = !is_group() && s_.training && s_.running_statistics;
    x_hbm_ = b_.hbm("in", s_.dtype, elements);
    weight_ = s_.weight ? b_.hbm("weight", s_.parameter_dtype, num_parameters) : -1;
    bias_ = s_.bias ? b_.hbm("bias", s_.parameter_dtype, num_parameters) : -1;
    if (!measures || updates) {
      running_mean_ = b_.hbm("running_mean", statistics, s_.rows);
      running_var_ = b_.hbm("running_var", statistics, s_.rows);
    }
    out_hbm_ = b_.hbm("out", s_.dtype, elements, true);
    if (measures) {
      saved_mean_ = b_.hbm("mean", statistics, s_.rows, true);
      saved_rstd_ = b_.hbm("rstd", statistics, s_.rows, true);
    }
    if (updates) {
      new_mean_ = b_.hbm("new_running_mean", statistics, s_.rows, true);
      new_var_ = b_.hbm("new_running_var", statistics, s_.rows, true);
    }
  }

  // bn_stats of pieces of the tile's elements from `first` on, behind `at` of the statistics. How many they are.
  std::int64_t measure(const Index& at, const Index& first, std::int64_t elements) {
    for (const auto& segment : tiling::split(elements, piece_)) {
      b_.loop(segment.trips, [&](const Index& i) {
        rows::op(b_, Opcode::bn_stats,
                 lanes(stats_, kStatistics, at + i * kStatistics + kStatistics * segment.start / piece_),
                 {lanes(x_, segment.size, first + i * piece_ + segment.start)});
      });
    }
    return kStatistics * ceil_div(elements, piece_);
  }

  // out = scale x + shift; these are the channels' own, or all channels' where `pitch` is 0.
  void apply(const Tile& scale, const Tile& shift, std::int64_t pitch, const Index& base) {
    const auto pass = [&](const Tile& out, const Tile& x, const Index& channel) {
      Tile factor = scale, addend = shift;
      for (Tile* tile : {&factor, &addend}) {
        *tile = lanes(tile->buffer, 1, Index(tile->offset, tile->loop_strides) + channel * pitch);
      }
      rows::activation(b_, out, x, Activation::copy, {.scale = factor, .bias = addend});
    };
    if (pitch == 0) {
      pass(lanes(out_, at_.width), lanes(x_, at_.width, base), 0);
    } else {
      each_channel([&](const Index& i) { pass(plane_of(out_, i), plane_of(x_, i, base), i); });
    }
  }

  std::int16_t x_hbm_ = -1, weight_ = -1, bias_ = -1, out_hbm_ = -1;
  std::int16_t running_mean_ = -1, running_var_ = -1, saved_mean_ = -1, saved_rstd_ = -1, new_mean_ = -1, new_var_ = -1;
  std::int16_t x_ = -1, out_ = -1, stats_ = -1;
};

class GroupForward final : public Forward {
 public:
  GroupForward(const target::Target& target, const NormShape& shape, const Lanes& lanes)
      : Forward(target, shape, lanes), all_channels_(at_.channels_per_lane * at_.tiles_per_sample) {
    x_ = elements("tile");
    out_ = elements("result");
    stats_ = scalars("stats", kStatistics * ceil_div(at_.width, piece_), 2);
    triple_ = scalars("triple", kTriple, 2);
    gathered_ = scalars("group_triples", kTriple * at_.lanes_per_group, 2);
    moments_ = scalars("moments", 2, 2);
    of_group_ = scalars("group_coefficients", 2, 2);
    of_lane_ = scalars("lane_coefficients", 2, 2);
    if (weight_ >= 0 || bias_ >= 0) {
      parameters_ = scalars("parameters", all_channels_);
    }
    const auto parameter = [&](std::int16_t hbm, const char* name) {
      return hbm >= 0 ? scalars(name, all_channels_) : std::int16_t{-1};
    };
    weights_ = parameter(weight_, "weights");
    biases_ = parameter(bias_, "biases");
    scale_ = weight_ >= 0 ? scalars("scale", at_.channels_per_lane, 2) : std::int16_t{-1};
    shift_ = weight_ >= 0 || bias_ >= 0 ? scalars("shift", at_.channels_per_lane, 2) : std::int16_t{-1};
  }

  program::Program emit() override {
    if (parameters_ >= 0) {
      b_.nest("parameters");
      load_parameter(weights_, weight_);
      load_parameter(biases_, bias_);
    }
    b_.nest("body");
    b_.parallel_loop(at_.steps(), [&](const Index& step) {
      b_.parallel_loop(at_.tiles_per_sample, [&](const Index& t) { emit_tile(step * at_.tiles_per_sample + t, t); });
    });
    return b_.take();
  }

 private:
  void load_parameter(std::int16_t to, std::int16_t hbm) {
    if (hbm < 0) {
      return;
    }
    const std::int64_t n = at_.channels_per_lane, pitch = at_.owners() * n;
    b_.dma(owners(parameters_, all_channels_),
           hbm_tile(hbm, at_.owners(), n, tiling::dims(at_.tiles_per_sample, pitch, n)));
    to_lanes(0, to, parameters_, all_channels_);
  }

  void emit_tile(const Index& tile, const Index& t) {
    load(x_, x_hbm_, tile);
    const std::int64_t all = measure(0, 0, at_.width);
    const auto width = static_cast<float>(at_.width);
    b_.memset(lanes(triple_, 1), width);
    rows::op(b_, Opcode::bn_aggr, lanes(triple_, 2, 1), {lanes(stats_, all)});
    b_.tensor_scalar(lanes(triple_, 1, 2), lanes(triple_, 1, 2), Alu::multiply, width);
    lanes_to_groups(gathered_, triple_, kTriple);
    const Tile mean = group_owners(moments_, 1), rstd = group_owners(of_group_, 1);
    rows::op(b_, Opcode::bn_aggr, group_owners(moments_, 2), {group_owners(gathered_, kTriple * at_.lanes_per_group)});
    b_.activation(rstd, group_owners(moments_, 1, 1), Activation::rsqrt, 1, s_.eps);
    rows::scaled_product(b_, group_owners(of_group_, 1, 1), mean, rstd, -1);
    const auto in_hbm = [&](std::int16_t hbm) { return hbm_tile(hbm, at_.groups(), 1, {{1, 1}}, tile * at_.groups()); };
    b_.dma(in_hbm(saved_mean_), mean);
    b_.dma(in_hbm(saved_rstd_), rstd);
    groups_to_lanes(of_lane_, of_group_, 2);
    weigh(t * at_.channels_per_lane);
    const bool is_each = scale_ >= 0 || shift_ >= 0;
    if (shift_ >= 0 && scale_ < 0) {
      each_channel([&](const Index& i) {
        rows::activation(b_, plane_of(out_, i), plane_of(x_, i), Activation::copy,
                         {.scale = lanes(of_lane_, 1), .bias = lanes(shift_, 1, i)});
      });
    } else {
      apply(lanes(is_each ? scale_ : of_lane_, 1), is_each ? lanes(shift_, 1) : lanes(of_lane_, 1, 1), is_each, 0);
    }
    store(out_hbm_, out_, tile);
  }

  // A group's coefficients times its channels' weights, plus their biases.
  void weigh(const Index& channel) {
    const Tile rstd = lanes(of_lane_, 1), offset = lanes(of_lane_, 1, 1);
    if (scale_ >= 0) {
      const Tile weights = channels(weights_, channel);
      rows::op(b_, Opcode::tensor_scalar, channels(scale_, 0), {weights, rstd}, Alu::multiply);
      if (bias_ >= 0) {
        rows::op(b_, Opcode::scalar_tensor_tensor, channels(shift_, 0), {weights, channels(biases_, channel), offset},
                 Alu::multiply, Alu::add);
      } else {
        rows::op(b_, Opcode::tensor_scalar, channels(shift_, 0), {weights, offset}, Alu::multiply);
      }
    } else if (bias_ >= 0) {
      rows::op(b_, Opcode::tensor_scalar, channels(shift_, 0), {channels(biases_, channel), offset}, Alu::add);
    }
  }

  const std::int64_t all_channels_;  // of a lane, in all tiles of a sample
  std::int16_t triple_ = -1, gathered_ = -1, moments_ = -1, of_group_ = -1, of_lane_ = -1;
  std::int16_t parameters_ = -1, weights_ = -1, biases_ = -1, scale_ = -1, shift_ = -1;
};

class BatchForward final : public Forward {
 public:
  BatchForward(const target::Target& target, const NormShape& shape, const Lanes& lanes)
      : Forward(target, shape, lanes),
        n_(at_.channels_per_lane),
        pitch_(kTriple + kStatistics * ceil_div(plane(), piece_)),
        is_kept_(s_.training && fits(at_.steps() * itemsize(dtype_) + 2 * itemsize(dtype_))) {
    x_ = is_kept_ ? kept_elements("tile", at_.steps()) : elements("tile");
    out_ = elements("result");
    moments_ = scalars("moments", 2 * n_);
    rstd_ = scalars("rstd_column", n_);
    coefficients_ = scalars("coefficients", 2 * n_);
    of_lane_ = scalars("lane_coefficients", 2 * n_);
    parameter_ = scalars("parameter", n_);
    if (s_.training) {
      stats_ = scalars("stats", num_shares_ * n_ * pitch_);
      gathered_ = scalars("gathered", num_shares_ * entries() * n_ * kTriple);
    }
  }

  program::Program emit() override {
    looped_tiles([&](const Index& t) {
      if (s_.training) {
        phase("statistics");
        measure_all(t);
      }
      phase("coefficients");
      find_moments(t);
      finish(t);
      phase("result");
      b_.parallel_loop(at_.steps(), [&](const Index& step) {
        const Index tile = step * at_.tiles_per_sample + t, base = is_kept_ ? step * at_.width : Index(0);
        if (!is_kept_) {
          load(x_, x_hbm_, tile);
        }
        apply(lanes(of_lane_, 1), lanes(of_lane_, 1, n_), 1, base);
        store(out_hbm_, out_, tile);
      });
    });
    return b_.take();
  }

 private:
  void measure_all(const Index& t) {
    b_.memset(on_chip_tile(stats_, at_.count, {{num_shares_ * n_, pitch_}, {kTriple, 1}}), 0);
    shared_steps([&](const Index& step, const Index& share) {
      const Index base = is_kept_ ? step * at_.width : Index(0);
      load(x_, x_hbm_, step * at_.tiles_per_sample + t, base);
      each_channel([&](const Index& i) {
        const Index at = (share * n_ + i) * pitch_;
        const std::int64_t all = measure(at + kTriple, base + i * plane(), plane());
        rows::join_statistics(b_, stats_, at_.count, at, kTriple + all, plane());
      });
    });
  }

  void find_moments(const Index& t) {
    if (!s_.training) {
      b_.dma(owners(moments_, n_), channels_in_hbm(running_mean_, t));
      b_.dma(owners(moments_, n_, n_), channels_in_hbm(running_var_, t));
      return;
    }
    const std::int64_t each = entries() * n_ * kTriple;
    for (std::int64_t share = 0; share < num_shares_; ++share) {
      to_owners(share * each, gathered_,
                on_chip_tile(stats_, at_.count, tiling::dims(n_, pitch_, kTriple), share * n_ * pitch_));
    }
    each_channel([&](const Index& i) {
      rows::op(b_, Opcode::bn_aggr, on_chip_tile(moments_, at_.owners(), std::vector<Dim>{{2, n_}}, i),
               {on_chip_tile(gathered_, at_.owners(), tiling::dims(num_shares_ * entries(), n_ * kTriple, kTriple),
                             i * kTriple)});
    });
  }

  void finish(const Index& t) {
    const Tile mean = owners(moments_, n_), var = owners(moments_, n_, n_), rstd = owners(rstd_, n_);
    const Tile scale = owners(coefficients_, n_), shift = owners(coefficients_, n_, n_),
               parameter = owners(parameter_, n_);
    b_.activation(rstd, var, Activation::rsqrt, 1, s_.eps);
    if (saved_mean_ >= 0) {
      b_.dma(channels_in_hbm(saved_mean_, t), mean);
      b_.dma(channels_in_hbm(saved_rstd_, t), rstd);
    }
    if (new_mean_ >= 0) {
      const float unbiased = static_cast<float>(s_.cols) / static_cast<float>(s_.cols - 1);
      const auto update = [&](std::int16_t to, std::int16_t from, const Tile& current, float share) {
        b_.dma(parameter, channels_in_hbm(from, t));
        update_running(b_, parameter, current, s_.momentum, share);
        b_.dma(channels_in_hbm(to, t), parameter);
      };
      update(new_mean_, running_mean_, mean, s_.momentum);
      update(new_var_, running_var_, var, s_.momentum * unbiased);
    }
    if (weight_ >= 0) {
      b_.dma(parameter, channels_in_hbm(weight_, t));
      b_.tensor_tensor(scale, rstd, parameter, Alu::multiply);
    } else {
      b_.tensor_copy(scale, rstd);
    }
    rows::scaled_product(b_, shift, mean, scale, -1);
    if (bias_ >= 0) {
      b_.dma(parameter, channels_in_hbm(bias_, t));
      b_.tensor_tensor(shift, shift, parameter, Alu::add);
    }
    to_lanes(0, of_lane_, coefficients_, 2 * n_);
  }

  const std::int64_t n_, pitch_;  // channels of a lane; their statistics: a triple of what went before, then pieces
  const bool is_kept_;            // what is read for its statistics stays in SBUF
  std::int16_t gathered_ = -1, moments_ = -1, rstd_ = -1, coefficients_ = -1, of_lane_ = -1, parameter_ = -1;
};

}  // namespace

std::optional<program::Program> forward(const target::Target& target, const NormShape& shape) {
  const auto lanes = lanes_of(target, shape, 2 * itemsize(tiling::sbuf_dtype(shape.dtype)), 0);
  if (!lanes) {
    return std::nullopt;
  }
  return shape.kind == NormKind::group ? GroupForward(target, shape, *lanes).emit()
                                       : BatchForward(target, shape, *lanes).emit();
}

}  // namespace trn::kernels::planes
