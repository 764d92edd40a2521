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
        moving_max_(target.core.moving_free_max_elements),
        k_(target, "norm_backward", shape.rows, shape.cols, geometry_.across) {
    auto& b = k_.builder;
    k_.set_unit(s_.kind == NormKind::group ? geometry_.spatial : 1);
    grad_ = k_.tensor("grad_out", s_.dtype, false, geometry_.run_elements);
    x_ = k_.tensor("in", s_.dtype, false, geometry_.run_elements);
    if (s_.kind != NormKind::rms) {
      mean_hbm_ = b.hbm("mean", s_.parameter_dtype, s_.rows);
    }
    rstd_hbm_ = b.hbm("rstd", s_.parameter_dtype, s_.rows);
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
    const bool folds = !geometry_.per_row && (weight_gradient_ || s_.bias_gradient);
    if (s_.rows > 0 && s_.cols > 0 && (folds || (weight_ && !geometry_.per_row))) {
      b.nest("parameters");
      if (weight_) {
        weight_->load_once();
      }
      if (folds) {
        prepare_fold();
      }
    }
    auto group = [&](const Index& row, std::int64_t p, std::int64_t g, const Index& share) {
      emit_group(row, p, g, share);
    };
    if (folds) {
      k_.row_groups_shared(group);
      finish_parameters();
    } else {
      k_.row_groups([&](const Index& row, std::int64_t p, std::int64_t g) { group(row, p, g, Index(0)); });
    }
    return b.take();
  }

 private:
  void give_tiles() {
    auto& b = k_.builder;
    const Dtype dtype = tiling::sbuf_dtype(s_.dtype);
    const bool wide = weight_ && !geometry_.per_row;
    const std::int64_t tiles = 2 * (s_.input_gradient ? 3 : 2) + 2 + (wide ? 1 : 0);
    std::int64_t bytes = itemsize(dtype) * tiles;
    std::int64_t reserved = 8 * k_.num_shares() * num_accumulators();
    if (s_.kind == NormKind::group) {
      reserved += 3 * geometry_.num_parameters * (geometry_.bytes_per_parameter + 4);
    } else if (wide) {
      bytes += geometry_.bytes_per_parameter;
    }
    reserved = std::min(reserved, k_.sbuf_bytes() / 4);
    k_.plan(bytes, itemsize(dtype), reserved);
    if (!k_.resident() && wide && s_.kind != NormKind::group) {
      k_.plan(bytes + geometry_.bytes_per_parameter, itemsize(dtype), reserved);
    }
    k_.give_tile(grad_);
    k_.give_tile(x_);
    if (s_.input_gradient) {
      k_.give_tile(out_);
    }
    unit_ = k_.work("unit", dtype, 1);
    product_ = k_.work("product", dtype, 1);
    scaled_ = wide ? k_.work("scaled", dtype, 1) : grad_.tile;
    if (weight_) {
      weight_->give_tile();
    }
    mean_ = k_.column("mean_column");
    rstd_ = k_.column("rstd_column");
    shift_ = k_.column("shift_column");
    sum_ = k_.column("sum");
    dot_ = k_.column("dot");
    part_ = k_.column("part");
    scale_ = k_.column("scale_column");
    const std::int64_t partitions = k_.partitions();
    if (!geometry_.per_row && (weight_gradient_ || s_.bias_gradient)) {
      const bool group = s_.kind == NormKind::group;
      ones_ = b.sbuf(group ? "row_of_group" : "ones", dtype, partitions, group ? partitions : 1, 1);
      fold_ = b.psum("folded", Dtype::float32, partitions,
                     group ? moving_max_ : ceil_div(std::max<std::int64_t>(k_.chunk(), 1), partitions));
      partial_ = group ? b.sbuf("per_channel", dtype, partitions, geometry_.channels_per_row) : -1;
      turned_ = b.psum("turned", Dtype::float32, partitions, partitions);
      line_ = b.sbuf("parameter_line", Dtype::float32, partitions, partitions);
      weight_sum_ = weight_gradient_ ? accumulator("weight_sum") : -1;
      bias_sum_ = s_.bias_gradient ? accumulator("bias_sum") : -1;
    }
  }

  // Parameter c of layer and rms norm is summed in partition c % 128; of group norm, in its group's partition.
  std::int64_t num_accumulators() const {
    if (s_.kind == NormKind::group) {
      const std::int64_t groups = ceil_div(geometry_.num_parameters, geometry_.channels_per_row);
      return ceil_div(groups, k_.partitions()) * geometry_.channels_per_row;
    }
    return ceil_div(s_.cols, k_.partitions());
  }
  std::int16_t accumulator(const std::string& name) {
    return k_.builder.sbuf(name, Dtype::float32, k_.partitions(), k_.num_shares() * num_accumulators(), 1);
  }

  void prepare_fold() {
    auto& b = k_.builder;
    const std::int64_t partitions = k_.partitions();
    const bool group = s_.kind == NormKind::group;
    const Tile tile = on_chip_tile(ones_, partitions, group ? partitions : 1);
    b.memset(tile, 1);
    if (group) {
      rows::op(b, Opcode::affine_select, tile, {tile});
    }
    for (const auto sum : {weight_sum_, bias_sum_}) {
      if (sum >= 0) {
        b.memset(on_chip_tile(sum, partitions, k_.num_shares() * num_accumulators()), 0);
      }
    }
  }

  void emit_group(const Index& row, std::int64_t p, std::int64_t g, const Index& share) {
    auto& b = k_.builder;
    if (weight_) {
      weight_->load_group(row, p, g);
    }
    load_statistics(row, p, g);
    const bool dot_needed = needs_sums_ || weight_gradient_;
    const bool first_pass_needed = k_.resident() || dot_needed || s_.bias_gradient;
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
        load(col, width, dot_needed);
        k_.members(g, [&](const Index& j) { reduce(p, j, col, width, share); });
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
    k_.members(g, [&](const Index& j) { finish_sums(p, j); });
    k_.chunks([&](const Index& col, std::int64_t width) {
      if (!k_.resident()) {
        load(col, width, needs_sums_);
      }
      k_.members(g, [&](const Index& j) { apply(p, j, width); });
      k_.store(out_, row, p, g, col, width);
    });
  }

  void load_statistics(const Index& row, std::int64_t p, std::int64_t g) {
    auto& b = k_.builder;
    k_.load_column(rstd_hbm_, rstd_, row, p, g);
    const Tile rstd = on_chip_tile(rstd_, p, g);
    if (s_.kind == NormKind::batch && !s_.training) {
      b.activation(rstd, rstd, Activation::rsqrt);
    }
    if (mean_hbm_ >= 0) {
      k_.load_column(mean_hbm_, mean_, row, p, g);
      b.tensor_tensor(on_chip_tile(shift_, p, g), on_chip_tile(mean_, p, g), rstd, Alu::multiply);
    }
  }

  Tile normalised(std::int64_t p, const Index& j, std::int64_t width) {
    const Tile unit = k_.row(unit_, p, j, width);
    rows::Columns columns{.scale = k_.scalar(rstd_, p, j)};
    if (mean_hbm_ >= 0) {
      columns.bias = k_.scalar(shift_, p, j);
    }
    rows::activation(k_.builder, unit, k_.row(x_.tile, p, j, width), Activation::copy, columns);
    return unit;
  }

  // h, which is grad_out itself where the weight is a scalar per row.
  Tile scaled(std::int64_t p, const Index& j, std::int64_t width) {
    const Tile grad = k_.row(grad_.tile, p, j, width);
    if (!weight_ || geometry_.per_row) {
      return grad;
    }
    const Tile result = k_.row(scaled_, p, j, width);
    k_.builder.tensor_tensor(result, grad, weight_->wide(p, j, width), Alu::multiply);
    return result;
  }

  void add_sum(std::int16_t column, std::int64_t p, const Index& j, const Tile& values) {
    auto& b = k_.builder;
    const Tile total = k_.scalar(column, p, j);
    if (k_.resident()) {
      b.tensor_reduce(total, values, Alu::add);
      return;
    }
    b.tensor_reduce(k_.scalar(part_, p, j), values, Alu::add);
    b.tensor_tensor(total, total, k_.scalar(part_, p, j), Alu::add);
  }

  void reduce(std::int64_t p, const Index& j, const Index& col, std::int64_t width, const Index& share) {
    auto& b = k_.builder;
    const Tile grad = k_.row(grad_.tile, p, j, width), product = k_.row(product_, p, j, width);
    const bool dot_needed = needs_sums_ || weight_gradient_;
    Tile unit;
    if (dot_needed) {
      unit = normalised(p, j, width);
    }
    if (!geometry_.per_row && weight_gradient_) {
      b.tensor_tensor(product, grad, unit, Alu::multiply);
      fold(weight_sum_, product_, p, j, col, width, share);
    }
    if (!geometry_.per_row && s_.bias_gradient) {
      fold(bias_sum_, grad_.tile, p, j, col, width, share);
    }
    if (needs_sums_ || (geometry_.per_row && weight_gradient_)) {
      const Tile h = scaled(p, j, width);
      b.tensor_tensor(product, h, unit, Alu::multiply);
      add_sum(dot_, p, j, product);
      if (s_.kind != NormKind::rms && needs_sums_) {
        add_sum(sum_, p, j, h);
      }
    }
    if (geometry_.per_row && s_.bias_gradient && !needs_sums_) {
      add_sum(sum_, p, j, grad);
    }
  }

  // Sums over rows, which lie across partitions: a matmul with ones, or with the map from rows to their groups.
  void fold(std::int16_t sum, std::int16_t values, std::int64_t p, const Index& j, const Index& col, std::int64_t width,
            const Index& share) {
    auto& b = k_.builder;
    const std::int64_t partitions = k_.partitions();
    const Index base = share * num_accumulators();
    if (s_.kind == NormKind::group) {
      const std::int64_t channels = ceil_div(width, geometry_.spatial);
      const Tile per_channel = on_chip_tile(partial_, p, channels);
      const Tile folded_row = on_chip_tile(
          values, p, {{channels, std::min(width, geometry_.spatial)}, {std::min(width, geometry_.spatial), 1}},
          j * k_.chunk());
      b.tensor_reduce(per_channel, folded_row, Alu::add);
      const std::int64_t groups =
          std::min(p, std::max<std::int64_t>(geometry_.num_parameters / geometry_.channels_per_row, 1));
      b.tiles(channels, moving_max_, [&](const Index& c, std::int64_t w) {
        const Tile psum = on_chip_tile(fold_, groups, w), into = on_chip_tile(sum, groups, w, base + c);
        b.matmul(psum, on_chip_tile(ones_, p, groups), on_chip_tile(partial_, p, w, c));
        b.tensor_tensor(into, into, psum, Alu::add);
      });
      return;
    }
    const auto pieces = tiling::split(width, partitions);
    for (const auto& piece : pieces) {
      b.loop(piece.trips, [&](const Index& i) {
        b.matmul(on_chip_tile(fold_, piece.size, 1, i + piece.start / partitions),
                 on_chip_tile(values, p, piece.size, j * k_.chunk() + i * partitions + piece.start),
                 on_chip_tile(ones_, p, 1));
      });
    }
    // Chunks start at multiples of the number of partitions, so that col / 128 is affine too.
    Index first = col;
    first.offset /= partitions;
    for (auto& stride : first.strides) {
      stride /= partitions;
    }
    for (const auto& piece : pieces) {
      const Index at = base + first + piece.start / partitions;
      const Tile into = on_chip_tile(sum, piece.size, piece.trips, at);
      b.tensor_tensor(into, into, on_chip_tile(fold_, piece.size, piece.trips, piece.start / partitions), Alu::add);
    }
  }

  // The factors of the second pass: -sum(h xhat) / n and -rstd sum(h) / n.
  void finish_sums(std::int64_t p, const Index& j) {
    auto& b = k_.builder;
    const float share = -1.0f / static_cast<float>(std::max<std::int64_t>(s_.cols, 1));
    if (geometry_.per_row && weight_) {
      b.tensor_tensor(k_.scalar(scale_, p, j), k_.scalar(rstd_, p, j), weight_->scalar(p, j), Alu::multiply);
    }
    if (!needs_sums_) {
      return;
    }
    b.tensor_scalar(k_.scalar(dot_, p, j), k_.scalar(dot_, p, j), Alu::multiply, share);
    if (s_.kind != NormKind::rms) {
      const bool rescaled = geometry_.per_row && weight_;
      b.tensor_scalar(k_.scalar(sum_, p, j), k_.scalar(sum_, p, j), Alu::multiply, share);
      b.tensor_tensor(k_.scalar(sum_, p, j), k_.scalar(sum_, p, j), k_.scalar(rescaled ? scale_ : rstd_, p, j),
                      Alu::multiply);
    }
  }

  void apply(std::int64_t p, const Index& j, std::int64_t width) {
    auto& b = k_.builder;
    const Tile out = k_.row(out_.tile, p, j, width), product = k_.row(product_, p, j, width);
    const Tile scale = k_.scalar(geometry_.per_row && weight_ ? scale_ : rstd_, p, j);
    if (!needs_sums_) {
      rows::activation(b, out, k_.row(grad_.tile, p, j, width), Activation::copy, {.scale = scale});
      return;
    }
    const bool again = !k_.resident();
    const Tile unit = again ? normalised(p, j, width) : k_.row(unit_, p, j, width);
    const Tile h = again ? scaled(p, j, width) : k_.row(scaled_, p, j, width);
    rows::op(b, Opcode::scalar_tensor_tensor, product, {unit, h, k_.scalar(dot_, p, j)}, Alu::multiply, Alu::add);
    rows::Columns columns{.scale = scale};
    if (s_.kind != NormKind::rms) {
      columns.bias = k_.scalar(sum_, p, j);
    }
    rows::activation(b, out, product, Activation::copy, columns);
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
      for (std::int64_t share = 1; share < k_.num_shares(); ++share) {
        b.tensor_tensor(first, first, on_chip_tile(sum, partitions, length, share * length), Alu::add);
      }
      if (s_.kind == NormKind::group) {
        const std::int64_t channels = geometry_.channels_per_row;
        b.tiles(geometry_.num_parameters / channels, partitions, [&](const Index& first_group, std::int64_t groups) {
          b.dma(tiling::hbm_tile(hbm, groups, channels, {{channels, 1}}, first_group * channels),
                on_chip_tile(sum, groups, channels));
        });
        continue;
      }
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
  }

  const NormShape& s_;
  const NormGeometry geometry_;
  const bool needs_sums_;  // grad_in depends on sums over the row
  const bool weight_gradient_;
  const std::int64_t moving_max_;
  RowKernel k_;
  RowTensor grad_, x_, out_;
  std::optional<NormParameter> weight_;
  std::int16_t mean_hbm_ = -1, rstd_hbm_ = -1, weight_out_ = -1, bias_out_ = -1;
  std::int16_t mean_ = -1, rstd_ = -1, shift_ = -1, sum_ = -1, dot_ = -1, part_ = -1, scale_ = -1;
  std::int16_t unit_ = -1, product_ = -1, scaled_ = -1;
  std::int16_t ones_ = -1, fold_ = -1, partial_ = -1, turned_ = -1, line_ = -1, weight_sum_ = -1, bias_sum_ = -1;
};

}  // namespace

// HBM bytes, backward: grad_out read once, x once if grad_in needs sums over its row or grad_weight is asked for; where
// a row does not fit in SBUF, grad_in reads again what it needs; statistics once, weight (for grad_in only) as in the
// forward pass but once per pass, and the gradients that are asked for written.
program::Program norm_backward(const target::Target& target, const NormShape& shape) {
  return NormBackward(target, shape).emit();
}

}  // namespace trn::kernels
