// Sampling at places that are data: each tap is a gather by computed indices, weighted, and of gradients a scatter.
#include <algorithm>
#include <optional>
#include <utility>

#include "aten/rules/composition.h"
#include "aten/rules/rounding.h"
#include "aten/rules/window.h"

namespace trn::aten::rules {

namespace {

using Values = Composition::Values;

// Of one axis at one tap: where it is, its weight, how the weight grows with the coordinate, all 0 outside.
struct AxisTap {
  Value place, weight, slope;
};

class Sampling {
 public:
  explicit Sampling(Composition& c)
      : c_(c),
        input_(c.tensor("input")),
        grid_(c.tensor("grid")),
        rank_(grid_.size(-1)),
        is_nearest_(c.args().integer("interpolation_mode", 0) == 1),
        has_border_(c.args().integer("padding_mode", 0) == 1),
        aligns_(c.args().boolean("align_corners", false)),
        planes_(c.flat(input_).view({input_.size(0), input_.size(1), -1})) {
    for (std::int64_t axis = 0; axis < rank_; ++axis) {
      coordinates_.push_back(grid_.select(-1, axis));
    }
    points_ = grid_.numel() / std::max<std::int64_t>(rank_ * grid_.size(0), 1);
  }

  std::int64_t num_taps() const { return is_nearest_ ? 1 : std::int64_t{1} << rank_; }
  std::vector<std::int64_t> points() const { return {input_.size(0), points_}; }
  std::vector<std::int64_t> values() const { return {input_.size(0), input_.size(1), points_}; }

  // Per point: the tap's place in its plane, and its weight for all channels.
  std::pair<at::Tensor, at::Tensor> locate(std::int64_t tap) {
    const at::Tensor place = c_.temporary(coordinates_.front().sizes(), at::kLong);
    const at::Tensor weight = c_.temporary(coordinates_.front().sizes());
    c_.map(coordinates_, {place, weight}, [&](Expression& e, const Values& v) {
      Value at = 0, product = 1;
      for (std::int64_t axis = rank_; axis-- > 0;) {
        const AxisTap one = along(e, v[static_cast<std::size_t>(axis)], axis, tap);
        const bool is_first = axis == rank_ - 1;
        at = is_first ? one.place : e.apply(Alu::multiply, at, static_cast<float>(extent(axis)), Alu::add, one.place);
        product = is_first ? one.weight : e.multiply(product, one.weight);
      }
      e.output(0, at);
      e.output(1, product);
    });
    return {place.view(points()), weight.unsqueeze(1)};
  }

  // picked[n, c, p] = planes[n, c, place[n, p]], with one list of places for the planes of each sample.
  void pick(const at::Tensor& planes, const at::Tensor& place, const at::Tensor& picked) {
    each_sample(planes, place, [&](std::int64_t n, kernels::IndexShape shape) {
      c_.add(std::move(shape), {{planes.select(0, n)}, {place.select(0, n)}}, {{picked.select(0, n)}});
    });
  }
  void add_at(const at::Tensor& planes, const at::Tensor& place, const at::Tensor& added) {
    each_sample(planes, place, [&](std::int64_t n, kernels::IndexShape shape) {
      shape.kind = kernels::IndexKind::scatter_add;
      c_.add(std::move(shape), {{place.select(0, n)}, {added.select(0, n)}}, {{planes.select(0, n)}});
    });
  }

  // How much the taps' shares, [n, p] each, move the result for a step of the grid's coordinate along `axis`.
  void steer(const Stack& shares, std::int64_t axis, const at::Tensor& to) {
    Stack inputs = coordinates_;
    for (const at::Tensor& share : shares) {
      inputs.push_back(share.view(coordinates_.front().sizes()));
    }
    c_.map(inputs, {to}, [&](Expression& e, const Values& v) {
      std::optional<Value> sum;
      for (std::int64_t tap = 0; tap < num_taps(); ++tap) {
        Value product = v[static_cast<std::size_t>(rank_ + tap)];
        for (std::int64_t other = 0; other < rank_; ++other) {
          const AxisTap one = along(e, v[static_cast<std::size_t>(other)], other, tap);
          product = e.multiply(product, other == axis ? one.slope : one.weight);
        }
        sum = sum ? e.add(*sum, product) : product;
      }
      e.output(0, *sum);
    });
  }

  const at::Tensor& planes() const { return planes_; }

 private:
  std::int64_t extent(std::int64_t axis) const { return input_.size(input_.dim() - 1 - axis); }

