// Searches, order statistics, distances of all pairs, and running sums of exponentials.
#include <algorithm>
#include <limits>
#include <utility>

#include "aten/rules/composition.h"
#include "aten/rules/rounding.h"

namespace trn::aten::rules {

namespace {

using Values = Composition::Values;

// ---- Every query against every key

// Of sorted keys, those before which a query goes are those that it is not (or not strictly) less than.
void search(Composition& c, const at::Tensor& keys, const at::Tensor& queries, std::int64_t tables) {
  const at::Tensor& out = c.args().output();
  if (!queries.defined() || c.tensor("sorter").defined()) {
    c.only_counts();
  }
  if (out.numel() == 0) {
    return;
  }
  const bool is_right = c.args().boolean("right", false) || c.args().string("side") == "right";
  kernels::RankShape shape;
  shape.tables = tables;
  shape.length = keys.numel() / tables;
  shape.queries = out.numel() / tables;
  shape.key_dtype = dtype(keys);
  shape.query_dtype = queries.defined() ? dtype(queries) : shape.key_dtype;
  shape.out_dtype = dtype(out);
  shape.alu = is_right ? Alu::less : Alu::less_equal;
  c.add(shape, {{keys}, {queries.defined() ? queries : out}}, {{out}});
}

void bucketize(Composition& c) {
  search(c, c.tensor("boundaries"), c.tensor("self"), 1);
}

void search_sorted(Composition& c) {
  const at::Tensor keys = c.tensor("sorted_sequence");
  const std::int64_t length = size(keys, -1);
  search(c, keys, c.tensor("self"), length == 0 ? 1 : std::max<std::int64_t>(keys.numel() / length, 1));
}

void is_in(Composition& c) {
  const at::Tensor elements = c.tensor("elements"), tests = c.tensor("test_elements");
  const at::Tensor& out = c.args().output();
  if (out.numel() == 0) {
    return;
  }
  const bool inverts = c.args().boolean("invert", false);
  if (!elements.defined() || (!tests.defined() && c.args().tensor("test_elements").defined())) {
    c.only_counts();  // a tensor on the host
    return;
  }
  if (!tests.defined()) {  // a single one
    const auto test = static_cast<float>(c.args().number("test_element", 0));
    c.map({elements}, {out}, [&](Expression& e, const Values& v) {
      e.output(0, e.apply(inverts ? Alu::not_equal : Alu::equal, v[0], test));
    });
    return;
  }
  at::Tensor queries = elements;
  if (!queries.defined()) {
    queries = c.filled(out.sizes(), static_cast<float>(c.args().number("element", 0)));
  }
  const at::Tensor found = inverts ? c.temporary(out.sizes(), at::kBool) : out;
  kernels::RankShape shape;
  shape.length = tests.numel();
  shape.queries = queries.numel();
  shape.key_dtype = dtype(tests);
  shape.query_dtype = dtype(queries);
  shape.out_dtype = Dtype::boolean;
  shape.alu = Alu::equal;
  shape.any = true;
  c.add(shape, {{tests}, {queries}}, {{found}});
  if (inverts) {
    c.map({found}, {out}, [](Expression& e, const Values& v) { e.output(0, e.apply(Alu::equal, v[0], 0)); });
  }
}

// ---- Order statistics: the k-th of sorted rows

void order_statistic(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const at::Tensor &value = c.args().output(0), &place = c.args().output(1);
  const bool is_whole = c.args().find("dim") < 0 || self.dim() == 0;
  if (self.numel() == 0) {
    c.fill(value, kNan);
    return;
  }
  const at::Tensor rows = is_whole ? c.flat(self).view({1, -1}) : self.movedim(c.args().integer("dim", -1), -1);
  const std::int64_t cols = rows.size(-1), k = c.args().integer("k", (cols + 1) / 2);
  auto sizes = rows.sizes().vec();
  sizes.back() = k;
  const at::Tensor sorted = c.temporary(sizes, self.scalar_type()), places = c.temporary(sizes, at::kLong);
  kernels::SortShape shape;
  shape.rows = rows.numel() / cols;
  shape.cols = cols;
  shape.k = k;
  shape.ascending = true;
  shape.inputs = {access_of(rows)};
  shape.outputs = {access_of(sorted), access_of(places)};
  c.add(shape, {{rows}}, {{sorted}, {places}});
  auto give = [&](const at::Tensor& from, const at::Tensor& to) {
    const at::Tensor last = from.select(-1, k - 1);
    c.copy(to.dim() == last.dim() || is_whole ? last.view_as(to)
                                              : last.unsqueeze(-1).movedim(-1, c.args().integer("dim", -1)),
           to);
  };
  give(sorted, value);
  if (place.defined()) {
    give(places, place);
  }
}

// ---- Elements of each bin

// [lowest, highest] of what is counted, one element each: as given, or the data's own where both are 0.
std::pair<at::Tensor, at::Tensor> bounds_of(Composition& c, const at::Tensor& x) {
  const at::Tensor low = c.temporary({1}), high = c.temporary({1});
  const double least = c.args().number("min", 0), most = c.args().number("max", 0);
  if (least == 0 && most == 0) {
    c.reduce({x}, low, {}, {Alu::minimum});
    c.reduce({x}, high, {}, {Alu::maximum});
    // All alike: one to either side.
    c.map({low, high}, {low, high}, [](Expression& e, const Values& v) {
      const Value widens = e.apply(Alu::equal, v[0], v[1]);
      e.output(0, e.subtract(v[0], widens));
      e.output(1, e.add(v[1], widens));
    });
  } else {
    const float widens = least == most ? 1 : 0;
    c.fill(low, static_cast<float>(least) - widens);
    c.fill(high, static_cast<float>(most) + widens);
  }
  return {low, high};
}

// One is added to the bin of each element between the bounds; the last bin has the upper one too.
void count_in_bins(Composition& c) {
  const at::Tensor x = c.flat(c.tensor("self"));
  const at::Tensor& out = c.args().output();
  const std::int64_t bins = out.numel();
  if (bins == 0 || x.numel() == 0) {
    c.fill(out, 0);
    return;
  }
  const auto [low, high] = bounds_of(c, x);
  const at::Tensor bin = c.temporary(x.sizes(), at::kLong), one = c.temporary({x.numel(), 1});
  c.map({x, low, high}, {bin, one.view({-1})}, [&](Expression& e, const Values& v) {
    const Value share = e.divide(e.subtract(v[0], v[1]), e.subtract(v[2], v[1]));
    const Value inside = e.multiply(e.apply(Alu::greater_equal, v[0], v[1]), e.apply(Alu::less_equal, v[0], v[2]));
    const Value place =
        e.apply(Alu::minimum, floor(e, e.multiply(e.select(inside, share, 0), static_cast<float>(bins))),
                static_cast<float>(bins - 1));
    e.output(0, place);
    e.output(1, inside);
  });
  const at::Tensor counts = c.temporary({bins, 1});
  c.fill(counts, 0);
  c.scatter(counts, bin, one, true);
  c.copy(counts.view(out.sizes()), out);
}

// ---- Distances of all rows of one matrix from all of another

// x1 [..., P, M] and x2 [..., R, M] as [..., P, 1, M] and [..., 1, R, M], and the sizes of their differences.
struct Pairs {
  at::Tensor left, right;
  std::vector<std::int64_t> sizes;
};

Pairs pairs_of(const at::Tensor& x1, const at::Tensor& x2, const at::Tensor& distances) {
  Pairs pairs{x1.unsqueeze(-2), x2.unsqueeze(-3), distances.sizes().vec()};
  pairs.sizes.push_back(x1.size(-1));
  return pairs;
}

void distances(Composition& c) {
  const at::Tensor& out = c.args().output();
  if (out.numel() == 0 || c.tensor("x1").size(-1) == 0) {
    c.fill(out, 0);
    return;
  }
  const Pairs pairs = pairs_of(c.tensor("x1"), c.tensor("x2"), out);
  const at::Tensor difference = c.temporary(pairs.sizes);
  c.map({pairs.left, pairs.right}, {difference},
        [](Expression& e, const Values& v) { e.output(0, e.subtract(v[0], v[1])); });
  const std::int64_t last = -1;
  c.reduce({difference}, out, {&last, 1}, norm_fold(c.args().number("p", 2)));
}

// Of a difference d: |d|^(p - 1) sign(d) / distance^(p - 1), 0 where there is no distance.
Value slope_of(Expression& e, Value difference, Value distance, double p) {
  const Value size = e.activation(Activation::abs, difference), sign = e.activation(Activation::sign, difference);
  Value slope = difference;
  if (p == 1) {
    return sign;
  }
  if (p == std::numeric_limits<double>::infinity()) {
    slope = e.multiply(sign, e.apply(Alu::equal, size, distance));
  } else if (p == 2) {
    slope = e.divide(difference, distance);
  } else {
    slope = e.multiply(sign, e.apply(Alu::power, e.divide(size, distance), static_cast<float>(p - 1)));
  }
  return e.where_not(e.apply(Alu::equal, distance, 0), slope, 0);
}

void distances_backward(Composition& c) {
  const at::Tensor& out = c.args().output();
  const at::Tensor far = c.tensor("cdist"), grad = c.tensor("grad");
  const double p = c.args().number("p", 2);
  if (out.numel() == 0 || far.numel() == 0 || p == 0) {
    c.fill(out, 0);
    return;
  }
  const Pairs pairs = pairs_of(c.tensor("x1"), c.tensor("x2"), far);
  const at::Tensor share = c.temporary(pairs.sizes);
  c.map({pairs.left, pairs.right, grad.unsqueeze(-1), far.unsqueeze(-1)}, {share}, [&](Expression& e, const Values& v) {
    e.output(0, e.multiply(slope_of(e, e.subtract(v[0], v[1]), v[3], p), v[2]));
  });
  const std::int64_t right = -2;
  c.reduce({share}, out, {&right, 1}, {});
}

// ---- Distances of each row of a matrix from those behind it

struct RowPairs {
  std::vector<Tap> left, right;
};

RowPairs row_pairs(std::int64_t rows) {
  RowPairs pairs;
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = i + 1; j < rows; ++j) {
      const auto to = static_cast<std::int64_t>(pairs.left.size());
      pairs.left.push_back({to, i});
      pairs.right.push_back({to, j});
    }
  }
  return pairs;
}

