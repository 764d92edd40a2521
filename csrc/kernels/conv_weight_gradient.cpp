// A convolution's weight and bias gradient: positions contracted on partitions, so both operands are transposed.
//
// Per block of positions, grad_out is turned to [positions, out channels] once; for every tap, the shifted window is
// turned to [positions, in channels] and each out-channel tile multiplied by it into its own PSUM bank, over all
// 128-position tiles of the block. Block sums are added in SBUF and leave it once. Samples of few positions go several
// to a block, so that most of their sums are made in PSUM.
#include <algorithm>

#include "kernels/conv_plan.h"
#include "kernels/rows.h"

namespace trn::kernels {

using tiling::Builder;
using tiling::ceil_div;
using tiling::hbm_tile;
using tiling::Index;
using tiling::on_chip_tile;
using tiling::Opcode;
using tiling::Tile;

namespace {

class ConvWeightGradient {
 public:
  ConvWeightGradient(const target::Target& target, const ConvShape& shape, std::int64_t most_fold)
      : s_(shape),
        plan_(target, shape, most_fold),
        b_("conv_weight_gradient"),
        cores_(std::max<std::int64_t>(target.device.num_cores, 1)),
        num_banks_(std::max<std::int64_t>(target.core.psum_num_banks - 3, 1)),
        to_(dense_strides(plan_.to)),
        window_(dense_strides(plan_.extent)),
        block_(dense_strides(plan_.block)) {
    in_hbm_ = b_.hbm("in", s_.dtype, s_.batch * s_.in_channels * product(plan_.from));
    grad_hbm_ = b_.hbm("grad_out", s_.dtype, s_.batch * s_.out_channels * product(plan_.to));
    out_hbm_ = b_.hbm("grad_weight", s_.dtype, s_.out_channels * plan_.contracted * plan_.num_taps, true);
    if (s_.bias) {
      bias_hbm_ = b_.hbm("grad_bias", s_.dtype, s_.out_channels, true);
    }
    const std::int64_t trips =
        ceil_div(s_.groups, plan_.pack) * ceil_div(plan_.pack * plan_.produced, std::max<std::int64_t>(plan_.pass, 1)) *
        ceil_div(plan_.pack * plan_.contracted, std::max<std::int64_t>(plan_.contracted_pass, 1));
    shares_ = trips >= cores_ || s_.batch < cores_ ? 1 : cores_;
    samples_ = samples_of_a_block(target);
    give_tiles();
  }

  program::Program emit() {
    if (plan_.produced * plan_.contracted * plan_.num_taps == 0) {
      return b_.take();
    }
    for (const auto& groups : tiling::split(s_.groups, plan_.pack)) {
      for (const auto& channels : tiling::split(groups.size * plan_.produced, plan_.pass)) {
        for (const auto& depth : tiling::split(groups.size * plan_.contracted, plan_.contracted_pass)) {
          b_.nest(groups.start + channels.start + depth.start == 0 ? "body" : "last_channels");
          if (plan_.pack > 1) {
            rows::block_diagonal(b_, diagonal_, groups.size, plan_.produced, plan_.contracted);
          }
          b_.parallel_loop(groups.trips, [&](const Index& g) {
            b_.parallel_loop(channels.trips, [&](const Index& c) {
              b_.parallel_loop(depth.trips, [&](const Index& k) {
                const bool with_bias = s_.bias && depth.start == 0 && depth.trips == 1;
                emit_pass({.group = g * groups.size + groups.start,
                           .groups = groups.size,
                           .out = c * channels.size + channels.start,
                           .num_out = channels.size,
                           .in = k * depth.size + depth.start,
                           .num_in = depth.size,
                           .bias = with_bias});
              });
            });
          });
        }
      }
    }
    if (s_.bias && plan_.contracted_pass < plan_.pack * plan_.contracted) {
      bias_alone();
    }
    return b_.take();
  }

