// Gradients of layer, RMS, group and batch normalisation.
//
// With xhat = (x - mean) rstd and h = grad_out * weight, over the n elements of a row:
//   grad_in = rstd (h - sum(h) / n - xhat sum(h xhat) / n), without the first sum for rms, without both for batch norm
//   in evaluation; grad_weight = sum(grad_out xhat), grad_bias = sum(grad_out).
#include <algorithm>
#include <optional>

#include "kernels/norm_parameters.h"

namespace trn::kernels {

using rows::Index;
using rows::Opcode;
using rows::RowKernel;
using rows::RowTensor;
using rows::Tile;
using tiling::ceil_div;
using tiling::on_chip_tile;

namespace {

class NormBackward {
 public:
  NormBackward(const target::Target& target, const NormShape& shape)
      : s_(shape),
        geometry_(shape),
        needs_sums_(s_.input_gradient && (s_.kind != NormKind::batch || s_.training)),
        weight_gradient_(s_.weight_gradient && s_.weight),
        folds_(!geometry_.per_row && (weight_gradient_ || s_.bias_gradient)),
        dots_needed_(needs_sums_ || (geometry_.per_row && weight_gradient_)),
        piece_(target.core.moving_free_max_elements),
        k_(target, "norm_backward", shape.rows, shape.cols),
        num_shares_(k_.num_shares()) {
    auto& b = k_.builder;
    if (is_group()) {
      k_.set_unit(geometry_.spatial);
      k_.set_period(geometry_.rows_per_sample);
    }
    grad_ = k_.tensor("grad_out", s_.dtype, false, geometry_.run_elements);
    x_ = k_.tensor("in", s_.dtype, false, geometry_.run_elements);
    if (s_.kind != NormKind::rms) {
      mean_hbm_ = b.hbm("mean", statistics_dtype(s_), s_.rows);
    }
    rstd_hbm_ = b.hbm("rstd", statistics_dtype(s_), s_.rows);
    if (s_.weight && s_.input_gradient) {
      weight_.emplace(k_, s_, geometry_, "weight");
    }
    if (s_.input_gradient) {
      out_ = k_.tensor("grad_in", s_.dtype, true, geometry_.run_elements);
    }
    weight_out_ = weight_gradient_ ? b.hbm("grad_weight", s_.parameter_dtype, geometry_.num_parameters, true) : -1;
    bias_out_ = s_.bias_gradient ? b.hbm("grad_bias", s_.parameter_dtype, geometry_.num_parameters, true) : -1;
    give_tiles();
  }

  program::Program emit() {
    auto& b = k_.builder;
    const bool loads_weight = weight_ && !geometry_.per_row && (is_group() || k_.resident());
    if (s_.rows > 0 && s_.cols > 0 && (folds_ || loads_weight)) {
      b.nest("parameters");
      if (loads_weight) {
        weight_->load_once();
      }
      if (folds_) {
        prepare_fold();
      }
    }
    each_row_group(k_, s_, geometry_, folds_ ? num_shares_ : 0, [&](const RowGroup& group) { emit_group(group); });
    if (folds_) {
      finish_parameters();
    }
    return b.take();
  }

 private:
  bool is_group() const { return s_.kind == NormKind::group; }
  bool folds_weight() const { return folds_ && weight_gradient_; }

  // What lies between operands and results has the precision of the engines.
  void give_tiles() {
    const Dtype dtype = tiling::sbuf_dtype(s_.dtype);
    const bool wide = weight_ && !geometry_.per_row;
    std::int64_t bytes = 2 * itemsize(dtype) * (s_.input_gradient ? 3 : 2) + 4 * (dots_needed_ + folds_weight() + wide);
    std::int64_t reserved = 0;
    if (is_group()) {
      plan_shares();
      const std::int64_t each = 2 * geometry_.bytes_per_parameter + 8 * (num_shares_ + 1);
      reserved = each * geometry_.channels_per_row * ceil_div(geometry_.rows_per_sample, k_.partitions());
      bytes += ceil_div(each, geometry_.spatial);
    } else {
      reserved = 8 * num_shares_ * num_accumulators();
      bytes += wide ? geometry_.bytes_per_parameter : 0;
    }
    reserved = std::min(reserved, k_.sbuf_bytes() / 4);
    k_.plan(bytes, itemsize(dtype), reserved);
    if (!k_.resident() && wide && !is_group()) {
      k_.plan(bytes + geometry_.bytes_per_parameter, itemsize(dtype), reserved);
    }
    k_.give_tile(grad_);
    k_.give_tile(x_);
    if (s_.input_gradient) {
      k_.give_tile(out_);
    }
    unit_ = k_.builder.psum("unit", Dtype::float32, k_.partitions(), piece_);
    dots_ = dots_needed_ ? k_.work("dots", Dtype::float32, 1) : -1;
    products_ = folds_weight() ? k_.work("products", Dtype::float32, 1) : -1;
    scaled_ = wide ? k_.work("scaled", Dtype::float32, 1) : grad_.tile;
    if (weight_) {
      weight_->give_tile();
    }
    give_columns();
    if (folds_) {
      give_accumulators();
    }
  }

