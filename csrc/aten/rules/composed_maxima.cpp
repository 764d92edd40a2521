// Max pools: planes that fit SBUF by one program, any other windows axis by axis, and gradients by the places kept.
#include <algorithm>
#include <utility>

#include "aten/rules/composition.h"
#include "aten/rules/names.h"
#include "aten/rules/rounding.h"
#include "aten/rules/window.h"
#include "aten/system.h"
#include "kernels/pool.h"

namespace trn::aten::rules {

namespace {

using Values = Composition::Values;

// Inputs of one launch.
constexpr std::int64_t kMostTaps = 24;

std::int64_t volume_of(const at::Tensor& x, std::int64_t rank) {
  std::int64_t volume = 1;
  for (std::int64_t axis = 1; axis <= rank; ++axis) {
    volume *= x.size(-axis);
  }
  return volume;
}

// What an output takes of an axis: `count` inputs from `first` on, each `dilation` behind the one before.
struct Window {
  std::int64_t first = 0, count = 0;
};
struct Windows {
  std::vector<Window> outputs;
  std::int64_t dilation = 1;
};

Windows adaptive_windows(std::int64_t in, std::int64_t out) {
  Windows windows;
  for (std::int64_t o = 0; o < out; ++o) {
    const std::int64_t first = o * in / out;
    windows.outputs.push_back({first, ceil_div((o + 1) * in, out) - first});
  }
  return windows;
}

// Without the padding, which no maximum takes.
Windows sliding_windows(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride,
                        std::int64_t padding, std::int64_t dilation) {
  Windows windows{.outputs = {}, .dilation = dilation};
  for (std::int64_t o = 0; o < out; ++o) {
    const std::int64_t start = o * stride - padding;
    const std::int64_t skipped = start < 0 ? ceil_div(-start, dilation) : 0;
    const std::int64_t end = std::min(kernel, ceil_div(std::max<std::int64_t>(in - start, 0), dilation));
    windows.outputs.push_back({start + skipped * dilation, end - skipped});
  }
  return windows;
}

// Of the last axes, the last one first.
std::vector<Windows> windows_of(const LaunchArguments& args, const at::Tensor& in, const at::Tensor& out) {
  const std::int64_t rank = num_axes(args.base_name());
  auto along = [&](std::string_view name, std::int64_t axis, std::int64_t fallback) {
    const auto values = args.integers(name);
    return values.empty() ? fallback : values[values.size() == 1 ? 0 : static_cast<std::size_t>(rank - 1 - axis)];
  };
  std::vector<Windows> all;
  for (std::int64_t axis = 0; axis < rank; ++axis) {
    const std::int64_t in_size = in.size(-1 - axis), out_size = out.size(-1 - axis);
    const std::int64_t kernel = along("kernel_size", axis, 1);
    all.push_back(contains(args.base_name(), "adaptive")
                      ? adaptive_windows(in_size, out_size)
                      : sliding_windows(in_size, out_size, kernel, along("stride", axis, kernel),
                                        along("padding", axis, 0), along("dilation", axis, 1)));
  }
  return all;
}

// Largest values so far, and where each stands in its plane or volume.
struct Found {
  at::Tensor value, place;
};

// The first of equals stays; a NaN takes the place of any before it.
void keep_larger(Expression& e, Value x, Value place, Value& best, Value& best_place) {
  const Value is_nan = e.apply(Alu::not_equal, x, x);
  const Value is_better = e.apply(Alu::maximum, e.apply(Alu::greater, x, best), is_nan);
  best = e.select(is_better, x, best);
  best_place = e.select(is_better, place, best_place);
}

// Of values and their places by turns, and with `goes_on` of what has been found.
void keep_largest(Composition& c, Stack inputs, const Found& out, bool goes_on) {
  if (goes_on) {
    inputs.insert(inputs.begin(), {out.value, out.place});
  }
  c.map(inputs, {out.value, out.place}, [](Expression& e, const Values& v) {
    Value best = v[0], best_place = v[1];
    for (std::size_t i = 2; i < v.size(); i += 2) {
      keep_larger(e, v[i], v[i + 1], best, best_place);
    }
    e.output(0, best);
    e.output(1, best_place);
  });
}

// Outputs `first` to `first + count` of `dim`, whose windows have as many taps at equal distances.
void take_group(Composition& c, const Found& in, const Found& out, std::int64_t dim, const Windows& windows,
                std::int64_t first, std::int64_t count) {
  const auto& all = windows.outputs;
  const auto at = static_cast<std::size_t>(first);
  const std::int64_t step = count > 1 ? all[at + 1].first - all[at].first : 1;
  const Found group{out.value.narrow(dim, first, count), out.place.narrow(dim, first, count)};
  for (std::int64_t start = 0; start < all[at].count; start += kMostTaps) {
    const std::int64_t taps = std::min(kMostTaps, all[at].count - start);
    Stack inputs;
    for (std::int64_t t = start; t < start + taps; ++t) {
      const std::int64_t from = all[at].first + t * windows.dilation, to = from + (count - 1) * step + 1;
      inputs.push_back(in.value.slice(dim, from, to, step));
      inputs.push_back(in.place.slice(dim, from, to, step));
    }
    keep_largest(c, std::move(inputs), group, start > 0);
  }
}

void take_maxima(Composition& c, const Found& in, const Found& out, std::int64_t dim, const Windows& windows) {
  const auto& all = windows.outputs;
  const auto size = static_cast<std::int64_t>(all.size());
  for (std::int64_t first = 0; first < size;) {
    auto at = [&](std::int64_t o) { return all[static_cast<std::size_t>(o)]; };
    std::int64_t end = first + 1;
    while (end < size && at(end).count == at(first).count &&
           at(end).first - at(end - 1).first == at(first + 1).first - at(first).first &&
           at(end).first > at(first).first) {
      ++end;
    }
    take_group(c, in, out, dim, windows, first, end - first);
    first = end;
  }
}

// Places of a plane or volume, in order, for all of them.
at::Tensor places_of(Composition& c, const at::Tensor& x, std::int64_t rank) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(x.dim() - rank), 1);
  for (std::int64_t axis = rank; axis >= 1; --axis) {
    sizes.push_back(x.size(-axis));
  }
  return c.iota(sizes, at::kInt);
}