 private:
  struct Pass {
    Index group;
    std::int64_t groups = 1;
    Index out;
    std::int64_t num_out = 0;
    Index in;
    std::int64_t num_in = 0;
    bool bias = false;
  };

  // What a sample needs of SBUF: its window, and grad_out transposed.
  std::int64_t window_elements() const {
    return std::max<std::int64_t>(ceil_div(plan_.contracted_pass, plan_.depth), 1) * plan_.window_elements();
  }
  std::int64_t turned_elements() const { return num_rectangles(plan_.block, plan_.partitions) * plan_.pass; }

  // Of samples that are a block each, as many as 40 % of SBUF hold, for which the plan leaves room.
  std::int64_t samples_of_a_block(const target::Target& target) const {
    constexpr std::int64_t kMost = 16;
    if (plan_.block != plan_.to || plan_.block_elements() == 0) {
      return 1;
    }
    const std::int64_t bytes = 2 * itemsize(plan_.dtype) * (window_elements() + turned_elements());
    const std::int64_t fitting = target.core.sbuf_bytes_per_partition * 4 / 10 / bytes;
    return std::max<std::int64_t>(std::min({kMost, fitting, s_.batch / shares_}), 1);
  }

  void give_tiles() {
    const std::int64_t partitions = plan_.partitions;
    const std::int64_t out_tiles = ceil_div(plan_.pass, partitions);
    in_ = b_.sbuf("window", plan_.dtype, partitions, samples_ * window_elements());
    grad_ = b_.sbuf("grad_out_tile", plan_.dtype, partitions, plan_.block_elements());
    grad_t_ = b_.sbuf("grad_out_transposed", plan_.dtype, partitions, samples_ * turned_elements(), 2);
    in_t_ = b_.sbuf("window_transposed", plan_.dtype, partitions, plan_.moving);
    sum_ = b_.sbuf("weight_sum", Dtype::float32, partitions,
                   shares_ * out_tiles * plan_.contracted_pass * plan_.num_taps, 1);
    result_ =
        b_.sbuf("grad_weight_tile", plan_.dtype, partitions,
                (plan_.pack > 1 ? plan_.contracted : std::min(plan_.contracted_pass, plan_.depth)) * plan_.num_taps);
    if (s_.bias) {
      bias_sum_ = b_.sbuf("bias_sum", Dtype::float32, partitions, shares_ * out_tiles, 1);
      bias_part_ = b_.sbuf("bias_part", Dtype::float32, partitions, 1);
    }
    if (plan_.pack > 1) {
      diagonal_ = b_.sbuf("block_diagonal", Dtype::float32, partitions, partitions, 1);
      masked_ = b_.sbuf("masked", Dtype::float32, partitions, partitions, 1);
    }
    turned_ = b_.psum("turned", plan_.dtype, partitions, partitions, 3);
    product_ = b_.psum("product", Dtype::float32, partitions, num_banks_ * plan_.moving, 1);
  }

  template <class Body>
  void each_tile(std::int64_t count, Body body) {
    kernels::each_tile(b_, count, plan_.partitions, std::move(body));
  }
  template <class Body>
  void each_depth(std::int64_t count, Body body) {
    kernels::each_tile(b_, count, plan_.depth, std::move(body));
  }
  std::int64_t sum_elements() const {
    return ceil_div(plan_.pass, plan_.partitions) * plan_.contracted_pass * plan_.num_taps;
  }

  void emit_pass(const Pass& pass) {
    const std::int64_t out_tiles = ceil_div(pass.num_out, plan_.partitions);
    b_.memset(on_chip_tile(sum_, plan_.partitions, shares_ * sum_elements()), 0);
    if (pass.bias) {
      b_.memset(on_chip_tile(bias_sum_, plan_.partitions, shares_ * out_tiles), 0);
    }
    const std::int64_t each = s_.batch / shares_;
    b_.parallel_loop(each > 0 ? shares_ : 0, [&](const Index& share) {
      b_.tiles(each, samples_,
               [&](const Index& n, std::int64_t count) { emit_samples(pass, share * each + n, count, share); });
    });
    b_.loop(s_.batch - each * shares_, [&](const Index& n) { emit_samples(pass, n + each * shares_, 1, Index(0)); });
    finish(pass);
  }