  // Every core sums for itself where that leaves room for rows.
  void plan_shares() {
    const std::int64_t channels = geometry_.channels_per_row * ceil_div(geometry_.rows_per_sample, k_.partitions());
    if (8 * num_shares_ * channels > k_.sbuf_bytes() / 8) {
      num_shares_ = 1;
    }
  }

  void give_columns() {
    mean_ = k_.column("mean_column");
    rstd_ = k_.column("rstd_column");
    shift_ = k_.column("shift_column");
    sum_ = k_.column("sum");
    dot_ = k_.column("dot");
    part_ = k_.column("part");
    scale_ = k_.column("scale_column");
    slope_ = k_.column("slope");
    offset_ = k_.column("offset");
  }

  void give_accumulators() {
    auto& b = k_.builder;
    const std::int64_t partitions = k_.partitions();
    turned_ = b.psum("turned", Dtype::float32, partitions, partitions);
    line_ = b.sbuf("parameter_line", Dtype::float32, partitions, partitions);
    weight_sum_ = weight_gradient_ ? accumulator("weight_sum") : -1;
    bias_sum_ = s_.bias_gradient ? accumulator("bias_sum") : -1;
    if (is_group()) {
      partial_ = b.sbuf("per_channel", Dtype::float32, partitions, geometry_.channels_per_row);
      return;
    }
    fold_ = b.psum("folded", Dtype::float32, partitions, ceil_div(std::max<std::int64_t>(k_.chunk(), 1), partitions));
    ones_ = b.sbuf("ones", Dtype::float32, partitions, 1, 1);
    const Dtype dtype = b.dtype(grad_.tile);
    grad_ones_ = dtype == Dtype::float32 || !s_.bias_gradient ? ones_ : b.sbuf("grad_ones", dtype, partitions, 1, 1);
  }

  // Parameter c of layer and rms norm is summed in partition c % 128; of group norm, where its rows lie.
  std::int64_t num_accumulators() const {
    return is_group() ? SampleTiles(k_, s_, geometry_).channels_of_all_tiles() : ceil_div(s_.cols, k_.partitions());
  }
  std::int16_t accumulator(const std::string& name) {
    return k_.builder.sbuf(name, Dtype::float32, k_.partitions(), num_shares_ * num_accumulators(), 1);
  }

  void prepare_fold() {
    auto& b = k_.builder;
    const std::int64_t partitions = k_.partitions();
    for (const auto ones : {ones_, grad_ones_ == ones_ ? std::int16_t{-1} : grad_ones_}) {
      if (ones >= 0) {
        b.memset(on_chip_tile(ones, partitions, 1), 1);
      }
    }
    for (const auto sum : {weight_sum_, bias_sum_}) {
      if (sum >= 0) {
        b.memset(on_chip_tile(sum, partitions, num_shares_ * num_accumulators()), 0);
      }
    }
  }

  void emit_group(const RowGroup& group) {
    auto& b = k_.builder;
    const auto& [row, p, g, share, tile] = group;
    if (weight_) {
      weight_->load_group(group);
    }
    const bool unit_needed = dots_needed_ || weight_gradient_;
    if (unit_needed || s_.input_gradient) {
      load_statistics(row, p, g);
    }
    const bool first_pass_needed = k_.resident() || unit_needed || s_.bias_gradient;
    if (!k_.resident() && first_pass_needed) {
      b.memset(on_chip_tile(sum_, p, g), 0);
      b.memset(on_chip_tile(dot_, p, g), 0);
    }
    auto load = [&](const Index& col, std::int64_t width, bool with_x) {
      if (weight_ && needs_sums_) {
        weight_->load_chunk(p, col, width);
      }
      k_.load(grad_, row, p, g, col, width);
      if (with_x) {
        k_.load(x_, row, p, g, col, width);
      }
    };
    if (first_pass_needed) {
      k_.chunks([&](const Index& col, std::int64_t width) {
        load(col, width, unit_needed);
        k_.members(g, [&](const Index& j) { reduce(group, j, col, width); });
      });
    }
    if (geometry_.per_row && weight_gradient_) {
      k_.store_column(weight_out_, dot_, row, p, g);
    }
    if (geometry_.per_row && s_.bias_gradient) {
      k_.store_column(bias_out_, sum_, row, p, g);
    }
    if (!s_.input_gradient) {
      return;
    }
    finish_sums(group);
    k_.chunks([&](const Index& col, std::int64_t width) {
      if (!k_.resident()) {
        load(col, width, needs_sums_);
      }
      k_.members(g, [&](const Index& j) { apply(group, j, col, width); });
      k_.store(out_, row, p, g, col, width);
    });
  }

