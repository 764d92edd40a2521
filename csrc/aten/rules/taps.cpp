#include "aten/rules/taps.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <utility>

namespace trn::aten::rules {

namespace {

using kernels::TapRun;

// Runs through taps of one weight, no two of one output: from the first that is left, in the step to the next.
void append_runs(const std::map<std::int64_t, std::int64_t>& from_of, float weight, std::vector<TapRun>& runs) {
  auto left = from_of;
  while (!left.empty()) {
    const auto first = *left.begin();
    TapRun run{.to = first.first, .from = first.second, .weight = weight};
    left.erase(left.begin());
    if (!left.empty() && left.begin()->second >= run.from) {
      run.to_step = left.begin()->first - run.to;
      run.from_step = left.begin()->second - run.from;
    }
    for (auto next = left.find(run.to + run.to_step);
         next != left.end() && next->second == run.from + run.count * run.from_step;
         next = left.find(run.to + run.count * run.to_step)) {
      left.erase(next);
      ++run.count;
    }
    if (run.count == 1) {
      run.to_step = run.from_step = 1;
    }
    runs.push_back(run);
  }
}

}  // namespace

std::vector<TapRun> runs_of(const std::vector<Tap>& taps) {
  // By the how manieth tap of its output each is.
  std::vector<std::map<float, std::map<std::int64_t, std::int64_t>>> rounds;
  std::map<std::int64_t, std::size_t> seen;
  for (const Tap& tap : taps) {
    const std::size_t round = seen[tap.to]++;
    rounds.resize(std::max(rounds.size(), round + 1));
    rounds[round][static_cast<float>(tap.weight)].emplace(tap.to, tap.from);
  }
  std::vector<TapRun> runs;
  for (const auto& round : rounds) {
    for (const auto& [weight, from_of] : round) {
      append_runs(from_of, weight, runs);
    }
  }
  return runs;
}

bool only_moves(const std::vector<Tap>& taps) {
  std::map<std::int64_t, std::int64_t> times;
  return std::ranges::all_of(taps, [&](const Tap& tap) { return tap.weight == 1 && times[tap.to]++ == 0; });
}

std::vector<Tap> turned(std::vector<Tap> taps) {
  for (Tap& tap : taps) {
    std::swap(tap.to, tap.from);
  }
  return taps;
}

namespace {

double cubic(double distance, double a) {
  const double x = std::abs(distance);
  if (x < 1) {
    return ((a + 2) * x - (a + 3)) * x * x + 1;
  }
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

double sinc(double x) {
  return x == 0 ? 1 : std::sin(std::numbers::pi * x) / (std::numbers::pi * x);
}

double kernel_of(Filter filter, double distance) {
  const double x = std::abs(distance);
  switch (filter) {
    case Filter::cubic:
      return cubic(x, -0.5);
    case Filter::lanczos:
      return x < 3 ? sinc(x) * sinc(x / 3) : 0;
    default:
      return std::max(1 - x, 0.0);
  }
}

double inputs_per_output(const Resampling& axis) {
  if (axis.aligns_corners) {
    return axis.out > 1 ? static_cast<double>(axis.in - 1) / static_cast<double>(axis.out - 1) : 0;
  }
  return axis.scale > 0 ? axis.scale : static_cast<double>(axis.in) / static_cast<double>(axis.out);
}

// Inputs within the filter's reach, widened where the axis shrinks; weights add up to 1.
void antialiased(const Resampling& axis, std::vector<Tap>& taps) {
  const double scale = inputs_per_output(axis), wide = std::max(scale, 1.0);
  const double reach = (axis.filter == Filter::cubic ? 2 : axis.filter == Filter::lanczos ? 3 : 1) * wide;
  for (std::int64_t to = 0; to < axis.out; ++to) {
    const double centre = scale * (static_cast<double>(to) + 0.5);
    const auto first = std::max<std::int64_t>(static_cast<std::int64_t>(centre - reach + 0.5), 0);
    const auto end = std::min<std::int64_t>(static_cast<std::int64_t>(centre + reach + 0.5), axis.in);
    double total = 0;
    for (std::int64_t from = first; from < end; ++from) {
      total += kernel_of(axis.filter, (static_cast<double>(from) - centre + 0.5) / wide);
    }
    for (std::int64_t from = first; from < end; ++from) {
      const double weight = kernel_of(axis.filter, (static_cast<double>(from) - centre + 0.5) / wide);
      if (weight != 0 && total != 0) {
        taps.push_back({to, from, weight / total});
      }
    }
  }
}

// PyTorch takes the place of a nearest neighbour in float32.
std::int64_t nearest(const Resampling& axis, std::int64_t to) {
  const float scale =
      axis.scale > 0 ? static_cast<float>(axis.scale) : static_cast<float>(axis.in) / static_cast<float>(axis.out);
  const float at = static_cast<float>(to) + (axis.filter == Filter::nearest_exact ? 0.5F : 0.0F);
  return std::min(static_cast<std::int64_t>(std::floor(at * scale)), axis.in - 1);
}

}  // namespace

std::vector<Tap> resampling(const Resampling& axis) {
  std::vector<Tap> taps;
  if (axis.antialias) {
    antialiased(axis, taps);
    return taps;
  }
  const double scale = inputs_per_output(axis);
  for (std::int64_t to = 0; to < axis.out; ++to) {
    if (axis.filter == Filter::nearest || axis.filter == Filter::nearest_exact) {
      taps.push_back({to, nearest(axis, to)});
      continue;
    }
    const double place =
        axis.aligns_corners ? scale * static_cast<double>(to) : scale * (static_cast<double>(to) + 0.5) - 0.5;
    if (axis.filter == Filter::cubic) {
      const double floor = std::floor(place);
      std::map<std::int64_t, double> weights;
      for (int k = -1; k <= 2; ++k) {
        const auto from = std::clamp<std::int64_t>(static_cast<std::int64_t>(floor) + k, 0, axis.in - 1);
        weights[from] += cubic(place - floor - k, -0.75);
      }
      for (const auto& [from, weight] : weights) {
        taps.push_back({to, from, weight});
      }
      continue;
    }
    const double at = axis.in == axis.out ? static_cast<double>(to) : std::max(place, 0.0);
    const auto first = std::min(static_cast<std::int64_t>(at), axis.in - 1);
    const double rest = first < axis.in - 1 ? std::min(at - static_cast<double>(first), 1.0) : 0;
    taps.push_back({to, first, 1 - rest});
    if (rest > 0) {
      taps.push_back({to, first + 1, rest});
    }
  }
  return taps;
}

std::vector<Tap> averaging(const Averaging& axis) {
  std::vector<Tap> taps;
  for (std::int64_t to = 0; to < axis.out; ++to) {
    const std::int64_t start = to * axis.stride - axis.padding;
    const std::int64_t end = std::min(start + axis.kernel, axis.in + axis.padding);
    const std::int64_t first = std::max<std::int64_t>(start, 0), last = std::min(end, axis.in);
    const double own = static_cast<double>(axis.counts_padding ? end - start : last - first);
    for (std::int64_t from = first; from < last; ++from) {
      taps.push_back({to, from, 1 / (axis.divisor != 0 ? axis.divisor : own)});
    }
  }
  return taps;
}

std::vector<Tap> adaptive_averaging(std::int64_t in, std::int64_t out) {
  std::vector<Tap> taps;
  for (std::int64_t to = 0; to < out; ++to) {
    const std::int64_t first = to * in / out, end = ((to + 1) * in + out - 1) / out;
    for (std::int64_t from = first; from < end; ++from) {
      taps.push_back({to, from, 1 / static_cast<double>(end - first)});
    }
  }
  return taps;
}

}  // namespace trn::aten::rules
