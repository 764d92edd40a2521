// Layer, RMS, group and batch normalisation, forward.
#include <algorithm>
#include <optional>

#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/norm_parameters.h"
#include "kernels/norm_planes.h"
#include "kernels/norm_spread.h"
#include "program/count.h"
#include "target/error.h"

namespace trn::kernels {

using rows::Index;
using rows::kStatistics;
using rows::kTriple;
using rows::Opcode;
using rows::RowKernel;
using rows::RowTensor;
using rows::Tile;
using tiling::on_chip_tile;

namespace {

class NormForward {
 public:
  NormForward(const target::Target& target, const NormShape& shape)
      : s_(shape),
        geometry_(shape),
        piece_(target.core.moving_free_max_elements),
        measures_(shape.kind != NormKind::batch || shape.training),
        wide_((shape.weight || shape.bias) && !geometry_.per_row),
        k_(target, "norm", shape.rows, shape.cols) {
    if (s_.kind == NormKind::group) {
      k_.set_unit(geometry_.spatial);
      k_.set_period(geometry_.rows_per_sample);
    }
    x_ = k_.tensor("in", s_.dtype, false, geometry_.run_elements);
    if (s_.weight) {
      weight_.emplace(k_, s_, geometry_, "weight");
    }
    if (s_.bias) {
      bias_.emplace(k_, s_, geometry_, "bias");
    }
    auto& b = k_.builder;
    const Dtype statistics = statistics_dtype(s_);
    const bool updates = s_.kind == NormKind::batch && s_.training && s_.running_statistics;
    if (!measures_ || updates) {
      running_mean_ = b.hbm("running_mean", statistics, s_.rows);
      running_var_ = b.hbm("running_var", statistics, s_.rows);
    }
    out_ = k_.tensor("out", s_.dtype, true, geometry_.run_elements);
    if (measures_) {
      saved_mean_ = s_.kind == NormKind::rms ? -1 : b.hbm("mean", statistics, s_.rows, true);
      saved_rstd_ = b.hbm("rstd", statistics, s_.rows, true);
    }
    if (updates) {
      new_mean_ = b.hbm("new_running_mean", statistics, s_.rows, true);
      new_var_ = b.hbm("new_running_var", statistics, s_.rows, true);
    }
    give_tiles();
  }

  program::Program emit() {
    if (s_.rows > 0 && s_.cols > 0 && wide_ && (k_.resident() || s_.kind == NormKind::group)) {
      k_.builder.nest("parameters");
      each_parameter([](NormParameter& parameter) { parameter.load_once(); });
    }
    each_row_group(k_, s_, geometry_, 0, [&](const RowGroup& group) { emit_group(group); });
    return k_.builder.take();
  }

 private:
  void give_tiles() {
    const Dtype dtype = tiling::sbuf_dtype(s_.dtype);
    const std::int64_t num_parameters = (weight_ ? 1 : 0) + (bias_ ? 1 : 0);
    std::int64_t bytes = 4 * itemsize(dtype);
    std::int64_t reserved = statistics_bytes(std::min(s_.cols, k_.sbuf_bytes() / bytes));
    if (s_.kind == NormKind::group) {
      const std::int64_t each = num_parameters * geometry_.bytes_per_parameter;
      reserved += each * geometry_.channels_per_row * tiling::ceil_div(geometry_.rows_per_sample, k_.partitions());
      bytes += tiling::ceil_div(2 * each, geometry_.spatial);
    } else if (wide_) {
      bytes += num_parameters * geometry_.bytes_per_parameter;
    }
    k_.plan(bytes, itemsize(dtype), std::min(reserved, k_.sbuf_bytes() / 4));
    if (!k_.resident() && wide_ && s_.kind != NormKind::group) {
      bytes += num_parameters * geometry_.bytes_per_parameter;
      k_.plan(bytes, itemsize(dtype), std::min(reserved, k_.sbuf_bytes() / 4));
    }
    k_.give_tile(x_);
    k_.give_tile(out_);
    if (wide_) {
      unit_ = k_.builder.psum("unit", Dtype::float32, k_.partitions(), piece_);
    }
    each_parameter([](NormParameter& parameter) { parameter.give_tile(); });
    give_columns();
  }