// One axis after the other, from the last, so that of equals the foremost is found.
void by_axis(Composition& c, Found in, const Found& out, const std::vector<Windows>& windows, std::int64_t first_axis) {
  auto sizes = in.value.sizes().vec();
  for (std::size_t axis = static_cast<std::size_t>(first_axis); axis < windows.size(); ++axis) {
    const std::int64_t dim = in.value.dim() - 1 - static_cast<std::int64_t>(axis);
    sizes[static_cast<std::size_t>(dim)] = static_cast<std::int64_t>(windows[axis].outputs.size());
    const bool is_last = axis + 1 == windows.size();
    const Found to = is_last ? out : Found{c.temporary(sizes, in.value.scalar_type()), c.temporary(sizes, at::kInt)};
    take_maxima(c, in, to, dim, windows[axis]);
    in = to;
  }
}

// A volume's planes as a pool of two axes.
kernels::WindowShape planes_of(const at::Tensor& in, const at::Tensor& out, const std::vector<Windows>& windows,
                               const LaunchArguments& args) {
  kernels::WindowShape shape;
  shape.kind = kernels::WindowKind::max_pool;
  shape.dtype = dtype(in);
  shape.indices = true;
  auto axes = [&](std::string_view name, std::vector<std::int64_t> fallback) {
    auto values = args.integers(name);
    if (values.empty()) {
      return fallback;
    }
    values.resize(3, values.back());
    return std::vector<std::int64_t>(values.begin() + 1, values.end());
  };
  shape.in = {in.size(-2), in.size(-1)};
  shape.out = {out.size(-2), out.size(-1)};
  shape.kernel = axes("kernel_size", {1, 1});
  shape.stride = axes("stride", shape.kernel);
  shape.padding = axes("padding", {0, 0});
  shape.dilation = axes("dilation", {1, 1});
  shape.taps = shape.kernel[0] * shape.kernel[1];
  shape.planes = in.numel() / (shape.in[0] * shape.in[1]);
  shape.in_elements = in.numel();
  shape.out_elements = shape.planes * shape.out[0] * shape.out[1];
  return windows.size() == 3 ? shape : kernels::WindowShape{};
}

