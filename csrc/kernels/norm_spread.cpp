// Layer and RMS normalisation of few long rows, forward.
#include "kernels/norm_spread.h"

#include <utility>

namespace trn::kernels::spread_norm {

namespace {

SpreadRows::Needs needs(const NormShape& s) {
  const std::int64_t fp32 = itemsize(Dtype::float32), parameter = itemsize(tiling::sbuf_dtype(s.parameter_dtype));
  return {.element_bytes = 2 * itemsize(tiling::sbuf_dtype(s.dtype)) + fp32,
          .shared_bytes = (s.weight + s.bias) * parameter + (s.kind == NormKind::rms ? 0 : fp32)};
}

class Forward : SpreadNorm {
 public:
  Forward(const target::Target& target, const NormShape& shape)
      : SpreadNorm(target, shape, "norm", needs(shape)),
        is_rms_(shape.kind == NormKind::rms),
        share_(1.0F / static_cast<float>(shape.cols)) {}

  bool fits() const { return k_.fit(); }

  program::Program emit() {
    declare();
    b_.nest("parameters");
    fill_ones();
    for (const auto& parameter : {weight_, bias_}) {
      if (parameter.hbm >= 0) {
        k_.load(parameter, 0, 1, 0);
      }
    }
    if (inside_ >= 0) {
      k_.mark_inside(inside_);
    }
    k_.groups([&](const Index& row, std::int64_t count) {
      k_.load(x_, row, count, 0);
      if (!is_rms_) {
        find_mean(count);
        store_statistic(saved_mean_, mean_, row, count);
      }
      find_rstd(count);
      store_statistic(saved_rstd_, rstd_, row, count);
      normalise(count);
      k_.store(out_, row, count);
    });
    return b_.take();
  }

 private:
  void declare() {
    const Dtype parameter = s_.parameter_dtype, statistics = statistics_dtype(s_);
    x_ = k_.tensor("in", s_.dtype, s_.rows);
    if (s_.weight) {
      weight_ = k_.tensor("weight", parameter, 1);
    }
    if (s_.bias) {
      bias_ = k_.tensor("bias", parameter, 1);
    }
    out_ = k_.tensor("out", s_.dtype, s_.rows, true);
    saved_mean_ = is_rms_ ? std::int16_t{-1} : b_.hbm("mean", statistics, s_.rows, true);
    saved_rstd_ = b_.hbm("rstd", statistics, s_.rows, true);
    k_.give_tile(x_);
    k_.give_tile(out_);
    work_ = k_.work("work", Dtype::float32);
    if (s_.weight) {
      weight_.tile = k_.shared("weights", tiling::sbuf_dtype(parameter));
    }
    if (s_.bias) {
      bias_.tile = k_.shared("biases", tiling::sbuf_dtype(parameter));
    }
    inside_ = !is_rms_ && k_.is_ragged() ? k_.shared("inside", Dtype::float32) : std::int16_t{-1};
    part_ = k_.column("part");
    rstd_ = k_.column("rstd_column");
    if (!is_rms_) {
      mean_ = k_.column("mean_column");
      shift_ = k_.column("shift_column");
    }
    give_sums(k_.together());
  }

  void find_mean(std::int64_t count) {
    b_.tensor_reduce(k_.columns(part_, count), k_.by_row(x_.tile, count), Alu::add);
    b_.tensor_scalar(k_.columns(mean_, count), total(k_.columns(part_, count)), Alu::multiply, share_);
    b_.tensor_scalar(k_.columns(shift_, count), k_.columns(mean_, count), Alu::multiply, -1);
  }

  void find_rstd(std::int64_t count) {
    b_.loop(count, [&](const Index& r) { square(r); });
    b_.activation(k_.columns(rstd_, count), total(k_.columns(part_, count)), Activation::rsqrt, share_, s_.eps);
  }

  void square(const Index& r) {
    const Tile work = k_.row(work_, r);
    Tile x = k_.row(x_.tile, r);
    rows::Columns from_mean;
    if (inside_ >= 0) {
      rows::op(b_, Opcode::scalar_tensor_tensor, work, {x, k_.line_of(inside_), k_.scalar(shift_, r)}, Alu::add,
               Alu::multiply);
      x = work;
    } else if (!is_rms_) {
      from_mean.bias = k_.scalar(shift_, r);
    }
    rows::activation_reduce(b_, work, k_.scalar(part_, r), x, Activation::square, from_mean);
  }

  void normalise(std::int64_t count) {
    if (!is_rms_) {
      b_.tensor_tensor(k_.columns(shift_, count), k_.columns(shift_, count), k_.columns(rstd_, count), Alu::multiply);
    }
    affine(s_.weight || s_.bias ? work_ : out_.tile, x_.tile, count, rstd_, shift_);
    const Tile work = k_.by_row(work_, count), out = k_.by_row(out_.tile, count);
    if (s_.weight) {
      b_.tensor_tensor(s_.bias ? work : out, work, k_.repeated(weight_.tile, count), Alu::multiply);
    }
    if (s_.bias) {
      b_.tensor_tensor(out, work, k_.repeated(bias_.tile, count), Alu::add);
    }
  }

  const bool is_rms_;
  const float share_;  // of an element in the row's mean
  RowTensor x_, weight_, bias_, out_;
  std::int16_t saved_mean_ = -1, saved_rstd_ = -1;
  std::int16_t work_ = -1, inside_ = -1, part_ = -1, mean_ = -1, rstd_ = -1, shift_ = -1;
};

}  // namespace

bool may_be(const target::Target& target, const NormShape& shape) {
  constexpr std::int64_t kShort = 8;  // elements of a partition
  const std::int64_t partitions = target.core.num_partitions;
  return (shape.kind == NormKind::layer || shape.kind == NormKind::rms) && shape.rows > 0 &&
         shape.rows < partitions * target.device.num_cores && shape.cols >= partitions * kShort;
}

std::optional<program::Program> forward(const target::Target& target, const NormShape& shape) {
  if (!may_be(target, shape)) {
    return std::nullopt;
  }
  Forward norm(target, shape);
  return norm.fits() ? std::optional(norm.emit()) : std::nullopt;
}

}  // namespace trn::kernels::spread_norm
