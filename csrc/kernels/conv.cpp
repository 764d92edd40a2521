// Convolution as implicit GEMM, one matmul per kernel tap: weights stationary, shifted windows moving.
//
// Channels lie on partitions, positions are free, so NCHW needs no transposes. A window of the input is loaded once per
// block of positions and every tap is an access pattern on it. A strided input gradient runs phase by phase: positions
// with the same remainder share their taps. Small groups (depthwise: one channel each) are packed block-diagonally,
// as many as fill 128 partitions; few input channels are joined by taps of the last axis ("fold").
#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/build.h"
#include "kernels/conv_plan.h"
#include "kernels/executable.h"
#include "kernels/rows.h"
#include "program/count.h"
#include "target/error.h"

namespace trn::kernels {

using tiling::Builder;
using tiling::ceil_div;
using tiling::hbm_tile;
using tiling::Index;
using tiling::on_chip_tile;
using tiling::Opcode;
using tiling::Tile;

namespace {

class ConvProduct {
 public:
  ConvProduct(const target::Target& target, const ConvShape& shape, std::int64_t most_fold)
      : s_(shape),
        plan_(target, shape, most_fold),
        reversed_(shape.direction == ConvDirection::input_gradient),
        b_(reversed_ ? "conv_input_gradient" : "conv"),
        to_(dense_strides(plan_.to)),
        window_(dense_strides(plan_.extent)),
        block_(dense_strides(plan_.block)) {
    const std::int64_t contracted = s_.groups * plan_.contracted, produced = s_.groups * plan_.produced;
    in_hbm_ = b_.hbm(reversed_ ? "grad_out" : "in", s_.dtype, s_.batch * contracted * product(plan_.from));
    weight_hbm_ = b_.hbm("weight", s_.dtype, s_.groups * plan_.contracted * plan_.produced * plan_.num_taps);
    if (s_.bias) {
      bias_hbm_ = b_.hbm("bias", s_.dtype, produced);
    }
    out_hbm_ = b_.hbm(reversed_ ? "grad_in" : "out", s_.dtype, s_.batch * produced * product(plan_.to), true);
    for (std::size_t axis = 0; axis < plan_.to.size(); ++axis) {
      phases_.push_back(plan_.phases(s_, axis));
    }
    give_tiles();
  }

  program::Program emit() {
    if (s_.batch == 0 || plan_.produced == 0 || product(plan_.to) == 0) {
      return b_.take();
    }
    for (const auto& groups : tiling::split(s_.groups, plan_.pack)) {
      for (const auto& channels : tiling::split(groups.size * plan_.produced, plan_.pass)) {
        b_.nest(groups.start == 0 && channels.start == 0 ? "body" : "last_channels");
        if (plan_.pack > 1) {
          rows::block_diagonal(b_, diagonal_, groups.size, reversed_ ? plan_.contracted : plan_.produced,
                               reversed_ ? plan_.produced : plan_.contracted);
        }
        b_.parallel_loop(groups.trips, [&](const Index& g) {
          b_.parallel_loop(channels.trips, [&](const Index& c) {
            emit_pass(g * groups.size + groups.start, groups.size, c * channels.size + channels.start, channels.size);
          });
        });
      }
    }
    return b_.take();
  }

 private:
  std::int64_t last_taps() const { return s_.kernel.back(); }
  // Stationary tiles per K tile: taps, less those that are folded.
  std::int64_t tap_groups() const { return plan_.num_taps / last_taps() * ceil_div(last_taps(), plan_.fold); }

  void give_tiles() {
    const std::int64_t partitions = plan_.partitions;
    const std::int64_t channels = plan_.pack * plan_.contracted;
    const std::int64_t tiles = std::max<std::int64_t>(ceil_div(channels, plan_.depth), 1);
    weights_ = b_.sbuf("stationary", plan_.dtype, partitions, tiles * tap_groups() * plan_.pass, 1);
    in_ = b_.sbuf("window", plan_.dtype, partitions, tiles * plan_.window_elements());
    out_ = b_.sbuf("out_tile", plan_.dtype, partitions, plan_.block_elements());
    const std::int64_t row = std::min(channels, plan_.depth) * plan_.num_taps;
    if (!reversed_ || plan_.pack > 1) {
      raw_ = b_.sbuf("weight_tile", plan_.dtype, partitions, reversed_ ? plan_.produced * plan_.num_taps : row);
    }
    if (!reversed_) {
      turned_ = b_.psum("weight_transposed", plan_.dtype, partitions, partitions);
    }
    if (plan_.pack > 1) {
      diagonal_ = b_.sbuf("block_diagonal", plan_.dtype, partitions, partitions, 1);
      spread_ = b_.sbuf("spread_weight", plan_.dtype, partitions, partitions * plan_.fold);
    }
    if (s_.bias) {
      bias_ = b_.sbuf("bias_tile", plan_.dtype, partitions, ceil_div(plan_.pass, partitions), 1);
    }
    sum_ = b_.psum("sum", Dtype::float32, partitions, plan_.moving);
  }