at::Tensor differences_of_rows(Composition& c, const at::Tensor& self, const RowPairs& pairs) {
  const auto num_pairs = static_cast<std::int64_t>(pairs.left.size());
  const at::Tensor left = c.temporary({num_pairs, self.size(1)}, self.scalar_type());
  const at::Tensor right = c.temporary(left.sizes(), self.scalar_type()), difference = c.temporary(left.sizes());
  c.resample(self, left, 0, pairs.left);
  c.resample(self, right, 0, pairs.right);
  c.map({left, right}, {difference}, [](Expression& e, const Values& v) { e.output(0, e.subtract(v[0], v[1])); });
  return difference;
}

void row_distances(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const at::Tensor& out = c.args().output();
  if (out.numel() == 0 || self.numel() == 0) {
    c.fill(out, 0);
    return;
  }
  const std::int64_t last = -1;
  c.reduce({differences_of_rows(c, self, row_pairs(self.size(0)))}, out, {&last, 1},
           norm_fold(c.args().number("p", 2)));
}

void row_distances_backward(Composition& c) {
  const at::Tensor self = c.tensor("self"), far = c.tensor("pdist");
  const at::Tensor& out = c.args().output();
  const double p = c.args().number("p", 2);
  if (out.numel() == 0 || far.numel() == 0 || p == 0) {
    c.fill(out, 0);
    return;
  }
  RowPairs pairs = row_pairs(self.size(0));
  const at::Tensor share = differences_of_rows(c, self, pairs);
  c.map({share, c.tensor("grad").unsqueeze(-1), far.unsqueeze(-1)}, {share},
        [&](Expression& e, const Values& v) { e.output(0, e.multiply(slope_of(e, v[0], v[2], p), v[1])); });
  const at::Tensor pulled = c.temporary(out.sizes()), pushed = c.temporary(out.sizes());
  c.resample(share, pulled, 0, turned(std::move(pairs.left)));
  c.resample(share, pushed, 0, turned(std::move(pairs.right)));
  c.map({pulled, pushed}, {out}, [](Expression& e, const Values& v) { e.output(0, e.subtract(v[0], v[1])); });
}