  void give_columns() {
    rstd_ = k_.column("rstd_column");
    if (s_.kind == NormKind::rms) {
      var_ = k_.column("mean_square_column");
      part_ = k_.column("part_column");
      return;
    }
    shift_ = k_.column("shift_column");
    scale_ = k_.column("scale_column");
    if (!measures_) {
      mean_ = k_.column("mean_column");
      var_ = k_.column("var_column");
      return;
    }
    mean_ = var_ = k_.builder.sbuf("moments", Dtype::float32, k_.partitions(), 2 * k_.group());
    stats_ = k_.builder.sbuf("stats", Dtype::float32, k_.partitions(), (k_.resident() ? 1 : k_.group()) * pitch());
    if (new_mean_ >= 0) {
      old_mean_ = k_.column("running_mean_column");
      old_var_ = k_.column("running_var_column");
    }
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

  void emit_group(const RowGroup& group) {
    const auto& [row, p, g, share, tile] = group;
    each_parameter([&](NormParameter& parameter) { parameter.load_group(group); });
    if (running_mean_ >= 0) {
      k_.load_column(running_mean_, measures_ ? old_mean_ : mean_, row, p, g);
      k_.load_column(running_var_, measures_ ? old_var_ : var_, row, p, g);
    }
    if (measures_ && !k_.resident()) {
      k_.builder.memset(s_.kind == NormKind::rms ? var(group) : on_chip_tile(stats_, p, {{g, pitch()}, {kTriple, 1}}),
                        0);
    }
    if (measures_ || k_.resident()) {
      k_.chunks([&](const Index& col, std::int64_t width) {
        k_.load(x_, row, p, g, col, width);
        if (measures_) {
          k_.members(g, [&](const Index& j) { measure(p, j, width); });
        }
      });
    }
    finish_statistics(group);
    store_statistics(group);
    k_.chunks([&](const Index& col, std::int64_t width) {
      each_parameter([&](NormParameter& parameter) { parameter.load_chunk(p, col, width); });
      if (!k_.resident()) {
        k_.load(x_, row, p, g, col, width);
      }
      k_.members(g, [&](const Index& j) { normalise(group, j, col, width); });
      k_.store(out_, row, p, g, col, width);
    });
  }

  // A chunk's pieces as bn_stats leaves them, behind what went before: the triple of the chunks so far.
  std::int64_t pitch() const {
    return (k_.resident() ? 0 : kTriple) + kStatistics * tiling::ceil_div(k_.chunk(), piece_);
  }
  std::int64_t statistics_bytes(std::int64_t chunk) const {
    return 2 * itemsize(Dtype::float32) * (kTriple + kStatistics * tiling::ceil_div(chunk, piece_));
  }

  void measure(std::int64_t p, const Index& j, std::int64_t width) {
    if (s_.kind == NormKind::rms) {
      add_squares(p, j, width);
      return;
    }
    auto& b = k_.builder;
    const std::int64_t before = k_.resident() ? 0 : kTriple;
    const Index first = j * (k_.resident() ? 0 : pitch());
    for (const auto& segment : tiling::split(width, piece_)) {
      b.loop(segment.trips, [&](const Index& i) {
        rows::op(b, Opcode::bn_stats,
                 on_chip_tile(stats_, p, kStatistics,
                              first + i * kStatistics + (before + kStatistics * segment.start / piece_)),
                 {on_chip_tile(x_.tile, p, segment.size, j * k_.chunk() + i * piece_ + segment.start)});
      });
    }
    const std::int64_t all = before + kStatistics * tiling::ceil_div(width, piece_);
    if (k_.resident()) {
      rows::op(b, Opcode::bn_aggr, moments(p, j), {on_chip_tile(stats_, p, all, first)});
    } else {
      rows::join_statistics(b, stats_, p, first, all, width);
    }
  }

  void add_squares(std::int64_t p, const Index& j, std::int64_t width) {
    auto& b = k_.builder;
    const Tile total = k_.scalar(var_, p, j), sum = k_.resident() ? total : k_.scalar(part_, p, j);
    rows::activation_reduce(b, k_.row(out_.tile, p, j, width), sum, k_.row(x_.tile, p, j, width), Activation::square);
    if (!k_.resident()) {
      b.tensor_tensor(total, total, sum, Alu::add);
    }
  }

  // Mean and variance of member j: the means of all members lie before their variances.
  Tile moments(std::int64_t p, const Index& j) const { return on_chip_tile(mean_, p, {{2, k_.group()}}, j); }
  static Tile column(std::int16_t buffer, const RowGroup& group) { return on_chip_tile(buffer, group.p, group.g); }
  Tile var(const RowGroup& group) const { return on_chip_tile(var_, group.p, group.g, var_ == mean_ ? k_.group() : 0); }

  // rstd, and what ScalarE applies to x: scale * x + shift.
  void finish_statistics(const RowGroup& group) {
    auto& b = k_.builder;
    const Tile rstd = column(rstd_, group);
    if (s_.kind == NormKind::rms) {
      b.activation(rstd, var(group), Activation::rsqrt, 1.0f / static_cast<float>(s_.cols), s_.eps);
      return;
    }
    if (measures_ && !k_.resident()) {
      k_.members(group.g, [&](const Index& j) {
        rows::op(b, Opcode::bn_aggr, moments(group.p, j), {on_chip_tile(stats_, group.p, kTriple, j * pitch())});
      });
    }
    b.activation(rstd, var(group), Activation::rsqrt, 1, s_.eps);
    if (new_mean_ >= 0) {
      const float unbiased = static_cast<float>(s_.cols) / static_cast<float>(s_.cols - 1);
      update_running(b, column(old_mean_, group), column(mean_, group), s_.momentum, s_.momentum);
      update_running(b, column(old_var_, group), var(group), s_.momentum, s_.momentum * unbiased);
    }
    Tile scale = rstd;
    if (geometry_.per_row && weight_) {
      scale = column(scale_, group);
      b.tensor_tensor(scale, rstd, weight_->column(group), Alu::multiply);
    }
    const Tile shift = column(shift_, group);
    rows::scaled_product(b, shift, column(mean_, group), scale, -1);
    if (geometry_.per_row && bias_) {
      b.tensor_tensor(shift, shift, bias_->column(group), Alu::add);
    }
  }

  void store_statistics(const RowGroup& group) {
    auto store = [&](std::int16_t hbm, std::int16_t column) {
      if (hbm >= 0) {
        k_.store_column(hbm, column, group.row, group.p, group.g);
      }
    };
    store(saved_mean_, mean_);
    store(saved_rstd_, rstd_);
    store(new_mean_, old_mean_);
    store(new_var_, old_var_);
  }

  void normalise(const RowGroup& group, const Index& j, const Index& col, std::int64_t width) {
    if (!wide_) {
      scale_and_shift(group, j, k_.row(out_.tile, group.p, j, width), k_.row(x_.tile, group.p, j, width));
      return;
    }
    k_.pieces(width, piece_, [&](const Index& first, std::int64_t n) { weigh(group, j, col, first, n); });
  }

  // By way of PSUM, which has fp32 for all dtypes at twice the rate of fp32 in SBUF.
  void weigh(const RowGroup& group, const Index& j, const Index& col, const Index& first, std::int64_t width) {
    auto& b = k_.builder;
    auto part = [&](std::int16_t tile) { return on_chip_tile(tile, group.p, width, j * k_.chunk() + first); };
    const Tile unit = on_chip_tile(unit_, group.p, width), out = part(out_.tile);
    scale_and_shift(group, j, unit, part(x_.tile));
    if (weight_) {
      b.tensor_tensor(bias_ ? unit : out, unit, weight_->wide(group, j, col, first, width), Alu::multiply);
    }
    if (bias_) {
      b.tensor_tensor(out, unit, bias_->wide(group, j, col, first, width), Alu::add);
    }
  }

  void scale_and_shift(const RowGroup& group, const Index& j, const Tile& out, const Tile& x) {
    rows::Columns columns{.scale = k_.scalar(geometry_.per_row && weight_ ? scale_ : rstd_, group.p, j)};
    if (s_.kind != NormKind::rms) {
      columns.bias = k_.scalar(shift_, group.p, j);
    }
    rows::activation(k_.builder, out, x, Activation::copy, columns);
  }

  const NormShape& s_;
  const NormGeometry geometry_;
  const std::int64_t piece_;
  const bool measures_;  // statistics are computed here
  const bool wide_;      // parameters differ along a row
  RowKernel k_;
  RowTensor x_, out_;
  std::optional<NormParameter> weight_, bias_;
  std::int16_t running_mean_ = -1, running_var_ = -1, saved_mean_ = -1, saved_rstd_ = -1, new_mean_ = -1, new_var_ = -1;
  std::int16_t mean_ = -1, var_ = -1, rstd_ = -1, shift_ = -1, scale_ = -1, old_mean_ = -1, old_var_ = -1;
  std::int16_t part_ = -1, stats_ = -1, unit_ = -1;
};

}  // namespace

// Rows lie on partitions, one each, or otherwise where that is faster: planes of channels, few long rows over all.
// HBM bytes, forward: x read once (twice where a row does not fit in SBUF and statistics are computed) and out written;
// weight and bias read once (layer and rms: once per 128 rows where a row does not fit); statistics that are computed
// are written, running ones read and, in training, written.
program::Program norm(const target::Target& target, const NormShape& shape) {
  if (is_channels_last(shape)) {
    return norm_channels_last(target, shape);
  }
  auto program = shape.backward ? norm_backward(target, shape) : NormForward(target, shape).emit();
  auto other = shape.backward ? planes::backward(target, shape) : planes::forward(target, shape);
  if (!other) {
    other = shape.backward ? spread_norm::backward(target, shape) : spread_norm::forward(target, shape);
  }
  return other ? program::faster(std::move(program), std::move(*other), target) : std::move(program);
}

void require_executable(const NormShape& shape) {
  for (const Dtype dtype : {shape.dtype, shape.parameter_dtype}) {
    if (dtype == Dtype::complex32 || dtype == Dtype::complex64 || dtype == Dtype::complex128) {
      throw Error(Category::unimplemented, "[norm] complex elements are counted, not executed; got " +
                                               std::string(target::name(dtype)) + ". Use reference numerics for it.");
    }
  }
  if (shape.kind != NormKind::group) {
    return;
  }
  const NormGeometry geometry(shape);
  const bool is_even = shape.cols == geometry.channels_per_row * geometry.spatial &&
                       geometry.num_parameters == geometry.channels_per_row * geometry.rows_per_sample &&
                       shape.rows % geometry.rows_per_sample == 0;
  if (!is_even) {
    throw Error(Category::unimplemented, "[norm] groups of like channels are executed; got " +
                                             std::to_string(shape.channels) + " channels of " +
                                             std::to_string(geometry.spatial) + " elements in rows of " +
                                             std::to_string(shape.cols) + ". Use reference numerics for it.");
  }
}

}  // namespace trn::kernels