  void emit_samples(const Pass& pass, const Index& first, std::int64_t count, const Index& share) {
    const std::int64_t out_tiles = ceil_div(pass.num_out, plan_.partitions);
    count_ = count;
    plan_.each_block(b_, false, [&](const ConvBlock& block) {
      b_.each(count_, [&](const Index& sample) {
        const Index n = first + sample;
        load_window(b_, plan_, block, in_, in_hbm_, n * s_.in_channels + pass.group * plan_.contracted + pass.in,
                    pass.num_in, sample * window_elements());
        each_tile(pass.num_out, [&](const Index& m, const Index& number, std::int64_t width) {
          load_grad(pass, block, n, m, width);
          if (pass.bias) {
            const Tile part = on_chip_tile(bias_part_, width, 1);
            const Tile sum = on_chip_tile(bias_sum_, width, 1, share * out_tiles + number);
            b_.tensor_reduce(part, on_chip_tile(grad_, width, dims(block.size, block_)), Alu::add);
            b_.tensor_tensor(sum, sum, part, Alu::add);
          }
          turn_grad(block, sample * turned_elements() + m, width, pass.num_out);
        });
      });
      multiply(pass, block, share);
    });
  }

  void load_grad(const Pass& pass, const ConvBlock& block, const Index& n, const Index& m, std::int64_t width) {
    const std::int64_t size = product(plan_.to);
    const Index channel = n * s_.out_channels + pass.group * plan_.produced + pass.out + m;
    b_.dma(on_chip_tile(grad_, width, dims(block.size, block_)),
           hbm_tile(grad_hbm_, width, size, dims(block.size, to_), channel * size + at(block.start, to_)));
  }

  // At most 128 positions of a block at a time; grad_out transposed keeps each tile of them in a slot of its own.
  void turn_grad(const ConvBlock& block, const Index& first, std::int64_t width, std::int64_t num_out) {
    each_rectangle(b_, block.size, plan_.partitions, [&](const ConvRectangle& tile) {
      const std::int64_t positions = product(tile.size);
      const Tile turned = on_chip_tile(turned_, positions, width);
      b_.transpose(turned, on_chip_tile(grad_, width, dims(tile.size, block_), at(tile.start, block_)));
      b_.tensor_copy(on_chip_tile(grad_t_, positions, width, tile.number * num_out + first), turned,
                     program::Engine::scalar);
    });
  }

  // Window columns [positions, in channels] of one tap (or of a fold of them) against every out-channel tile.
  void multiply(const Pass& pass, const ConvBlock& block, const Index& share) {
    const std::int64_t outer = plan_.num_taps / s_.kernel.back();
    const std::int64_t columns = std::max(plan_.moving / plan_.fold / plan_.depth, std::int64_t{1}) * plan_.depth;
    for (std::int64_t o = 0; o < outer; ++o) {
      Index offset;
      std::int64_t rest = o;
      for (std::size_t axis = s_.kernel.size() - 1; axis-- > 0;) {
        offset = offset + rest % s_.kernel[axis] * s_.dilation[axis] * window_[axis];
        rest /= s_.kernel[axis];
      }
      for (const auto& folded : tiling::split(s_.kernel.back(), plan_.fold)) {
        for (std::int64_t trip = 0; trip < folded.trips; ++trip) {
          const std::int64_t tap = folded.start + trip * folded.size;
          const Index shifted = offset + tap * s_.dilation.back();
          b_.tiles(pass.num_in, columns, [&](const Index& k, std::int64_t channels) {
            multiply_tap(pass, block, share, shifted, o * s_.kernel.back() + tap, k, channels, folded.size);
          });
        }
      }
    }
  }