  void emit_pass(const Index& group, std::int64_t groups, const Index& channel, std::int64_t count) {
    const std::int64_t contracted = groups * plan_.contracted;
    if (reversed_ && contracted > 0) {
      load_weights(group, groups, channel, count);
    } else if (contracted > 0) {
      load_transposed_weights(group, groups, channel, count);
    }
    const Index first_out = group * plan_.produced + channel;
    if (s_.bias) {
      each_tile(count, [&](const Index& m, const Index& number, std::int64_t width) {
        b_.dma(on_chip_tile(bias_, width, 1, number), hbm_tile(bias_hbm_, width, 1, {}, first_out + m));
      });
    }
    b_.parallel_loop(s_.batch, [&](const Index& n) {
      plan_.each_block(b_, true, [&](const ConvBlock& block) {
        load_window(b_, plan_, block, in_, in_hbm_, (n * s_.groups + group) * plan_.contracted, contracted);
        each_tile(count, [&](const Index& m, const Index& number, std::int64_t width) {
          emit_block(block, contracted, m, number, width, count);
          b_.dma(
              hbm_tile(out_hbm_, width, product(plan_.to), dims(block.size, to_),
                       (n * (s_.groups * plan_.produced) + first_out + m) * product(plan_.to) + at(block.start, to_)),
              on_chip_tile(out_, width, dims(block.size, block_)));
        });
      });
    });
  }

  template <class Body>
  void each_tile(std::int64_t count, Body body) {
    kernels::each_tile(b_, count, plan_.partitions, std::move(body));
  }
  template <class Body>
  void each_depth(std::int64_t count, Body body) {
    kernels::each_tile(b_, count, plan_.depth, std::move(body));
  }

  // weight [out, in / groups, taps]: [out on partitions, in * taps] loaded, each tap turned to [in, out].
  void load_transposed_weights(const Index& group, std::int64_t groups, const Index& channel, std::int64_t count) {
    const std::int64_t per_row = plan_.contracted * plan_.num_taps;
    const Index first = group * plan_.produced + channel;
    each_tile(count, [&](const Index& m, const Index&, std::int64_t width) {
      if (plan_.pack > 1) {
        b_.dma(on_chip_tile(raw_, width, per_row),
               hbm_tile(weight_hbm_, width, per_row, {{per_row, 1}}, first * per_row));
        turn_taps(m, count, width, groups * plan_.contracted, Index(0));
        return;
      }
      each_depth(plan_.contracted, [&](const Index& k, const Index& number, std::int64_t depth) {
        const std::int64_t run = depth * plan_.num_taps;
        b_.dma(on_chip_tile(raw_, width, run),
               hbm_tile(weight_hbm_, width, per_row, {{run, 1}}, (first + m) * per_row + k * plan_.num_taps));
        turn_taps(m, count, width, depth, number);
      });
    });
  }
  void turn_taps(const Index& m, std::int64_t count, std::int64_t width, std::int64_t depth, const Index& k_number) {
    const std::int64_t outer = plan_.num_taps / last_taps(), inner = ceil_div(last_taps(), plan_.fold);
    for (const auto& folded : tiling::split(last_taps(), plan_.fold)) {
      b_.loop(outer, [&](const Index& o) {
        b_.loop(folded.trips, [&](const Index& i) {
          const Index tap = o * last_taps() + i * folded.size + folded.start;
          const Index slot = o * inner + i + folded.start / plan_.fold;
          Tile source = on_chip_tile(raw_, width, {{folded.size, 1}, {depth, plan_.num_taps}}, tap);
          if (plan_.pack > 1) {
            const Tile repeated = on_chip_tile(
                raw_, width, {{folded.size, 1}, {depth / plan_.contracted, 0}, {plan_.contracted, plan_.num_taps}},
                tap);
            const Tile spread = on_chip_tile(spread_, width, folded.size * depth);
            rows::op(b_, Opcode::select, spread,
                     {on_chip_tile(diagonal_, width, {{folded.size, 0}, {depth, 1}}), repeated});
            source = spread;
          }
          const Tile turned = on_chip_tile(turned_, folded.size * depth, width);
          b_.transpose(turned, source);
          b_.tensor_copy(
              on_chip_tile(weights_, folded.size * depth, width, (k_number * tap_groups() + slot) * count + m), turned);
        });
      });
    }
  }

