// Layer, RMS, group and batch normalisation, forward.
#include <algorithm>
#include <optional>

#include "kernels/build.h"
#include "kernels/norm_parameters.h"

namespace trn::kernels {

using rows::Index;
using rows::Opcode;
using rows::RowKernel;
using rows::RowTensor;
using rows::Tile;

namespace {

constexpr float kEpsilon = 1e-5f;
constexpr std::int64_t kStatistics = 6;  // that bn_stats makes of a piece

class NormForward {
 public:
  NormForward(const target::Target& target, const NormShape& shape)
      : s_(shape),
        geometry_(shape),
        piece_(target.core.moving_free_max_elements),
        measures_(shape.kind != NormKind::batch || shape.training),
        k_(target, "norm", shape.rows, shape.cols, geometry_.across) {
    k_.set_unit(s_.kind == NormKind::group ? geometry_.spatial : 1);
    x_ = k_.tensor("in", s_.dtype, false, geometry_.run_elements);
    if (s_.weight) {
      weight_.emplace(k_, s_, geometry_, "weight");
    }
    if (s_.bias) {
      bias_.emplace(k_, s_, geometry_, "bias");
    }
    auto& b = k_.builder;
    const bool updates = s_.kind == NormKind::batch && s_.training && s_.running_statistics;
    if (!measures_ || updates) {
      running_mean_ = b.hbm("running_mean", s_.parameter_dtype, s_.rows);
      running_var_ = b.hbm("running_var", s_.parameter_dtype, s_.rows);
    }
    out_ = k_.tensor("out", s_.dtype, true, geometry_.run_elements);
    if (measures_) {
      saved_mean_ = s_.kind == NormKind::rms ? -1 : b.hbm("mean", s_.parameter_dtype, s_.rows, true);
      saved_rstd_ = b.hbm("rstd", s_.parameter_dtype, s_.rows, true);
    }
    if (updates) {
      new_mean_ = b.hbm("new_running_mean", s_.parameter_dtype, s_.rows, true);
      new_var_ = b.hbm("new_running_var", s_.parameter_dtype, s_.rows, true);
    }
    give_tiles();
  }

  program::Program emit() {
    auto& b = k_.builder;
    if (s_.rows > 0 && s_.cols > 0 && !geometry_.per_row && (weight_ || bias_)) {
      b.nest("parameters");
      each_parameter([](NormParameter& parameter) { parameter.load_once(); });
    }
    k_.row_groups([&](const Index& row, std::int64_t p, std::int64_t g) {
      each_parameter([&](NormParameter& parameter) { parameter.load_group(row, p, g); });
      if (running_mean_ >= 0) {
        k_.load_column(running_mean_, measures_ ? old_mean_ : mean_, row, p, g);
        k_.load_column(running_var_, measures_ ? old_var_ : var_, row, p, g);
      }
      if (measures_ && !k_.resident()) {
        b.memset(tiling::on_chip_tile(stats_, p, kStatistics), 0);
        b.memset(tiling::on_chip_tile(var_, p, g), 0);
      }
      if (measures_ || k_.resident()) {
        k_.chunks([&](const Index& col, std::int64_t width) {
          k_.load(x_, row, p, g, col, width);
          if (measures_) {
            k_.members(g, [&](const Index& j) { measure(p, j, width); });
          }
        });
      }
      k_.members(g, [&](const Index& j) { finish_statistics(p, j); });
      store_statistics(row, p, g);
      k_.chunks([&](const Index& col, std::int64_t width) {
        each_parameter([&](NormParameter& parameter) { parameter.load_chunk(p, col, width); });
        if (!k_.resident()) {
          k_.load(x_, row, p, g, col, width);
        }
        k_.members(g, [&](const Index& j) { normalise(p, j, width); });
        k_.store(out_, row, p, g, col, width);
      });
    });
    return b.take();
  }

 private:
  void give_tiles() {
    const Dtype dtype = tiling::sbuf_dtype(s_.dtype);
    const bool wide = (weight_ || bias_) && !geometry_.per_row;
    const std::int64_t num_parameters = (weight_ ? 1 : 0) + (bias_ ? 1 : 0);
    std::int64_t bytes = itemsize(dtype) * (wide || s_.kind == NormKind::rms ? 6 : 4);
    std::int64_t reserved = kStatistics * 4 * (tiling::ceil_div(s_.cols, piece_) + 1);
    if (s_.kind == NormKind::group) {
      reserved += num_parameters * geometry_.bytes_per_parameter * (geometry_.num_parameters + 2 * s_.channels);
    } else if (wide) {
      bytes += num_parameters * geometry_.bytes_per_parameter;
    }
    k_.plan(bytes, itemsize(dtype), std::min(reserved, k_.sbuf_bytes() / 4));
    if (!k_.resident() && wide && s_.kind != NormKind::group) {
      bytes += num_parameters * geometry_.bytes_per_parameter;
      k_.plan(bytes, itemsize(dtype), std::min(reserved, k_.sbuf_bytes() / 4));
    }
    k_.give_tile(x_);
    k_.give_tile(out_);
    if (wide || s_.kind == NormKind::rms) {
      work_ = k_.work("work", dtype);
    }
    each_parameter([](NormParameter& parameter) { parameter.give_tile(); });
    mean_ = k_.column("mean_column");
    var_ = k_.column("var_column");
    rstd_ = k_.column("rstd_column");
    shift_ = k_.column("shift_column");
    scale_ = k_.column("scale_column");
    if (new_mean_ >= 0) {
      old_mean_ = k_.column("running_mean_column");
      old_var_ = k_.column("running_var_column");
    }
    stats_ = k_.builder.sbuf("stats", Dtype::float32, k_.partitions(),
                             kStatistics * (tiling::ceil_div(k_.chunk(), piece_) + 1));
  }