  AxisTap along(Expression& e, Value coordinate, std::int64_t axis, std::int64_t tap) const {
    const auto size = static_cast<float>(extent(axis)), last = size - 1;
    const float scale = (aligns_ ? last : size) / 2;
    Value x = e.apply(Alu::multiply, coordinate, scale, Alu::add, last / 2);
    Value moves = scale;
    if (has_border_) {
      const Value low = e.apply(Alu::greater, x, 0), high = e.apply(Alu::less, x, last);
      moves = e.multiply(e.multiply(low, high), scale);
      x = e.apply(Alu::maximum, x, 0, Alu::minimum, last);
    }
    // Far outside, where it counts nothing, so that integers stay small.
    x = e.apply(Alu::maximum, x, -2, Alu::minimum, size + 1);
    const bool is_upper = (tap >> axis & 1) != 0;
    const Value first = is_nearest_ ? round(e, x) : floor(e, x);
    const Value at = is_upper ? e.add(first, 1) : first;
    const Value inside = e.multiply(e.apply(Alu::greater_equal, at, 0), e.apply(Alu::less_equal, at, last));
    const Value place = e.apply(Alu::maximum, at, 0, Alu::minimum, last);
    if (is_nearest_) {
      return {place, inside, e.multiply(inside, 0)};
    }
    const Value rest = e.subtract(x, first);
    const Value share = is_upper ? rest : e.apply(Alu::multiply, rest, -1, Alu::add, 1);
    const Value slope = e.multiply(e.multiply(inside, is_upper ? 1.0F : -1.0F), moves);
    return {place, e.multiply(share, inside), slope};
  }

  template <class Body>
  void each_sample(const at::Tensor& planes, const at::Tensor& place, Body body) const {
    kernels::IndexShape shape;
    shape.num_tables = planes.size(1);
    shape.table_rows = planes.size(2);
    shape.num_indices = points_;
    shape.num_rows = points_ * shape.num_tables;
    shape.dtype = dtype(planes);
    shape.index_dtype = dtype(place);
    for (std::int64_t n = 0; n < planes.size(0); ++n) {
      body(n, shape);
    }
  }

  Composition& c_;
  at::Tensor input_, grid_;
  std::int64_t rank_, points_ = 0;
  bool is_nearest_, has_border_, aligns_;
  at::Tensor planes_;
  Stack coordinates_;
};

// Bicubic filters and reflected borders: counted by their taps.
bool only_counts(Composition& c) {
  const bool is_known = c.args().integer("interpolation_mode", 0) < 2 && c.args().integer("padding_mode", 0) < 2;
  const Spec spec = grid_sample(c.args());
  if (is_known || spec.empty()) {
    return spec.empty();
  }
  c.only_counts();
  c.add(spec.front(), {}, {});
  return true;
}

void sample(Composition& c) {
  if (only_counts(c)) {
    return;
  }
  Sampling sampling(c);
  const at::Tensor& out = c.args().output();
  Stack inputs;
  for (std::int64_t tap = 0; tap < sampling.num_taps(); ++tap) {
    const auto [place, weight] = sampling.locate(tap);
    const at::Tensor picked = c.temporary(sampling.values(), out.scalar_type());
    sampling.pick(sampling.planes(), place, picked);
    inputs.insert(inputs.end(), {picked.view(out.sizes()), weight});
  }
  c.map(inputs, {out}, [](Expression& e, const Values& v) {
    Value sum = e.multiply(v[0], v[1]);
    for (std::size_t i = 2; i < v.size(); i += 2) {
      sum = e.add(sum, e.multiply(v[i], v[i + 1]));
    }
    e.output(0, sum);
  });
}

void sample_backward(Composition& c) {
  const at::Tensor &to_input = c.args().output(0), &to_grid = c.args().output(1);
  if (only_counts(c)) {
    return;
  }
  Sampling sampling(c);
  const at::Tensor grad = c.tensor("grad_output");
  const at::Tensor sums = to_input.defined() ? c.temporary(sampling.planes().sizes()) : at::Tensor();
  if (sums.defined()) {
    c.fill(sums, 0);
  }
  Stack shares;
  const std::int64_t channels = 1;
  for (std::int64_t tap = 0; tap < sampling.num_taps(); ++tap) {
    const auto [place, weight] = sampling.locate(tap);
    if (sums.defined()) {
      const at::Tensor added = c.temporary(sampling.values());
      c.map({grad, weight}, {added.view(grad.sizes())},
            [](Expression& e, const Values& v) { e.output(0, e.multiply(v[0], v[1])); });
      sampling.add_at(sums, place, added);
    }
    const at::Tensor picked = c.temporary(sampling.values(), sampling.planes().scalar_type());
    sampling.pick(sampling.planes(), place, picked);
    shares.push_back(c.temporary(sampling.points()));
    c.reduce({grad, picked.view(grad.sizes())}, shares.back(), {&channels, 1}, {Alu::add, steps_of(tt(Alu::multiply))});
  }
  if (sums.defined()) {
    c.copy(sums.view(to_input.sizes()), to_input);
  }
  for (std::int64_t axis = 0; to_grid.defined() && axis < to_grid.size(-1); ++axis) {
    sampling.steer(shares, axis, to_grid.select(-1, axis));
  }
}

constexpr Composed kGrid[] = {
    {"grid_sampler_2d", sample},
    {"grid_sampler_2d_backward", sample_backward},
    {"grid_sampler_3d", sample},
    {"grid_sampler_3d_backward", sample_backward},
};

}  // namespace

std::span<const Composed> composed_grid() {
  return kGrid;
}

}  // namespace trn::aten::rules