  // For grad_out's channels on partitions the weight is stationary as it lies: [out, in / groups * taps].
  void load_weights(const Index& group, std::int64_t groups, const Index& channel, std::int64_t count) {
    const std::int64_t per_row = plan_.produced * plan_.num_taps;
    const Index first = group * plan_.contracted;
    if (plan_.pack > 1) {
      const std::int64_t depth = groups * plan_.contracted;
      b_.dma(on_chip_tile(raw_, depth, per_row),
             hbm_tile(weight_hbm_, depth, per_row, {{per_row, 1}}, first * per_row));
      b_.loop(plan_.num_taps, [&](const Index& tap) {
        rows::op(b_, Opcode::select, on_chip_tile(weights_, depth, {{count, plan_.num_taps}}, tap),
                 {on_chip_tile(diagonal_, depth, count),
                  on_chip_tile(raw_, depth, {{groups, 0}, {plan_.produced, plan_.num_taps}}, tap)});
      });
      return;
    }
    const std::int64_t run = count * plan_.num_taps;
    each_depth(plan_.contracted, [&](const Index& k, const Index& number, std::int64_t depth) {
      b_.dma(on_chip_tile(weights_, depth, run, number * run),
             hbm_tile(weight_hbm_, depth, per_row, {{run, 1}}, (first + k) * per_row + channel * plan_.num_taps));
    });
  }

  // Every phase of the block: [width produced channels, positions].
  void emit_block(const ConvBlock& block, std::int64_t contracted, const Index& m, const Index& m_number,
                  std::int64_t width, std::int64_t count) {
    std::vector<const AxisPhase*> phase(phases_.size());
    std::vector<std::int64_t> counts(phases_.size()), steps(phases_.size());
    std::function<void(std::size_t)> descend = [&](std::size_t axis) {
      if (axis == phases_.size()) {
        emit_phase(phase, counts, steps, contracted, m, m_number, width, count);
        return;
      }
      for (const auto& candidate : phases_[axis]) {
        counts[axis] = candidate.count(block.size[axis]);
        steps[axis] = candidate.step;
        phase[axis] = &candidate;
        if (counts[axis] > 0) {
          descend(axis + 1);
        }
      }
    };
    descend(0);
  }

  void emit_phase(const std::vector<const AxisPhase*>& phase, const std::vector<std::int64_t>& counts,
                  const std::vector<std::int64_t>& steps, std::int64_t contracted, const Index& m,
                  const Index& m_number, std::int64_t width, std::int64_t count) {
    const bool untouched = contracted == 0 || std::any_of(phase.begin(), phase.end(),
                                                          [](const AxisPhase* axis) { return axis->taps.empty(); });
    each_rectangle(b_, counts, plan_.moving, [&](const ConvRectangle& positions) {
      Index target;
      for (std::size_t axis = 0; axis < phase.size(); ++axis) {
        target = target + (positions.start[axis] * steps[axis] + phase[axis]->first) * block_[axis];
      }
      const Tile result = on_chip_tile(out_, width, dims(positions.size, block_, steps), target);
      const Tile sum = on_chip_tile(sum_, width, product(positions.size));
      if (untouched) {
        b_.memset(result, 0);
      } else {
        emit_taps(phase, positions, contracted, m, width, count, sum);
      }
      if (s_.bias) {
        rows::activation(b_, result, untouched ? result : sum, Activation::copy,
                         {.bias = on_chip_tile(bias_, width, 1, m_number)});
      } else if (!untouched) {
        b_.tensor_copy(result, sum);
      }
    });
  }