// ---- log of the running sum of exponentials, each around the running maximum

void log_cumulative_sum(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const at::Tensor& result = c.args().output();
  if (self.numel() == 0) {
    return;
  }
  if (self.dim() == 0) {
    c.copy(self, result);
    return;
  }
  const std::int64_t dim = c.args().integer("dim", -1);
  const at::Tensor x = self.movedim(dim, -1), out = result.movedim(dim, -1);
  const std::int64_t cols = x.size(-1);
  const at::Tensor top = c.temporary(x.sizes()), decay = c.temporary(x.sizes()), sum = c.temporary(x.sizes());
  c.scan({x}, top, Alu::maximum);
  // An infinite maximum would leave differences of infinities.
  constexpr float kLargest = std::numeric_limits<float>::max();
  c.map({top}, {top}, [&](Expression& e, const Values& v) {
    e.output(0, e.apply(Alu::maximum, v[0], -kLargest, Alu::minimum, kLargest));
  });
  c.fill(decay.narrow(-1, 0, 1), 1);
  if (cols > 1) {
    c.map({top.narrow(-1, 0, cols - 1), top.narrow(-1, 1, cols - 1)}, {decay.narrow(-1, 1, cols - 1)},
          [](Expression& e, const Values& v) { e.output(0, e.activation(Activation::exp, e.subtract(v[0], v[1]))); });
  }
  c.map({x, top}, {sum},
        [](Expression& e, const Values& v) { e.output(0, e.activation(Activation::exp, e.subtract(v[0], v[1]))); });
  c.scan({sum, decay}, sum, Alu::add);
  c.map({sum, top}, {out},
        [](Expression& e, const Values& v) { e.output(0, e.add(e.activation(Activation::log, v[0]), v[1])); });
}

constexpr Composed kSearches[] = {
    {"_cdist_backward", distances_backward},
    {"_cdist_forward", distances},
    {"_logcumsumexp", log_cumulative_sum},
    {"_pdist_backward", row_distances_backward},
    {"_pdist_forward", row_distances},
    {"bucketize", bucketize},
    {"histc", count_in_bins},
    {"isin", is_in},
    {"kthvalue", order_statistic},
    {"median", order_statistic},
    {"nanmedian", order_statistic},
    {"searchsorted", search_sorted},
};

}  // namespace

std::span<const Composed> composed_search() {
  return kSearches;
}

}  // namespace trn::aten::rules
