// Count rules of random numbers.
#include "aten/rules/random.h"

#include <algorithm>
#include <utility>

#include "aten/rules/steps.h"

namespace trn::aten::rules {

namespace {

constexpr float kTwoPi = 6.2831855F;

struct Distribution {
  std::string_view name;
  Run runs[12];
};

// From uniform bits. normal: Box-Muller. Rejection samplers: their expected number of rounds (gamma: 1.05 rounds of
// Marsaglia-Tsang, taken as two; poisson and binomial: eight uniform draws).
constexpr Distribution kDistributions[] = {
    {"_sample_dirichlet",
     {op(Opcode::rng, 4), act(Activation::log), act(Activation::sqrt), act(Activation::sin), tt(Alu::multiply, 6),
      ts(Alu::add, 0, 2), act(Activation::log), tt(Alu::less), select(), tt(Alu::divide)}},
    {"_standard_gamma",
     {op(Opcode::rng, 4), act(Activation::log), act(Activation::sqrt), act(Activation::sin), tt(Alu::multiply, 6),
      ts(Alu::add, 0, 2), act(Activation::log), tt(Alu::less), select()}},
    {"binomial", {op(Opcode::rng, 8), tt(Alu::less, 8), tt(Alu::add, 8)}},
    {"cauchy",
     {op(Opcode::rng), act(Activation::sin), act(Activation::sin, kPi / 2), tt(Alu::divide), ts(Alu::multiply),
      ts(Alu::add)}},
    {"exponential", {op(Opcode::rng), act(Activation::log), ts(Alu::multiply, -1)}},
    {"geometric", {op(Opcode::rng), act(Activation::log), ts(Alu::multiply), cast(2)}},
    {"log_normal",
     {op(Opcode::rng), act(Activation::log), ts(Alu::multiply, -2), act(Activation::sqrt), op(Opcode::rng),
      ts(Alu::multiply, kTwoPi), act(Activation::sin, -kPi), tt(Alu::multiply), ts(Alu::multiply), ts(Alu::add),
      act(Activation::exp)}},
    {"normal",
     {op(Opcode::rng), act(Activation::log), ts(Alu::multiply, -2), act(Activation::sqrt), op(Opcode::rng),
      ts(Alu::multiply, kTwoPi), act(Activation::sin, -kPi), tt(Alu::multiply), ts(Alu::multiply), ts(Alu::add)}},
    {"poisson", {op(Opcode::rng, 8), tt(Alu::multiply, 8), tt(Alu::less, 8), tt(Alu::add, 8)}},
    {"random", {op(Opcode::rng), ts(Alu::multiply), ts(Alu::add)}},
    {"uniform", {op(Opcode::rng), ts(Alu::multiply), ts(Alu::add)}},
};

}  // namespace

Spec random(const LaunchArguments& args) {
  const auto name = args.base_name();
  std::vector<Step> steps;
  for (const auto& row : kDistributions) {
    if (row.name == name) {
      for (const auto& run : row.runs) {
        append(steps, run);
      }
    }
  }
  const auto outputs = args.output_tensors();
  std::vector<at::Tensor> parameters = named(args, {"p", "mean", "std", "count", "prob"});
  if (args.op().schema().name().back() != '_' && name != "normal" && args.tensor("p").defined() == false) {
    // bernoulli(self), poisson(self), gamma(self): the parameters are the values of self.
    for (auto& tensor : named(args, {"self"})) {
      parameters.push_back(std::move(tensor));
    }
  }
  if (name == "uniform") {
    const auto low = args.number("from", 0);
    steps[1].scalar = static_cast<float>(args.number("to", 1) - low);
    steps[2].scalar = static_cast<float>(low);
  }
  return stream(largest_numel(outputs), accesses(parameters), accesses(outputs), std::move(steps));
}

Spec rrelu(const LaunchArguments& args) {
  const auto self = named(args, {"self"});
  auto outputs = accesses(args.output_tensors());
  if (!args.boolean("training", false)) {
    return stream(numel(args.tensor("self")), accesses(self), std::move(outputs),
                  steps_of(ts(Alu::multiply), tt(Alu::maximum)));
  }
  for (const auto& noise : named(args, {"noise"})) {
    outputs.push_back(access_of(noise));
  }
  return stream(
      numel(args.tensor("self")), accesses(self), std::move(outputs),
      steps_of(op(Opcode::rng), ts(Alu::multiply), ts(Alu::add), ts(Alu::greater), tt(Alu::multiply), select()));
}

Spec multinomial(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const auto& out = args.output();
  const auto categories = size(self, -1);
  const auto rows = categories == 0 ? 0 : numel(self) / categories;
  if (rows == 0 || numel(out) == 0) {
    return {};
  }
  const auto x = access_of(self);
  if (!args.boolean("replacement", false)) {  // exponential race: p / Exp(1), the largest win
    auto spec = stream(numel(self), {x}, {x}, steps_of(op(Opcode::rng), act(Activation::log), tt(Alu::divide)));
    kernels::SortShape sort;
    sort.rows = rows;
    sort.cols = categories;
    sort.k = std::clamp<std::int64_t>(args.integer("num_samples", 1), 1, categories);
    sort.inputs = {x};
    sort.outputs = {access_of(out)};
    spec.emplace_back(sort);
    return spec;
  }
  kernels::ScanShape scan;  // running sums, then a binary search per draw
  scan.rows = rows;
  scan.cols = categories;
  scan.inputs = {x};
  scan.outputs = {dense(x.dtype, numel(self))};
  kernels::IndexShape probe;
  probe.num_rows = numel(out) * std::max<std::int64_t>(ceil_log2(categories + 1), 1);
  probe.dtype = x.dtype;
  probe.index_dtype = Dtype::float32;
  probe.num_indices = numel(out);
  return {scan, probe};
}

Spec permutation(const LaunchArguments& args) {
  const auto& out = args.output();
  const auto length = numel(out);
  if (length == 0) {
    return {};
  }
  const auto keys = dense(Dtype::float32, length);
  auto spec = stream(length, {}, {keys}, steps_of(op(Opcode::rng)));
  kernels::SortShape sort;
  sort.rows = 1;
  sort.cols = sort.k = length;
  sort.inputs = {keys};
  sort.outputs = {access_of(out)};
  spec.emplace_back(sort);
  return spec;
}

}  // namespace trn::aten::rules
