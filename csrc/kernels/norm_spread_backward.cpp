// Gradients of layer and RMS normalisation of few long rows.
//
// With h = weight grad_out and xhat = rstd x + shift, over a row's n elements: grad_in = rstd (h + slope x + offset),
// where slope = -rstd sum(h xhat) / n, offset = -sum(h) / n - mean slope; grad_weight = sum over rows of grad_out xhat,
// grad_bias = that of grad_out.
#include <algorithm>
#include <utility>

#include "kernels/norm_spread.h"

namespace trn::kernels::spread_norm {

namespace {

SpreadRows::Needs needs(const target::Target& target, const NormShape& s) {
  const std::int64_t fp32 = itemsize(Dtype::float32), parameter = itemsize(tiling::sbuf_dtype(s.parameter_dtype));
  const std::int64_t shares = std::max<std::int64_t>(target.device.num_cores, 1);
  const std::int64_t sums = (s.weight && s.weight_gradient) + s.bias_gradient;
  const bool weighs = s.weight && s.input_gradient;
  return {.element_bytes = (s.input_gradient ? 3 : 2) * itemsize(tiling::sbuf_dtype(s.dtype)) + (weighs ? 2 : 1) * fp32,
          .shared_bytes = (weighs ? parameter : 0) + (sums > 0 ? (sums * shares + 1) * fp32 : 0)};
}

class Backward : SpreadNorm {
 public:
  Backward(const target::Target& target, const NormShape& shape)
      : SpreadNorm(target, shape, "norm_backward", needs(target, shape)),
        is_rms_(shape.kind == NormKind::rms),
        weight_gradient_(shape.weight_gradient && shape.weight),
        share_(-1.0F / static_cast<float>(shape.cols)) {}

  bool fits() const { return k_.fit(); }

  program::Program emit() {
    declare();
    b_.nest("parameters");
    fill_ones();
    if (weight_.hbm >= 0) {
      k_.load(weight_, 0, 1, 0);
    }
    for (const auto& gradient : {weight_out_, bias_out_}) {
      if (gradient.hbm >= 0) {
        for (std::int64_t share = 0; share < k_.num_shares(); ++share) {
          b_.memset(k_.line_of(gradient.tile, share), 0);
        }
      }
    }
    k_.shared_groups([&](const Index& row, std::int64_t count, const Index& share) { emit_group(row, count, share); });
    if (weight_gradient_ || s_.bias_gradient) {
      b_.nest("parameter_gradients");
      finish(weight_out_);
      finish(bias_out_);
    }
    return b_.take();
  }

 private:
  void declare() {
    const Dtype parameter = s_.parameter_dtype, statistics = statistics_dtype(s_);
    grad_ = k_.tensor("grad_out", s_.dtype, s_.rows);
    x_ = k_.tensor("in", s_.dtype, s_.rows);
    mean_hbm_ = is_rms_ ? std::int16_t{-1} : b_.hbm("mean", statistics, s_.rows);
    rstd_hbm_ = b_.hbm("rstd", statistics, s_.rows);
    if (s_.weight && s_.input_gradient) {
      weight_ = k_.tensor("weight", parameter, 1);
      weight_.tile = k_.shared("weights", tiling::sbuf_dtype(parameter));
    }
    if (s_.input_gradient) {
      out_ = k_.tensor("grad_in", s_.dtype, s_.rows, true);
      k_.give_tile(out_);
    }
    const auto gradient = [&](const char* name, const char* sum) {
      RowTensor result = k_.tensor(name, parameter, 1, true);
      result.tile = k_.shared(sum, Dtype::float32, k_.num_shares());
      return result;
    };
    if (weight_gradient_) {
      weight_out_ = gradient("grad_weight", "weight_sum");
    }
    if (s_.bias_gradient) {
      bias_out_ = gradient("grad_bias", "bias_sum");
    }
    k_.give_tile(grad_);
    k_.give_tile(x_);
    unit_ = k_.work("unit", Dtype::float32);
    scaled_ = weight_.hbm >= 0 ? k_.work("scaled", Dtype::float32) : grad_.tile;
    over_rows_ = weight_gradient_ || s_.bias_gradient ? k_.shared("over_rows", Dtype::float32) : std::int16_t{-1};
    rstd_ = k_.column("rstd_column");
    slope_ = k_.column("slope");
    if (!is_rms_) {
      mean_ = k_.column("mean_column");
      shift_ = k_.column("shift_column");
      offset_ = k_.column("offset");
      product_ = k_.column("product");
    }
    parts_ = b_.sbuf("parts", Dtype::float32, k_.partitions(), 2 * k_.together());
    give_sums(2 * k_.together());
  }