  void multiply_tap(const Pass& pass, const ConvBlock& block, const Index& share, const Index& offset, std::int64_t tap,
                    const Index& k, std::int64_t channels, std::int64_t folded) {
    const std::int64_t columns = channels * folded;
    const std::int64_t together = num_banks_ * plan_.partitions;
    for (const auto& banks : tiling::split(pass.num_out, together)) {
      b_.loop(banks.trips, [&](const Index& bank_group) {
        const Index first = bank_group * together + banks.start;
        const std::int64_t num_out = banks.size;
        const int depth = b_.depth();
        const auto num_loops = static_cast<std::int16_t>(block.size.size() + (count_ > 1 ? 1 : 0));
        bool after = false;
        b_.each(count_, [&](const Index& sample) {
          each_rectangle(b_, block.size, plan_.partitions, [&](const ConvRectangle& tile) {
            const std::int64_t positions = product(tile.size);
            turn_window(tile, offset + sample * window_elements(), k, channels, folded);
            each_tile(num_out, [&](const Index& m, const Index& bank, std::int64_t width) {
              b_.matmul(on_chip_tile(product_, width, columns, bank * plan_.moving),
                        on_chip_tile(grad_t_, positions, width,
                                     sample * turned_elements() + tile.number * pass.num_out + first + m),
                        on_chip_tile(in_t_, positions, columns),
                        after ? program::kAccumulate : static_cast<std::int16_t>(depth), num_loops);
            });
            after = true;
          });
        });
        each_tile(num_out, [&](const Index& m, const Index& bank, std::int64_t width) {
          static_cast<void>(m);
          const Index out_tile = bank + bank_group * num_banks_ + banks.start / plan_.partitions;
          const Tile into = on_chip_tile(sum_, width, {{folded, 1}, {channels, plan_.num_taps}},
                                         share * sum_elements() + (out_tile * pass.num_in + k) * plan_.num_taps + tap);
          b_.tensor_tensor(into, into, on_chip_tile(product_, width, columns, bank * plan_.moving), Alu::add);
        });
      });
    }
  }

  void turn_window(const ConvRectangle& tile, const Index& offset, const Index& k, std::int64_t channels,
                   std::int64_t folded) {
    const std::int64_t positions = product(tile.size);
    Index base = offset;
    for (std::size_t axis = 0; axis < tile.start.size(); ++axis) {
      base = base + tile.start[axis] * (s_.stride[axis] * window_[axis]);
    }
    each_depth(channels, [&](const Index& c, const Index& number, std::int64_t depth) {
      const Tile turned = on_chip_tile(turned_, positions, depth * folded);
      b_.transpose(turned, on_chip_tile(in_, depth * folded, dims(tile.size, window_, s_.stride),
                                        base + (k / plan_.depth + number) * plan_.window_elements()));
      b_.tensor_copy(on_chip_tile(in_t_, positions, depth * folded, c * folded), turned);
    });
  }

  void finish(const Pass& pass) {
    const std::int64_t out_tiles = ceil_div(pass.num_out, plan_.partitions), all = sum_elements();
    for (std::int64_t share = 1; share < shares_; ++share) {
      const Tile first = on_chip_tile(sum_, plan_.partitions, all);
      b_.tensor_tensor(first, first, on_chip_tile(sum_, plan_.partitions, all, share * all), Alu::add);
      if (pass.bias) {
        const Tile bias = on_chip_tile(bias_sum_, plan_.partitions, out_tiles);
        b_.tensor_tensor(bias, bias, on_chip_tile(bias_sum_, plan_.partitions, out_tiles, share * out_tiles), Alu::add);
      }
    }
    const std::int64_t per_row = plan_.contracted * plan_.num_taps;
    const Index first_out = pass.group * plan_.produced + pass.out;
    each_tile(pass.num_out, [&](const Index& m, const Index& number, std::int64_t width) {
      if (pass.bias) {
        b_.dma(hbm_tile(bias_hbm_, width, 1, {}, first_out + m), on_chip_tile(bias_sum_, width, 1, number));
      }
      if (plan_.pack > 1) {
        take_diagonal(pass, width);
        b_.dma(hbm_tile(out_hbm_, width, per_row, {{per_row, 1}}, first_out * per_row),
               on_chip_tile(result_, width, per_row));
        return;
      }
      each_depth(pass.num_in, [&](const Index& k, const Index&, std::int64_t depth) {
        const std::int64_t run = depth * plan_.num_taps;
        const Tile result = on_chip_tile(result_, width, run);
        b_.tensor_copy(result,
                       on_chip_tile(sum_, width, run, number * (pass.num_in * plan_.num_taps) + k * plan_.num_taps));
        b_.dma(
            hbm_tile(out_hbm_, width, per_row, {{run, 1}}, (first_out + m) * per_row + (pass.in + k) * plan_.num_taps),
            result);
      });
    });
  }

