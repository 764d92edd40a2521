// Operators that are several parts, one behind the other: each part with the tensors that it reads and writes, so that
// one list is both counted and executed.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "aten/rules/common.h"
#include "aten/rules/expression.h"
#include "aten/rules/reduction.h"
#include "aten/rules/taps.h"

namespace trn::aten::rules {

// Places and counts are computed in fp32, which holds integers up to here.
inline constexpr std::int64_t kMostExact = std::int64_t{1} << 24;

// Tensors of one size, one behind the other in a buffer of the program; mostly one.
using Stack = std::vector<at::Tensor>;

struct Stage {
  kernels::Part part;
  std::vector<Stack> inputs, outputs;  // in the order of the program's buffers, laid out as it takes them
  at::Tensor drawn = {};               // the result of what it draws, where it draws
};

class Composition {
 public:
  enum class Purpose : std::uint8_t { count, execute };
  Composition(const LaunchArguments& args, Purpose purpose) : args_(args), purpose_(purpose) {}

  const LaunchArguments& args() const { return args_; }
  // Whether the tensors' values are there to read.
  bool executes() const { return purpose_ == Purpose::execute; }
  // The device tensor, undefined where it is absent; or seen along axis `dim` of `rank` axes.
  at::Tensor tensor(std::string_view name) const;
  at::Tensor along(std::string_view name, std::int64_t dim, std::int64_t rank) const;
  // All elements in one axis, copied where they do not lie densely.
  at::Tensor flat(const at::Tensor& tensor);
  // An intermediate result in HBM. A count takes its sizes alone.
  at::Tensor temporary(at::IntArrayRef sizes, at::ScalarType dtype = at::kFloat) const;
  // One whose elements are all `value`, or each its own place.
  at::Tensor filled(at::IntArrayRef sizes, float value, at::ScalarType dtype = at::kFloat);
  at::Tensor iota(at::IntArrayRef sizes, at::ScalarType dtype = at::kFloat);

  // Element by element, inputs broadcast to the outputs, which are of one size. Undefined inputs and outputs are left
  // out of the launch: `write` gets the values of the inputs that are there, by their place in the list.
  using Values = std::vector<Value>;
  void map(const Stack& inputs, const Stack& outputs,
           const std::function<void(Expression&, const Values& inputs)>& write);
  // The same of a function that draws: `drawn`, which has the outputs' size, says where the generator's number was less
  // than what it is compared with.
  void map_drawn(const Stack& inputs, const Stack& outputs, const at::Tensor& drawn,
                 const std::function<void(Expression&, const Values& inputs)>& write);
  void fill(const at::Tensor& output, float value);
  void copy(const at::Tensor& from, const at::Tensor& to);

  // Over `dims`, all where there are none; the inputs are of one size.
  void reduce(const Stack& inputs, const at::Tensor& output, Integers dims, Fold fold);
  // The mean squared deviation through `epilogue`, and the mean.
  void variance(const at::Tensor& input, const at::Tensor& deviation, const at::Tensor& mean, Integers dims,
                std::vector<Step> epilogue);
  // Running along the last axis: x[i] alu result[i - 1], or of two inputs x[i] alu result[i - 1] * factor[i].
  void scan(const Stack& inputs, const at::Tensor& output, Alu alu);
  void softmax(const Stack& inputs, const at::Tensor& output, std::int64_t dim, bool backward);
  // alpha a b + bias: a [.., m, k] and b [.., k, n] with as many matrices, or one b; a bias of n elements, or none.
  void product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, const at::Tensor& output,
               float alpha = 1);
  // table [rows, ...] by index [n] to picked [n, ...], and back.
  void gather(const at::Tensor& table, const at::Tensor& index, const at::Tensor& picked);
  void scatter(const at::Tensor& table, const at::Tensor& index, const at::Tensor& rows, bool adds);
  // tables [tables, rows, columns]: of each column single elements by their rows, as many of each table.
  void gather_elements(const at::Tensor& tables, const at::Tensor& index, const at::Tensor& picked);
  void scatter_add_elements(const at::Tensor& tables, const at::Tensor& index, const at::Tensor& values);

  // Along one axis of the output, in which alone the two differ; the input may have several in its place.
  void resample(const at::Tensor& input, const at::Tensor& output, std::int64_t dim, const std::vector<Tap>& taps);
  // Along several, by way of fp32 between them, or where nothing is added the input's type.
  void resample(const at::Tensor& input, const at::Tensor& output, const std::vector<AxisTaps>& axes);
  // A box of elements; rules/box.h.
  void move(const at::Tensor& from, const at::Tensor& to, std::vector<kernels::BoxAxis> axes,
            std::int64_t from_offset = 0, std::int64_t to_offset = 0);

  // What is added up to here and later does not compute these arguments' results.
  void only_counts() { computes_ = false; }
  bool computes() const { return computes_; }

  void add(kernels::Part part, std::vector<Stack> inputs, std::vector<Stack> outputs);
  std::vector<Stage> take() { return std::move(stages_); }

 private:
  const LaunchArguments& args_;
  Purpose purpose_;
  bool computes_ = true;
  std::vector<Stage> stages_;
};

struct Composed {
  std::string_view name;
  void (*write)(Composition&);
};
// Sorted by name.
std::span<const Composed> composed_attention();     // whole attention and encoder layers
std::span<const Composed> composed_bags();          // sums, means and maxima of picked rows
std::span<const Composed> composed_grid();          // sampling at computed places
std::span<const Composed> composed_groups();        // products of groups of rows
std::span<const Composed> composed_lists();         // of gradient scaling, over lists
std::span<const Composed> composed_places();        // of places: bands, diagonals, products across an axis
std::span<const Composed> composed_draws();         // of a generator: dropout and coins
std::span<const Composed> composed_margins();       // margin losses
std::span<const Composed> composed_maxima();        // max pools of any windows
std::span<const Composed> composed_quantization();  // fake quantization
std::span<const Composed> composed_search();        // comparisons with every key, running sums of exponentials
std::span<const Composed> composed_windows();       // interpolation, averages, folds, pads
std::span<const Composed> composed_norms();         // statistics, and what scales by them

bool is_composed(std::string_view operator_name);
// Nothing where it is only counted.
std::vector<Stage> executable_stages(const LaunchArguments& args);
Spec composed(const LaunchArguments& args);

}  // namespace trn::aten::rules