  void load_statistics(const Index& row, std::int64_t p, std::int64_t g) {
    auto& b = k_.builder;
    k_.load_column(rstd_hbm_, rstd_, row, p, g);
    const Tile rstd = on_chip_tile(rstd_, p, g);
    if (s_.kind == NormKind::batch && !s_.training) {
      b.activation(rstd, rstd, Activation::rsqrt, 1, s_.eps);
    }
    if (mean_hbm_ >= 0) {
      k_.load_column(mean_hbm_, mean_, row, p, g);
      rows::scaled_product(b, on_chip_tile(shift_, p, g), on_chip_tile(mean_, p, g), rstd, -1);
    }
  }

  // scale x + shift in PSUM, where fp32 passes at the rate of 16 bits.
  Tile affine(const Tile& x, const Tile& scale, std::int16_t shift, const Index& j) {
    const Tile unit = on_chip_tile(unit_, x.partitions, x.free_elements());
    rows::Columns columns{.scale = scale};
    if (s_.kind != NormKind::rms) {
      columns.bias = k_.scalar(shift, x.partitions, j);
    }
    rows::activation(k_.builder, unit, x, Activation::copy, columns);
    return unit;
  }

  // body(part) for pieces of a chunk, where part(tile) has a piece's elements.
  template <class Body>
  void pieces(std::int64_t p, const Index& j, std::int64_t width, Body body) {
    k_.builder.tiles(width, piece_, [&](const Index& first, std::int64_t n) {
      body([&](std::int16_t tile) { return on_chip_tile(tile, p, n, j * k_.chunk() + first); });
    });
  }

  // h, which is grad_out itself where the weight is a scalar per row.
  Tile scaled(const RowGroup& group, const Index& j, const Index& col, std::int64_t width) {
    const Tile grad = k_.row(grad_.tile, group.p, j, width);
    if (!weight_ || geometry_.per_row) {
      return grad;
    }
    const Tile result = k_.row(scaled_, group.p, j, width);
    k_.builder.tensor_tensor(result, grad, weight_->wide(group, j, col, 0, width), Alu::multiply);
    return result;
  }

  void add_sum(std::int16_t column, std::int64_t p, const Index& j, const Tile& values) {
    auto& b = k_.builder;
    const Tile total = k_.scalar(column, p, j);
    const Tile sum = k_.resident() ? total : k_.scalar(part_, p, j);
    if (values.buffer == grad_.tile) {
      b.tensor_reduce(sum, values, Alu::add);
    } else {
      rows::activation_reduce(b, values, sum, values, Activation::copy);  // VectorE has the products
    }
    if (!k_.resident()) {
      b.tensor_tensor(total, total, sum, Alu::add);
    }
  }

  void reduce(const RowGroup& group, const Index& j, const Index& col, std::int64_t width) {
    auto& b = k_.builder;
    const std::int64_t p = group.p;
    const Tile h = dots_needed_ ? scaled(group, j, col, width) : Tile{};
    if (dots_needed_ || folds_weight()) {
      pieces(p, j, width, [&](auto part) {
        const Tile unit = affine(part(x_.tile), k_.scalar(rstd_, p, j), shift_, j);
        if (folds_weight()) {
          b.tensor_tensor(part(products_), part(grad_.tile), unit, Alu::multiply);
        }
        if (dots_needed_) {
          b.tensor_tensor(part(dots_), part(h.buffer), unit, Alu::multiply);
        }
      });
    }
    if (folds_weight()) {
      fold(group, {weight_sum_, products_, ones_}, j, col, width);
    }
    if (folds_ && s_.bias_gradient) {
      fold(group, {bias_sum_, grad_.tile, grad_ones_}, j, col, width);
    }
    if (dots_needed_) {
      add_sum(dot_, p, j, k_.row(dots_, p, j, width));
    }
    if (needs_sums_ && s_.kind != NormKind::rms) {
      add_sum(sum_, p, j, h);
    } else if (geometry_.per_row && s_.bias_gradient) {
      add_sum(sum_, p, j, k_.row(grad_.tile, p, j, width));
    }
  }

