// Taps along an axis: which inputs each output takes, and with what weight.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/shapes.h"

namespace trn::aten::rules {

struct Tap {
  std::int64_t to = 0, from = 0;
  double weight = 1;
};
struct AxisTaps {
  std::int64_t dim = 0;
  std::vector<Tap> taps;
};

// Taps of one weight and even steps become runs; those of an output keep their order.
std::vector<kernels::TapRun> runs_of(const std::vector<Tap>& taps);
// No output takes more than one input, and that as it is.
bool only_moves(const std::vector<Tap>& taps);
// The gradient's way.
std::vector<Tap> turned(std::vector<Tap> taps);

// How an axis of `in` elements becomes one of `out`. `scale`: inputs per output where the caller gives one, else 0.
enum class Filter : std::uint8_t { nearest, nearest_exact, linear, cubic, lanczos };
struct Resampling {
  std::int64_t in = 1, out = 1;
  Filter filter = Filter::linear;
  bool aligns_corners = false, antialias = false;
  double scale = 0;
};
std::vector<Tap> resampling(const Resampling& axis);

// Averages over windows; a divisor of 0 is the window's own length, with what it covers of the padding where that
// counts.
struct Averaging {
  std::int64_t in = 1, out = 1, kernel = 1, stride = 1, padding = 0;
  bool counts_padding = true;
  double divisor = 0;
};
std::vector<Tap> averaging(const Averaging& axis);
std::vector<Tap> adaptive_averaging(std::int64_t in, std::int64_t out);

}  // namespace trn::aten::rules