  // Of the product of all packed groups' channels, each group's own block: masked, then summed over the groups.
  void take_diagonal(const Pass& pass, std::int64_t width) {
    b_.loop(plan_.num_taps, [&](const Index& tap) {
      const Tile masked = on_chip_tile(masked_, width, pass.num_in);
      rows::op(b_, Opcode::select, masked,
               {on_chip_tile(diagonal_, width, pass.num_in),
                on_chip_tile(sum_, width, {{pass.num_in, plan_.num_taps}}, tap)});
      b_.tensor_reduce(on_chip_tile(result_, width, {{plan_.contracted, plan_.num_taps}}, tap),
                       on_chip_tile(masked_, width, {{plan_.contracted, 1}, {pass.groups, plan_.contracted}}),
                       Alu::add);
    });
  }

  // Where grad_out is read once per pass over the input channels, its sums are a pass of their own.
  void bias_alone() {
    b_.nest("bias");
    for (const auto& channels : tiling::split(s_.out_channels, plan_.partitions)) {
      b_.parallel_loop(channels.trips, [&](const Index& c) {
        Pass pass;
        pass.out = c * plan_.partitions + channels.start;
        pass.num_out = channels.size;
        const Tile sum = on_chip_tile(bias_sum_, channels.size, 1);
        b_.memset(sum, 0);
        b_.loop(s_.batch, [&](const Index& n) {
          plan_.each_block(b_, false, [&](const ConvBlock& block) {
            load_grad(pass, block, n, Index(0), channels.size);
            const Tile part = on_chip_tile(bias_part_, channels.size, 1);
            b_.tensor_reduce(part, on_chip_tile(grad_, channels.size, dims(block.size, block_)), Alu::add);
            b_.tensor_tensor(sum, sum, part, Alu::add);
          });
        });
        b_.dma(hbm_tile(bias_hbm_, channels.size, 1, {}, pass.out), sum);
      });
    }
  }

  const ConvShape& s_;
  const ConvPlan plan_;
  Builder b_;
  const std::int64_t cores_, num_banks_;
  const std::vector<std::int64_t> to_, window_, block_;  // strides
  std::int64_t shares_ = 1;                              // cores that share the batch
  std::int64_t samples_ = 1, count_ = 1;                 // of a block at most, and of the one being emitted
  std::int16_t in_hbm_ = -1, grad_hbm_ = -1, out_hbm_ = -1, bias_hbm_ = -1;
  std::int16_t in_ = -1, grad_ = -1, grad_t_ = -1, in_t_ = -1, sum_ = -1, result_ = -1, bias_sum_ = -1, bias_part_ = -1;
  std::int16_t diagonal_ = -1, masked_ = -1, turned_ = -1, product_ = -1;
};

}  // namespace

// HBM bytes / itemsize: read batch * (in channels * W * passes over out channels + out channels * positions * passes
// over in channels (+ 1 for the bias where these are several)), written weight (+ bias). W as in conv().
program::Program conv_weight_gradient(const target::Target& target, const ConvShape& shape, std::int64_t most_fold) {
  return ConvWeightGradient(target, shape, most_fold).emit();
}

}  // namespace trn::kernels