// Places within a plane become those within its volume.
void add_depth(Composition& c, const at::Tensor& places, std::int64_t plane) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(places.dim()), 1);
  sizes[sizes.size() - 3] = places.size(-3);
  c.map({places, c.iota(sizes, at::kInt)}, {places}, [&](Expression& e, const Values& v) {
    e.output(0, e.apply(Alu::multiply, v[1], static_cast<float>(plane), Alu::add, v[0]));
  });
}

void pool_maximum(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const Found out{c.args().output(0), c.args().output(1)};
  const std::int64_t rank = num_axes(c.args().base_name());
  if (self.numel() == 0 || out.value.numel() == 0) {
    return;
  }
  const Spec whole = rank == 2 ? pool(c.args()) : Spec();
  if (!whole.empty()) {
    const auto& shape = std::get<kernels::WindowShape>(whole.front());
    if (kernels::has_pool_program(system().target()->core, shape)) {
      c.add(shape, {{self}}, {{out.value}, {out.place}});
      return;
    }
  }
  if (volume_of(self, rank) > kMostExact || !is_strided(self)) {
    c.only_counts();
  }
  const auto windows = windows_of(c.args(), self, out.value);
  const auto planes = planes_of(self, out.value, windows, c.args());
  if (rank == 3 && !contains(c.args().base_name(), "adaptive") &&
      kernels::has_pool_program(system().target()->core, planes)) {
    auto sizes = out.value.sizes().vec();
    sizes[sizes.size() - 3] = self.size(-3);
    const Found in_planes{c.temporary(sizes, self.scalar_type()), c.temporary(sizes, at::kLong)};
    c.add(planes, {{self}}, {{in_planes.value}, {in_planes.place}});
    add_depth(c, in_planes.place, self.size(-1) * self.size(-2));
    by_axis(c, in_planes, out, windows, 2);
    return;
  }
  by_axis(c, {self, places_of(c, self, rank)}, out, windows, 0);
}

// Each gradient to the place that its maximum had.
void pool_maximum_backward(Composition& c) {
  const at::Tensor grad = c.tensor("grad_output"), places = c.tensor("indices");
  const at::Tensor& out = c.args().output();
  const std::int64_t rank = num_axes(c.args().base_name());
  if (out.numel() == 0) {
    return;
  }
  if (grad.numel() == 0) {
    c.fill(out, 0);
    return;
  }
  const Spec whole = rank == 2 ? pool(c.args()) : Spec();
  if (!whole.empty()) {
    const auto& shape = std::get<kernels::WindowShape>(whole.front());
    if (kernels::has_pool_program(system().target()->core, shape)) {
      c.add(shape, {{grad}, {places}}, {{out}});
      return;
    }
  }
  at::Tensor given = grad;
  if (grad.scalar_type() != at::kFloat) {
    given = c.temporary(grad.sizes());
    c.copy(grad, given);
  }
  const at::Tensor sums = c.filled(out.sizes(), 0);
  c.scatter_add_elements(sums.view({-1, volume_of(out, rank), 1}), places, given);
  c.copy(sums, out);
}

// ---- Windows that begin at random places, a number for each axis of each plane

// Where each output's window begins along an axis, as PyTorch computes it: [batch, channels, out].
at::Tensor random_starts(Composition& c, const at::Tensor& sample, std::int64_t in, std::int64_t out,
                         std::int64_t kernel) {
  const at::Tensor order = c.iota({out}), starts = c.temporary({sample.size(0), sample.size(1), out});
  const float step = out > 1 ? static_cast<float>(in - kernel) / static_cast<float>(out - 1) : 0;
  c.map({order, sample.unsqueeze(-1)}, {starts}, [&](Expression& e, const Values& v) {
    const Value moved = floor(e, e.multiply(e.add(v[0], v[1]), step));
    const Value start = e.subtract(moved, floor(e, e.multiply(v[1], step)));
    const Value is_last = e.apply(Alu::equal, v[0], static_cast<float>(out - 1));
    e.output(0, e.where_not(is_last, start, static_cast<float>(in - kernel)));
  });
  return starts;
}