  struct Fold {
    std::int16_t sum, values, ones;
  };

  // Sums over rows: of group norm in each partition, whose rows have the same channels in all tiles.
  void fold(const RowGroup& group, const Fold& fold, const Index& j, const Index& col, std::int64_t width) {
    if (!is_group()) {
      fold_across(group, fold, j, col, width);
      return;
    }
    auto& b = k_.builder;
    const std::int64_t each = std::min(width, geometry_.spatial), channels = width / each;
    const Tile partial = on_chip_tile(partial_, group.p, channels);
    b.tensor_reduce(partial, on_chip_tile(fold.values, group.p, {{channels, each}, {each, 1}}, j * k_.chunk()),
                    Alu::add);
    const std::int64_t row_channels = geometry_.channels_per_row;
    const Tile into = on_chip_tile(fold.sum, group.p, channels,
                                   group.share * num_accumulators() + group.tile * (k_.group() * row_channels) +
                                       j * row_channels + geometry_.channel(col));
    b.tensor_tensor(into, into, partial, Alu::add);
  }

  // Rows that lie across partitions: a matmul with ones.
  void fold_across(const RowGroup& group, const Fold& fold, const Index& j, const Index& col, std::int64_t width) {
    auto& b = k_.builder;
    const std::int64_t partitions = k_.partitions(), p = group.p;
    const Index base = group.share * num_accumulators();
    const auto pieces = tiling::split(width, partitions);
    for (const auto& piece : pieces) {
      b.loop(piece.trips, [&](const Index& i) {
        b.matmul(on_chip_tile(fold_, piece.size, 1, i + piece.start / partitions),
                 on_chip_tile(fold.values, p, piece.size, j * k_.chunk() + i * partitions + piece.start),
                 on_chip_tile(fold.ones, p, 1));
      });
    }
    // Chunks start at multiples of the number of partitions, so that col / 128 is affine too.
    const Index first = col / partitions;
    for (const auto& piece : pieces) {
      const Index at = base + first + piece.start / partitions;
      const Tile into = on_chip_tile(fold.sum, piece.size, piece.trips, at);
      b.tensor_tensor(into, into, on_chip_tile(fold_, piece.size, piece.trips, piece.start / partitions), Alu::add);
    }
  }

  // grad_in = rstd (h + slope x + offset) - rstd sum(h) / n, with slope x + offset = -xhat sum(h xhat) / n.
  void finish_sums(const RowGroup& group) {
    auto column = [&](std::int16_t buffer) { return on_chip_tile(buffer, group.p, group.g); };
    const float share = -1.0f / static_cast<float>(std::max<std::int64_t>(s_.cols, 1));
    const bool rescaled = geometry_.per_row && weight_;
    if (rescaled) {
      k_.builder.tensor_tensor(column(scale_), column(rstd_), weight_->column(group), Alu::multiply);
    }
    if (!needs_sums_) {
      return;
    }
    auto product = [&](std::int16_t dst, std::int16_t a, std::int16_t b) {
      rows::scaled_product(k_.builder, column(dst), column(a), column(b), share);
    };
    product(slope_, dot_, rstd_);
    if (s_.kind != NormKind::rms) {
      product(offset_, dot_, shift_);
      product(sum_, sum_, rescaled ? scale_ : rstd_);
    }
  }

  void apply(const RowGroup& group, const Index& j, const Index& col, std::int64_t width) {
    auto& b = k_.builder;
    const std::int64_t p = group.p;
    rows::Columns columns{.scale = k_.scalar(geometry_.per_row && weight_ ? scale_ : rstd_, p, j)};
    if (!needs_sums_) {
      rows::activation(b, k_.row(out_.tile, p, j, width), k_.row(grad_.tile, p, j, width), Activation::copy, columns);
      return;
    }
    if (s_.kind != NormKind::rms) {
      columns.bias = k_.scalar(sum_, p, j);
    }
    if (!k_.resident()) {
      scaled(group, j, col, width);
    }
    pieces(p, j, width, [&](auto part) {
      const Tile sum = affine(part(x_.tile), k_.scalar(slope_, p, j), offset_, j);
      b.tensor_tensor(sum, part(scaled_), sum, Alu::add);
      rows::activation(b, part(out_.tile), sum, Activation::copy, columns);
    });
  }