  void emit_taps(const std::vector<const AxisPhase*>& phase, const ConvRectangle& positions, std::int64_t contracted,
                 const Index& m, std::int64_t width, std::int64_t count, const Tile& sum) {
    const std::size_t last = phase.size() - 1;
    const std::vector<std::int64_t> strides = reversed_ ? std::vector<std::int64_t>(phase.size(), 1) : s_.stride;
    bool after = false;
    std::function<void(std::size_t, std::int64_t, Index)> descend = [&](std::size_t axis, std::int64_t tap,
                                                                        const Index& offset) {
      for (std::size_t t = 0; t < phase[axis]->taps.size(); t += axis == last ? plan_.fold : 1) {
        const std::int64_t next_tap = tap * s_.kernel[axis] + phase[axis]->taps[t];
        const Index next = offset + (positions.start[axis] * strides[axis] + phase[axis]->offsets[t]) * window_[axis];
        if (axis < last) {
          descend(axis + 1, next_tap, next);
          continue;
        }
        const std::int64_t folded =
            std::min<std::int64_t>(plan_.fold, static_cast<std::int64_t>(phase[axis]->taps.size() - t));
        const int depth = b_.depth();
        each_depth(contracted, [&](const Index& k, const Index& number, std::int64_t channels) {
          static_cast<void>(k);
          b_.matmul(sum, stationary(next_tap, number, channels * folded, m, width, count),
                    on_chip_tile(in_, channels * folded, dims(positions.size, window_, strides),
                                 number * plan_.window_elements() + next),
                    after ? program::kAccumulate : static_cast<std::int16_t>(depth));
          after = true;
        });
      }
    };
    descend(0, 0, Index(0));
  }

  Tile stationary(std::int64_t tap, const Index& k_number, std::int64_t depth, const Index& m, std::int64_t width,
                  std::int64_t count) const {
    if (reversed_) {
      return on_chip_tile(weights_, depth, {{width, plan_.num_taps}},
                          k_number * (count * plan_.num_taps) + m * plan_.num_taps + tap);
    }
    const std::int64_t inner = ceil_div(last_taps(), plan_.fold);
    const std::int64_t slot = tap / last_taps() * inner + tap % last_taps() / plan_.fold;
    return on_chip_tile(weights_, depth, width, (k_number * tap_groups() + slot) * count + m);
  }

  const ConvShape& s_;
  const ConvPlan plan_;
  const bool reversed_;
  Builder b_;
  const std::vector<std::int64_t> to_, window_, block_;  // strides
  std::vector<std::vector<AxisPhase>> phases_;
  std::int16_t in_hbm_ = -1, weight_hbm_ = -1, bias_hbm_ = -1, out_hbm_ = -1;
  std::int16_t weights_ = -1, in_ = -1, out_ = -1, raw_ = -1, turned_ = -1, diagonal_ = -1, spread_ = -1, bias_ = -1;
  std::int16_t sum_ = -1;
};

// Taps whose copies of a window have whole rows of HBM: with padding, those that begin within it.
std::int64_t fold_of_whole_rows(const ConvShape& shape) {
  const bool is_padded = std::ranges::any_of(shape.padding, [](auto size) { return size > 0; });
  return is_padded ? shape.padding.back() / shape.dilation.back() + 1 : std::numeric_limits<std::int64_t>::max();
}

}  // namespace

void require_executable(const ConvShape& shape) {
  if (shape.dtype == Dtype::complex32 || shape.dtype == Dtype::complex64 || shape.dtype == Dtype::complex128) {
    throw Error(Category::unimplemented, "[conv] complex elements are counted, not executed; got " +
                                             std::string(target::name(shape.dtype)) +
                                             ". Use reference numerics for it.");
  }
}

// HBM bytes / itemsize, with W the positions of all windows (per axis, windows of neighbouring blocks overlap by
// (kernel - 1) * dilation + 1 - stride; summed over the shifted copies that folded taps read): forward and
// input_gradient read batch * channels * W * passes + weight + bias and write the result; weight_gradient: see
// conv_weight_gradient.
//
// A copy of a padded window that is shifted by more than the padding has rows shorter than those of HBM, each a
// descriptor: fewer copies may be faster, with more products.
program::Program conv(const target::Target& target, const ConvShape& shape) {
  const auto with_fold = [&](std::int64_t most) {
    return shape.direction == ConvDirection::weight_gradient ? conv_weight_gradient(target, shape, most)
                                                             : ConvProduct(target, shape, most).emit();
  };
  const std::int64_t all = target.core.num_partitions;
  program::Program program = with_fold(all);
  const std::int64_t whole_rows = fold_of_whole_rows(shape);
  if (whole_rows >= all || ConvPlan(target, shape, all).fold <= whole_rows) {
    return program;
  }
  return program::faster(std::move(program), with_fold(whole_rows), target);
}

}  // namespace trn::kernels