void pool_at_random(Composition& c) {
  const std::int64_t rank = num_axes(c.args().base_name());
  auto batched = [&](const at::Tensor& tensor) { return tensor.dim() == rank + 1 ? tensor.unsqueeze(0) : tensor; };
  const at::Tensor self = batched(c.tensor("self"));
  const at::Tensor samples = c.tensor("random_samples").narrow(0, 0, self.size(0));  // there may be more
  const Found out{batched(c.args().output(0)), batched(c.args().output(1))};
  const auto kernel = c.args().integers("kernel_size");
  if (self.numel() == 0 || out.value.numel() == 0) {
    return;
  }
  if (volume_of(self, rank) > kMostExact || samples.scalar_type() != at::kFloat) {
    c.only_counts();
  }
  const at::Tensor planes = c.flat(self).view({-1, volume_of(self, rank), 1});
  Stack starts;
  std::int64_t num_taps = 1;
  for (std::int64_t axis = 0; axis < rank; ++axis) {
    const std::int64_t dim = self.dim() - rank + axis, column = rank == 2 ? rank - 1 - axis : axis;
    const std::int64_t length = kernel[std::min(static_cast<std::size_t>(axis), kernel.size() - 1)];
    const at::Tensor one = random_starts(c, samples.select(-1, column), self.size(dim), out.value.size(dim), length);
    std::vector<std::int64_t> sizes{self.size(0), self.size(1)};
    sizes.resize(static_cast<std::size_t>(self.dim()), 1);
    sizes[static_cast<std::size_t>(dim)] = out.value.size(dim);
    starts.push_back(one.view(sizes));
    num_taps *= length;
  }
  Stack taps;
  for (std::int64_t tap = 0; tap < num_taps; ++tap) {
    const at::Tensor place = c.temporary(out.value.sizes(), at::kLong);
    const at::Tensor picked = c.temporary(out.value.sizes(), self.scalar_type());
    c.map(starts, {place}, [&](Expression& e, const Values& v) {
      Value at = 0;
      for (std::int64_t axis = rank, rest = tap, pitch = 1; axis-- > 0; pitch *= self.size(axis - rank)) {
        const std::int64_t length = kernel[std::min(static_cast<std::size_t>(axis), kernel.size() - 1)];
        const Value here = v[static_cast<std::size_t>(axis)];
        const auto shift = static_cast<float>(rest % length * pitch);
        const Value moved = e.apply(Alu::multiply, here, static_cast<float>(pitch), Alu::add, shift);
        at = axis == rank - 1 ? moved : e.add(at, moved);
        rest /= length;
      }
      e.output(0, at);
    });
    c.gather_elements(planes, place, picked);
    taps.insert(taps.end(), {picked, place});
    if (static_cast<std::int64_t>(taps.size()) == 2 * kMostTaps || tap + 1 == num_taps) {
      keep_largest(c, std::exchange(taps, {}), out, tap >= kMostTaps);
    }
  }
}

constexpr Composed kMaxima[] = {
    {"adaptive_max_pool2d", pool_maximum},     {"adaptive_max_pool2d_backward", pool_maximum_backward},
    {"adaptive_max_pool3d", pool_maximum},     {"adaptive_max_pool3d_backward", pool_maximum_backward},
    {"fractional_max_pool2d", pool_at_random}, {"fractional_max_pool2d_backward", pool_maximum_backward},
    {"fractional_max_pool3d", pool_at_random}, {"fractional_max_pool3d_backward", pool_maximum_backward},
    {"max_pool2d_with_indices", pool_maximum}, {"max_pool2d_with_indices_backward", pool_maximum_backward},
    {"max_pool3d_with_indices", pool_maximum}, {"max_pool3d_with_indices_backward", pool_maximum_backward},
};

}  // namespace

std::span<const Composed> composed_maxima() {
  return kMaxima;
}

}  // namespace trn::aten::rules