  void emit_group(const Index& row, std::int64_t count, const Index& share) {
    const bool unit_needed = s_.input_gradient || weight_gradient_;
    k_.load(grad_, row, count, 0);
    if (s_.bias_gradient) {
      add_rows(bias_out_.tile, grad_.tile, count, share);
    }
    if (!unit_needed) {
      return;
    }
    k_.load(x_, row, count, 0);
    load_statistic(rstd_, rstd_hbm_, row, count);
    if (!is_rms_) {
      load_statistic(mean_, mean_hbm_, row, count);
      rows::scaled_product(b_, k_.columns(shift_, count), k_.columns(mean_, count), k_.columns(rstd_, count), -1);
    }
    affine(unit_, x_.tile, count, rstd_, shift_);
    const Tile unit = k_.by_row(unit_, count);
    b_.tensor_tensor(unit, unit, k_.by_row(grad_.tile, count), Alu::multiply);
    if (weight_gradient_) {
      add_rows(weight_out_.tile, unit_, count, share);
    }
    if (s_.input_gradient) {
      find_bend(count);
      apply(count);
      k_.store(out_, row, count);
    }
  }

  void add_rows(std::int16_t sum, std::int16_t values, std::int64_t count, const Index& share) {
    const Tile into = k_.line_of(sum, share);
    Tile added = k_.row(values, 0);
    if (count > 1) {
      added = k_.line_of(over_rows_);
      b_.tensor_reduce(added, k_.by_column(values, count), Alu::add);
    }
    b_.tensor_tensor(into, into, added, Alu::add);
  }

  // slope and offset, of h and of grad_out xhat.
  void find_bend(std::int64_t count) {
    const Tile products = k_.by_row(unit_, count);
    if (weight_.hbm >= 0) {
      const Tile weights = k_.repeated(weight_.tile, count);
      b_.tensor_tensor(k_.by_row(scaled_, count), k_.by_row(grad_.tile, count), weights, Alu::multiply);
      b_.tensor_tensor(products, products, weights, Alu::multiply);
    }
    const auto part = [&](std::int64_t which) { return on_chip_tile(parts_, k_.partitions(), count, which * count); };
    b_.tensor_reduce(part(0), products, Alu::add);
    if (!is_rms_) {
      b_.tensor_reduce(part(1), k_.by_row(scaled_, count), Alu::add);
    }
    const Tile sums = total(on_chip_tile(parts_, k_.partitions(), (is_rms_ ? 1 : 2) * count));
    const auto sum = [&](std::int64_t which) {
      return on_chip_tile(sums.buffer, k_.partitions(), count, which * count);
    };
    const Tile slope = k_.columns(slope_, count);
    rows::scaled_product(b_, slope, sum(0), k_.columns(rstd_, count), share_);
    if (!is_rms_) {
      const Tile offset = k_.columns(offset_, count), product = k_.columns(product_, count);
      b_.tensor_tensor(product, slope, k_.columns(mean_, count), Alu::multiply);
      b_.tensor_scalar(offset, sum(1), Alu::multiply, share_);
      b_.tensor_tensor(offset, offset, product, Alu::subtract);
    }
  }

  void apply(std::int64_t count) {
    affine(unit_, x_.tile, count, slope_, offset_);
    const Tile unit = k_.by_row(unit_, count);
    b_.tensor_tensor(unit, unit, k_.by_row(scaled_, count), Alu::add);
    affine(out_.tile, unit_, count, rstd_);
  }

  // The cores' sums added up.
  void finish(const RowTensor& gradient) {
    if (gradient.hbm < 0) {
      return;
    }
    for (std::int64_t share = 1; share < k_.num_shares(); ++share) {
      b_.tensor_tensor(k_.line_of(gradient.tile), k_.line_of(gradient.tile), k_.line_of(gradient.tile, share),
                       Alu::add);
    }
    k_.store(gradient, 0, 1);
  }

  const bool is_rms_, weight_gradient_;
  const float share_;  // minus that of an element in a row's mean
  RowTensor grad_, x_, weight_, out_, weight_out_, bias_out_;
  std::int16_t mean_hbm_ = -1, rstd_hbm_ = -1;
  std::int16_t unit_ = -1, scaled_ = -1, over_rows_ = -1, parts_ = -1;
  std::int16_t mean_ = -1, rstd_ = -1, shift_ = -1, slope_ = -1, offset_ = -1, product_ = -1;
};

}  // namespace

std::optional<program::Program> backward(const target::Target& target, const NormShape& shape) {
  if (!may_be(target, shape)) {
    return std::nullopt;
  }
  Backward norm(target, shape);
  return norm.fits() ? std::optional(norm.emit()) : std::nullopt;
}

}  // namespace trn::kernels::spread_norm