  // The cores' sums added up, turned so that parameters are contiguous, and stored.
  void finish_parameters() {
    if (s_.rows == 0 || s_.cols == 0) {
      return;
    }
    auto& b = k_.builder;
    b.nest("parameter_gradients");
    const std::int64_t partitions = k_.partitions(), length = num_accumulators();
    for (const auto& [sum, hbm] : {std::pair{weight_sum_, weight_out_}, std::pair{bias_sum_, bias_out_}}) {
      if (sum < 0) {
        continue;
      }
      const Tile first = on_chip_tile(sum, partitions, length);
      for (std::int64_t share = 1; share < num_shares_; ++share) {
        b.tensor_tensor(first, first, on_chip_tile(sum, partitions, length, share * length), Alu::add);
      }
      if (is_group()) {
        store_samples(sum, hbm);
      } else {
        store_turned(sum, hbm);
      }
    }
  }

  void store_turned(std::int16_t sum, std::int16_t hbm) {
    auto& b = k_.builder;
    const std::int64_t partitions = k_.partitions();
    for (const auto& segment : tiling::split(s_.cols, partitions)) {
      b.tiles(segment.trips, partitions, [&](const Index& i, std::int64_t lines) {
        const Index at = i + segment.start / partitions;
        b.transpose(on_chip_tile(turned_, lines, segment.size), on_chip_tile(sum, segment.size, lines, at));
        b.tensor_copy(on_chip_tile(line_, lines, segment.size), on_chip_tile(turned_, lines, segment.size));
        b.dma(tiling::hbm_tile(hbm, lines, partitions, {{segment.size, 1}}, at * partitions),
              on_chip_tile(line_, lines, segment.size));
      });
    }
  }

  // The samples of a tile added up: they lie on partitions, so their sums are turned, reduced, and turned back.
  void store_samples(std::int16_t sum, std::int16_t hbm) {
    auto& b = k_.builder;
    const SampleTiles tiles(k_, s_, geometry_);
    const std::int64_t partitions = k_.partitions(), lanes = tiles.lanes, n = tiles.channels;
    if (tiles.samples == 1) {
      b.tiles(lanes, partitions, [&](const Index& lane, std::int64_t p) {
        b.dma(tiling::hbm_tile(hbm, p, n, {{n, 1}}, lane * n), on_chip_tile(sum, p, n, lane / partitions * n));
      });
      return;
    }
    b.tiles(n, partitions, [&](const Index& channel, std::int64_t w) {
      const Tile total = on_chip_tile(line_, w, lanes);
      b.transpose(on_chip_tile(turned_, w, tiles.samples * lanes),
                  on_chip_tile(sum, tiles.samples * lanes, w, channel));
      b.tensor_reduce(total, on_chip_tile(turned_, w, {{lanes, 1}, {tiles.samples, lanes}}), Alu::add);
      b.transpose(on_chip_tile(turned_, lanes, w), total);
      b.tensor_copy(on_chip_tile(line_, lanes, w), on_chip_tile(turned_, lanes, w));
      b.dma(tiling::hbm_tile(hbm, lanes, n, {{w, 1}}, channel), on_chip_tile(line_, lanes, w));
    });
  }

  const NormShape& s_;
  const NormGeometry geometry_;
  const bool needs_sums_;  // grad_in depends on sums over the row
  const bool weight_gradient_;
  const bool folds_;        // parameters' gradients are sums over rows
  const bool dots_needed_;  // the sum of h xhat over the row
  const std::int64_t piece_;
  RowKernel k_;
  std::int64_t num_shares_;
  RowTensor grad_, x_, out_;
  std::optional<NormParameter> weight_;
  std::int16_t mean_hbm_ = -1, rstd_hbm_ = -1, weight_out_ = -1, bias_out_ = -1;
  std::int16_t mean_ = -1, rstd_ = -1, shift_ = -1, sum_ = -1, dot_ = -1, part_ = -1, scale_ = -1, slope_ = -1,
               offset_ = -1;
  std::int16_t unit_ = -1, dots_ = -1, products_ = -1, scaled_ = -1;
  std::int16_t ones_ = -1, grad_ones_ = -1, fold_ = -1, partial_ = -1, turned_ = -1, line_ = -1, weight_sum_ = -1,
               bias_sum_ = -1;
};

}  // namespace

// HBM bytes, backward: grad_out read once, x once if grad_in needs sums over its row or grad_weight is asked for; where
// a row does not fit in SBUF, grad_in reads again what it needs; statistics once, unless only grad_bias is asked for,
// weight (for grad_in only) as in the forward pass but once per pass, and the gradients that are asked for written.
program::Program norm_backward(const target::Target& target, const NormShape& shape) {
  return NormBackward(target, shape).emit();
}

}  // namespace trn::kernels
