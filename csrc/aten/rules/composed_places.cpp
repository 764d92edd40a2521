// Operators of places: bands of matrices, diagonals, products across an axis of three.
#include <algorithm>

#include "aten/rules/composition.h"

namespace trn::aten::rules {

namespace {

using Values = Composition::Values;

// The elements whose distance right of the diagonal, col - row, lies between the two.
void band(Composition& c, const at::Tensor& input, const at::Tensor& output, std::int64_t least, std::int64_t most) {
  if (output.numel() == 0) {
    return;
  }
  kernels::BandShape shape;
  shape.rows = output.size(-2);
  shape.cols = output.size(-1);
  shape.matrices = output.numel() / (shape.rows * shape.cols);
  // Counted from the lowest diagonal; a band that has been pushed out lies above the highest.
  const std::int64_t main = shape.rows - 1, highest = main + shape.cols - 1;
  shape.least = most + main < 0 ? highest + 1 : std::clamp<std::int64_t>(least + main, 0, highest + 1);
  shape.most = std::clamp<std::int64_t>(most + main, 0, highest);
  shape.dtype = dtype(output);
  shape.has_input = input.defined();
  c.add(shape, input.defined() ? std::vector<Stack>{{input}} : std::vector<Stack>{}, {{output}});
}

void triangle(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const std::int64_t diagonal = c.args().integer("diagonal", 0);
  const bool is_lower = c.args().base_name() == "tril";
  band(c, self, c.args().output(), is_lower ? -size(self, -2) : diagonal, is_lower ? diagonal : size(self, -1));
}

void eye(Composition& c) {
  band(c, {}, c.args().output(), 0, 0);
}

void trace(Composition& c) {
  const at::Tensor diagonal = c.tensor("self").diagonal();
  diagonal.numel() > 0 ? c.reduce({diagonal}, c.args().output(), {}, {}) : c.fill(c.args().output(), 0);
}

void cross(Composition& c) {
  const at::Tensor a = c.tensor("self"), b = c.tensor("other");
  const at::Tensor& out = c.args().output();
  const std::int64_t dim = c.args().integer("dim", -1);
  for (std::int64_t i = 0; i < 3 && out.numel() > 0; ++i) {
    const std::int64_t j = (i + 1) % 3, k = (i + 2) % 3;
    c.map({a.select(dim, j), b.select(dim, k), a.select(dim, k), b.select(dim, j)}, {out.select(dim, i)},
          [](Expression& e, const Values& v) {
            e.output(0, e.subtract(e.multiply(v[0], v[1]), e.multiply(v[2], v[3])));
          });
  }
}

// Rows and columns of a triangle's elements, row by row: repetitions and runs of two ramps.
void triangle_indices(Composition& c) {
  const at::Tensor& out = c.args().output();
  const std::int64_t rows = c.args().integer("row", 0), cols = c.args().integer("col", 0);
  const std::int64_t diagonal = c.args().integer("offset", 0);
  const bool is_lower = c.args().base_name() == "tril_indices";
  if (out.numel() == 0) {
    return;
  }
  std::vector<Tap> row_taps, col_taps;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t first = is_lower ? 0 : std::clamp<std::int64_t>(row + diagonal, 0, cols);
    const std::int64_t end = is_lower ? std::clamp<std::int64_t>(row + diagonal + 1, 0, cols) : cols;
    for (std::int64_t col = first; col < end; ++col) {
      const auto to = static_cast<std::int64_t>(row_taps.size());
      row_taps.push_back({to, row});
      col_taps.push_back({to, col});
    }
  }
  auto spread = [&](std::int64_t length, const std::vector<Tap>& taps, std::int64_t to) {
    const at::Tensor places = c.temporary({out.size(1)}, at::kInt);
    c.resample(c.iota({length}, at::kInt), places, 0, taps);
    c.copy(places, out.select(0, to));
  };
  spread(rows, row_taps, 0);
  spread(cols, col_taps, 1);
}

constexpr Composed kPlaces[] = {
    {"eye", eye},
    {"linalg_cross", cross},
    {"trace", trace},
    {"tril", triangle},
    {"tril_indices", triangle_indices},
    {"triu", triangle},
    {"triu_indices", triangle_indices},
};

}  // namespace

std::span<const Composed> composed_places() {
  return kPlaces;
}

}  // namespace trn::aten::rules