  template <class Body>
  void each_parameter(Body body) {
    if (weight_) {
      body(*weight_);
    }
    if (bias_) {
      body(*bias_);
    }
  }

  // bn_stats of each piece of a chunk, and bn_aggr of them and of what went before; rms: the sum of squares.
  void measure(std::int64_t p, const Index& j, std::int64_t width) {
    auto& b = k_.builder;
    if (s_.kind == NormKind::rms) {
      const Tile sum = k_.scalar(k_.resident() ? var_ : mean_, p, j);
      rows::activation_reduce(b, k_.row(work_, p, j, width), sum, k_.row(x_.tile, p, j, width), Activation::square);
      if (!k_.resident()) {
        b.tensor_tensor(k_.scalar(var_, p, j), k_.scalar(var_, p, j), sum, Alu::add);
      }
      return;
    }
    for (const auto& segment : tiling::split(width, piece_)) {
      b.loop(segment.trips, [&](const Index& i) {
        rows::op(b, Opcode::bn_stats,
                 tiling::on_chip_tile(stats_, p, kStatistics, i * kStatistics + kStatistics * segment.start / piece_),
                 {tiling::on_chip_tile(x_.tile, p, segment.size, j * k_.chunk() + i * piece_ + segment.start)});
      });
    }
    const std::int64_t pieces = tiling::ceil_div(width, piece_) + (k_.resident() ? 0 : 1);
    rows::op(b, Opcode::bn_aggr, tiling::on_chip_tile(k_.resident() ? mean_ : stats_, p, 1, j),
             {tiling::on_chip_tile(stats_, p, kStatistics * pieces)});
  }

  // rstd, and what ScalarE applies to x: scale * x + shift.
  void finish_statistics(std::int64_t p, const Index& j) {
    auto& b = k_.builder;
    auto column = [&](std::int16_t buffer) { return k_.scalar(buffer, p, j); };
    if (s_.kind == NormKind::rms) {
      b.activation(column(rstd_), column(var_), Activation::rsqrt, 1.0f / static_cast<float>(s_.cols), kEpsilon);
      return;
    }
    b.activation(column(rstd_), column(var_), Activation::rsqrt, 1, kEpsilon);
    if (new_mean_ >= 0) {
      for (const auto& [old, current] : {std::pair{old_mean_, mean_}, std::pair{old_var_, var_}}) {
        b.tensor_scalar(column(old), column(old), Alu::multiply, 0.9f);
        rows::op(b, Opcode::scalar_tensor_tensor, column(old), {column(current), column(old)}, Alu::multiply, Alu::add);
      }
    }
    Tile scale = column(rstd_);
    if (geometry_.per_row && weight_) {
      b.tensor_tensor(column(scale_), column(rstd_), weight_->scalar(p, j), Alu::multiply);
      scale = column(scale_);
    }
    rows::op(b, Opcode::tensor_scalar, column(shift_), {column(mean_), scale}, Alu::multiply);
    if (geometry_.per_row && bias_) {
      b.tensor_tensor(column(shift_), bias_->scalar(p, j), column(shift_), Alu::subtract);
    }
  }

  void store_statistics(const Index& row, std::int64_t p, std::int64_t g) {
    auto store = [&](std::int16_t hbm, std::int16_t column) {
      if (hbm >= 0) {
        k_.store_column(hbm, column, row, p, g);
      }
    };
    store(saved_mean_, mean_);
    store(saved_rstd_, rstd_);
    store(new_mean_, old_mean_);
    store(new_var_, old_var_);
  }

  void normalise(std::int64_t p, const Index& j, std::int64_t width) {
    auto& b = k_.builder;
    const Tile x = k_.row(x_.tile, p, j, width), out = k_.row(out_.tile, p, j, width);
    const bool wide = (weight_ || bias_) && !geometry_.per_row;
    const Tile unit = wide ? k_.row(work_, p, j, width) : out;
    if (s_.kind == NormKind::rms) {
      rows::activation(b, unit, x, Activation::copy, {.scale = k_.scalar(rstd_, p, j)});
    } else {
      const bool scaled = geometry_.per_row && weight_;
      rows::activation(b, unit, x, Activation::copy,
                       {.scale = k_.scalar(scaled ? scale_ : rstd_, p, j), .bias = k_.scalar(shift_, p, j)});
    }
    if (wide && weight_) {
      b.tensor_tensor(bias_ ? unit : out, unit, weight_->wide(p, j, width), Alu::multiply);
    }
    if (wide && bias_) {
      b.tensor_tensor(out, unit, bias_->wide(p, j, width), Alu::add);
    }
  }

  const NormShape& s_;
  const NormGeometry geometry_;
  const std::int64_t piece_;
  const bool measures_;  // statistics are computed here
  RowKernel k_;
  RowTensor x_, out_;
  std::optional<NormParameter> weight_, bias_;
  std::int16_t running_mean_ = -1, running_var_ = -1, saved_mean_ = -1, saved_rstd_ = -1, new_mean_ = -1, new_var_ = -1;
  std::int16_t mean_ = -1, var_ = -1, rstd_ = -1, shift_ = -1, scale_ = -1, old_mean_ = -1, old_var_ = -1;
  std::int16_t stats_ = -1, work_ = -1;
};

}  // namespace

// HBM bytes, forward: x read once (twice where a row does not fit in SBUF and statistics are computed) and out written;
// weight and bias read once (layer and rms: once per 128 rows where a row does not fit); statistics that are computed
// are written, running ones read and, in training, written.
program::Program norm(const target::Target& target, const NormShape& shape) {
  return shape.backward ? norm_backward(target, shape) : NormForward(target, shape).emit();
}

}  // namespace trn::kernels
