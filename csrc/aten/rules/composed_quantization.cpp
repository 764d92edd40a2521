// Fake quantization: values on a grid of integers, the gradients of what learns the grid, and the observer that sets
// it.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "aten/rules/composition.h"
#include "aten/rules/rounding.h"

namespace trn::aten::rules {

namespace {

using Values = Composition::Values;

// x lies at zero + round(x / scale), or where the zero is no integer at round(zero + x / scale).
struct Grid {
  Value scale, inverse, zero;
  bool rounds_zero = false;
};

struct Levels {
  float least, most;
};

Levels levels_of(const Composition& c) {
  return {static_cast<float>(c.args().integer("quant_min", 0)), static_cast<float>(c.args().integer("quant_max", 255))};
}

Value level(Expression& e, Value x, const Grid& grid) {
  const Value scaled = e.multiply(x, grid.inverse);
  return grid.rounds_zero ? round(e, e.add(scaled, grid.zero)) : e.add(round(e, scaled), grid.zero);
}

Value is_inside(Expression& e, Value level, Levels levels) {
  const Value above = e.apply(Alu::greater_equal, level, levels.least);
  return e.apply(Alu::less_equal, level, levels.most, Alu::multiply, above);
}

Value clamped(Expression& e, Value x, Levels levels) {
  return e.apply(Alu::maximum, x, levels.least, Alu::minimum, levels.most);
}

// What the nearest level stands for.
Value on_grid(Expression& e, Value level, const Grid& grid, Levels levels) {
  return e.multiply(e.subtract(clamped(e, level, levels), grid.zero), grid.scale);
}

Grid grid_of(Expression& e, Value scale, Value zero, bool rounds_zero = false) {
  return {scale, e.reciprocal(scale), zero, rounds_zero};
}

bool is_per_channel(const Composition& c) {
  return c.args().find("axis") >= 0;
}

std::optional<std::int64_t> channel_axis(const Composition& c) {
  return is_per_channel(c) ? std::optional(c.args().integer("axis", 0)) : std::nullopt;
}

// To a value for each place along `axis`, or where there is none to one.
void reduce_channels(Composition& c, const at::Tensor& x, const at::Tensor& out, std::optional<std::int64_t> axis,
                     Fold fold) {
  if (axis && x.dim() == 1) {
    c.copy(x, out);
    return;
  }
  std::vector<std::int64_t> dims;
  for (std::int64_t d = 0; d < x.dim() && axis; ++d) {
    if (d != *axis) {
      dims.push_back(d);
    }
  }
  c.reduce({x}, out, dims, std::move(fold));
}

// A value for each channel, or one.
at::Tensor parameter(const Composition& c, std::string_view name, const at::Tensor& x) {
  return is_per_channel(c) ? c.along(name, c.args().integer("axis", 0), x.dim()) : c.along(name, 0, 1);
}

// ---- Forward

void quantize_by_numbers(Composition& c) {
  const auto scale = static_cast<float>(c.args().number("scale", 1));
  const Grid grid{scale, 1 / scale, static_cast<float>(c.args().integer("zero_point", 0))};
  c.map({c.tensor("self")}, {c.args().output(0), c.args().output(1)}, [&](Expression& e, const Values& v) {
    const Value q = level(e, v[0], grid);
    e.output(0, on_grid(e, q, grid, levels_of(c)));
    e.output(1, is_inside(e, q, levels_of(c)));
  });
}

// Of tensors, while `enabled` is not 0; otherwise x as it is.
void quantize(Composition& c, const at::Tensor& scale, const at::Tensor& zero, const at::Tensor& enabled) {
  const bool rounds_zero = zero.is_floating_point() && is_per_channel(c);
  c.map({c.tensor("self"), scale, zero, enabled}, {c.args().output(0), c.args().output(1)},
        [&](Expression& e, const Values& v) {
          const Grid grid = grid_of(e, v[1], v[2], rounds_zero);
          const Value q = level(e, v[0], grid);
          const Value result = on_grid(e, q, grid, levels_of(c)), inside = is_inside(e, q, levels_of(c));
          e.output(0, enabled.defined() ? e.select(v[3], result, v[0]) : result);
          e.output(1, enabled.defined() ? e.select(v[3], inside, 1) : inside);
        });
}

void quantize_by_tensors(Composition& c) {
  const at::Tensor self = c.tensor("self");
  quantize(c, parameter(c, "scale", self), parameter(c, "zero_point", self), c.along("fake_quant_enabled", 0, 1));
}

// The zero that is learnt is rounded to a level.
void quantize_learnt(Composition& c) {
  const at::Tensor self = c.tensor("self");
  c.map({self, parameter(c, "scale", self), parameter(c, "zero_point", self)}, {c.args().output()},
        [&](Expression& e, const Values& v) {
          const Grid grid = grid_of(e, v[1], clamped(e, round(e, v[2]), levels_of(c)));
          e.output(0, on_grid(e, level(e, v[0], grid), grid, levels_of(c)));
        });
}

// ---- Backward, of x, scale and zero

// Of levels outside, the scale's gradient is their distance from the zero, and the zero's the scale; inside, what the
// rounding moves x by, and nothing. A zero of a tensor is rounded half up here, and towards zero.
void quantize_learnt_backward(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const Levels levels = levels_of(c);
  const auto factor = static_cast<float>(c.args().number("grad_factor", 1));
  if (self.numel() == 0) {
    return;
  }
  const at::Tensor of_scale = c.temporary(self.sizes()), of_zero = c.temporary(self.sizes());
  c.map({c.tensor("grad"), self, parameter(c, "scale", self), parameter(c, "zero_point", self)},
        {c.args().output(0), of_scale, of_zero}, [&](Expression& e, const Values& v) {
          const Value near =
              is_per_channel(c) ? clamped(e, round(e, v[3]), levels) : trunc(e, clamped(e, e.add(v[3], 0.5F), levels));
          const Grid grid = grid_of(e, v[2], near);
          const Value q = level(e, v[1], grid), inside = is_inside(e, q, levels);
          const Value end = e.select(e.apply(Alu::less, q, levels.least), Value(levels.least), levels.most);
          const Value moved = e.multiply(e.subtract(on_grid(e, q, grid, levels), v[1]), grid.inverse);
          const Value slope = e.select(inside, moved, e.subtract(end, grid.zero));
          const Value scaled = e.multiply(v[0], factor);
          e.output(0, e.multiply(inside, v[0]));
          e.output(1, e.multiply(slope, scaled));
          e.output(2, e.where_not(inside, e.multiply(e.multiply(grid.scale, -1), scaled), 0));
        });
  reduce_channels(c, of_scale, c.args().output(1), channel_axis(c), {});
  reduce_channels(c, of_zero, c.args().output(2), channel_axis(c), {});
}

// ---- The observer of a moving average

// The grid that covers [low, high] and 0, as fbgemm chooses it.
std::array<Value, 2> chosen_grid(Expression& e, Value low, Value high, Levels levels, bool is_symmetric) {
  constexpr float kSmallest = 6.1e-5F;
  constexpr float kTooSmall = 1 / std::numeric_limits<float>::max();
  const float steps = levels.most - levels.least, half = std::floor(steps / 2);
  const Value spans = e.apply(Alu::less, low, 0, Alu::multiply, e.apply(Alu::greater, high, 0));
  if (is_symmetric) {
    const Value down = e.multiply(low, -1 / (half + 1)), up = e.multiply(high, 1 / half);
    const Value larger = e.apply(Alu::maximum, down, up);
    low = e.select(spans, e.multiply(larger, -(half + 1)), low);
    high = e.select(spans, e.multiply(larger, half), high);
  }
  low = e.apply(Alu::minimum, low, 0);
  high = e.apply(Alu::maximum, high, 0);
  Value scale = e.multiply(e.subtract(high, low), 1 / steps);
  scale = e.where_not(e.apply(Alu::less, scale, kTooSmall), scale, 0.1F);
  // Too small a scale grows, and the interval with it.
  const Value growth = e.divide(kSmallest, e.apply(Alu::minimum, scale, kSmallest));
  scale = e.apply(Alu::maximum, scale, kSmallest);
  const Value below = e.divide(e.multiply(low, growth), scale), above = e.divide(e.multiply(high, growth), scale);
  // From the end whose terms are smaller.
  const Value from_low = e.apply(Alu::multiply, below, -1, Alu::add, levels.least);
  const Value from_high = e.apply(Alu::multiply, above, -1, Alu::add, levels.most);
  const Value error_low =
      e.apply(Alu::multiply, e.activation(Activation::abs, below), -1, Alu::add, std::abs(levels.least));
  const Value error_high =
      e.apply(Alu::multiply, e.activation(Activation::abs, above), -1, Alu::add, std::abs(levels.most));
  Value zero = e.select(e.apply(Alu::less, error_low, error_high), from_low, from_high);
  if (is_symmetric) {
    zero = e.where_not(spans, zero, (levels.least + levels.most) / 2);
  }
  return {scale, round(e, clamped(e, zero, levels))};
}

// What is observed moves the averages while `observer_on`, they set the grid while `fake_quant_on`.
void observe_and_quantize(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const bool is_per_row = c.args().boolean("per_row_fake_quant", false);
  const std::int64_t axis = c.args().integer("ch_axis", 0);
  const at::Tensor low = c.tensor("running_min"), high = c.tensor("running_max");
  if (self.numel() == 0 || low.numel() == 0) {
    return;
  }
  const auto moves = static_cast<float>(c.args().number("averaging_const", 0.01));
  auto observe = [&](const at::Tensor& running, Alu alu) {
    const at::Tensor extreme = c.temporary(running.sizes());
    reduce_channels(c, self, extreme, is_per_row ? std::optional(axis) : std::nullopt, {alu});
    c.map({running, extreme, c.along("observer_on", 0, 1)}, {running}, [&](Expression& e, const Values& v) {
      const Value is_new = e.apply(Alu::equal, e.activation(Activation::abs, v[0]), kInfinity);
      const Value moved = e.apply(Alu::multiply, e.subtract(v[1], v[0]), moves, Alu::add, v[0]);
      e.output(0, e.select(v[2], e.select(is_new, v[1], moved), v[0]));
    });
  };
  observe(low, Alu::minimum);
  observe(high, Alu::maximum);
  const at::Tensor scale = c.tensor("scale"), zero = c.tensor("zero_point"), enabled = c.along("fake_quant_on", 0, 1);
  c.map({low, high, scale, zero, enabled}, {scale, zero}, [&](Expression& e, const Values& v) {
    const auto grid = chosen_grid(e, v[0], v[1], levels_of(c), c.args().boolean("symmetric_quant", false));
    e.output(0, e.select(v[4], grid[0], v[2]));
    e.output(1, e.select(v[4], grid[1], v[3]));
  });
  auto parameter = [&](std::string_view name) {
    return is_per_row ? c.along(name, axis, self.dim()) : c.along(name, 0, 1);
  };
  quantize(c, parameter("scale"), parameter("zero_point"), enabled);
}

constexpr Composed kQuantization[] = {
    {"_fake_quantize_learnable_per_channel_affine", quantize_learnt},
    {"_fake_quantize_learnable_per_channel_affine_backward", quantize_learnt_backward},
    {"_fake_quantize_learnable_per_tensor_affine", quantize_learnt},
    {"_fake_quantize_learnable_per_tensor_affine_backward", quantize_learnt_backward},
    {"_fake_quantize_per_tensor_affine_cachemask_tensor_qparams", quantize_by_tensors},
    {"_fused_moving_avg_obs_fq_helper", observe_and_quantize},
    {"fake_quantize_per_channel_affine_cachemask", quantize_by_tensors},
    {"fake_quantize_per_tensor_affine_cachemask", quantize_by_numbers},
};

}  // namespace

std::span<const Composed> composed_quantization() {
  return kQuantization;
}

}  // namespace trn::aten::rules
