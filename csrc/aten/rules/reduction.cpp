// Count rules of reductions, losses and histograms.
#include "aten/rules/reduction.h"

#include <algorithm>
#include <utility>

#include "aten/rules/expression.h"
#include "aten/rules/steps.h"

namespace trn::aten::rules {

namespace {

struct Reduction {
  std::string_view name;
  Alu alu = Alu::add;
  Run prologue[6];  // per input element
};

constexpr Reduction kReductions[] = {
    {"_is_all_true", Alu::minimum, {}},
    {"_is_any_true", Alu::maximum, {}},
    {"all", Alu::minimum, {ts(Alu::not_equal)}},
    {"amax", Alu::maximum, {}},
    {"amin", Alu::minimum, {}},
    {"any", Alu::maximum, {ts(Alu::not_equal)}},
    {"argmax", Alu::maximum, {}},
    {"argmin", Alu::minimum, {}},
    {"binary_cross_entropy", Alu::add, {}},
    {"count_nonzero", Alu::add, {ts(Alu::not_equal)}},
    {"hash_tensor", Alu::bitwise_xor, {}},
    {"huber_loss", Alu::add, {}},
    {"logsumexp", Alu::add, {ts(Alu::subtract), act(Activation::exp)}},
    {"max", Alu::maximum, {}},
    {"mean", Alu::add, {}},
    {"min", Alu::minimum, {}},
    {"mse_loss", Alu::add, {}},
    {"nansum", Alu::add, {tt(Alu::equal), select()}},
    {"prod", Alu::multiply, {}},
    {"smooth_l1_loss", Alu::add, {}},
    {"soft_margin_loss", Alu::add, {tt(Alu::multiply), act(Activation::softplus)}},
    {"std", Alu::add, {}},
    {"std_mean", Alu::add, {}},
    {"sum", Alu::add, {}},
    {"var", Alu::add, {}},
    {"var_mean", Alu::add, {}},
};

const Reduction* find_function(std::string_view name) {
  const auto* const end = std::end(kReductions);
  const auto* const found =
      std::find_if(std::begin(kReductions), end, [&](const auto& row) { return row.name == name; });
  return found == end ? nullptr : found;
}

std::vector<Step> prologue_of(const Reduction& function) {
  std::vector<Step> steps;
  for (const auto& run : function.prologue) {
    append(steps, run);
  }
  return steps;
}

const at::Tensor& reduced_tensor(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  return self.defined() ? self : args.tensor("input");
}

}  // namespace

Fold norm_fold(double p) {
  const auto power = static_cast<float>(p);
  switch (scalar_class(p)) {
    case ScalarClass::zero:
      return {Alu::add, steps_of(ts(Alu::not_equal)), {}};
    case ScalarClass::one:
      return {Alu::add, steps_of(act(Activation::abs)), {}};
    case ScalarClass::two:
      return {Alu::add, steps_of(act(Activation::square)), steps_of(act(Activation::sqrt))};
    case ScalarClass::infinity:
      return {Alu::maximum, steps_of(act(Activation::abs)), {}};
    case ScalarClass::minus_infinity:
      return {Alu::minimum, steps_of(act(Activation::abs)), {}};
    default:
      return {Alu::add, steps_of(act(Activation::abs), ts(Alu::power, power)), steps_of(ts(Alu::power, 1 / power))};
  }
}

Spec reduce(Rows rows, Fold fold, std::vector<Access> inputs, std::vector<Access> outputs) {
  if (rows.rows <= 0 || rows.cols <= 0) {
    return {};
  }
  kernels::ReductionShape shape;
  shape.rows = rows.rows;
  shape.cols = rows.cols;
  shape.across_partitions = rows.across_partitions;
  shape.alu = fold.alu;
  shape.prologue = std::move(fold.prologue);
  shape.epilogue = std::move(fold.epilogue);
  shape.inputs = std::move(inputs);
  shape.outputs = std::move(outputs);
  return {shape};
}

namespace {

std::vector<Step> divided_by(std::int64_t count) {
  return steps_of(ts(Alu::multiply, 1.0F / static_cast<float>(std::max<std::int64_t>(count, 1))));
}

// The place of the extreme, alone or behind it.
bool asks_places(const LaunchArguments& args) {
  const auto name = args.base_name();
  return name == "argmax" || name == "argmin" ||
         ((name == "max" || name == "min") && args.output_tensors().size() == 2);
}

bool is_variance(std::string_view name) {
  return name.starts_with("var") || name.starts_with("std");
}

}  // namespace

Spec reduction(const LaunchArguments& args) {
  const auto* const function = find_function(args.base_name());
  const auto& self = reduced_tensor(args);
  const auto inputs = args.input_tensors();
  if (function == nullptr || !self.defined()) {
    return {};
  }
  const Rows rows = rows_of(self, args.integers("dim"));
  Fold fold{function->alu, prologue_of(*function)};
  if (function->name == "mean") {
    fold.epilogue = divided_by(rows.cols);
  } else if (function->name.starts_with("std")) {
    fold.epilogue = steps_of(act(Activation::sqrt));
  }
  auto spec = reduce(rows, std::move(fold), accesses(inputs), accesses(args.output_tensors()));
  if (!spec.empty()) {
    auto& shape = std::get<kernels::ReductionShape>(spec.front());
    shape.places = asks_places(args);
    shape.variance = is_variance(function->name);
    shape.correction = static_cast<float>(args.number("correction", args.boolean("unbiased", true) ? 1 : 0));
  }
  return or_fill(std::move(spec), args);
}

Spec norm_reduction(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  Fold fold = norm_fold(args.number("ord", args.number("p", 2)));
  if (args.find("other") >= 0) {
    fold.prologue.insert(fold.prologue.begin(), step(tt(Alu::subtract)));
  }
  if (args.base_name() == "linalg__powsum") {
    fold.epilogue.clear();
  }
  return or_fill(reduce(rows_of(self, args.integers("dim")), std::move(fold), accesses(args.input_tensors()),
                        accesses(args.output_tensors())),
                 args);
}

Spec loss(const LaunchArguments& args) {
  const auto* const function = find_function(args.base_name());
  if (function == nullptr) {
    return {};
  }
  auto steps = has_expression(function->name) ? expression(args, function->name) : prologue_of(*function);
  if (!has_expression(function->name) && is_strided(args.tensor("weight"))) {
    append(steps, tt(Alu::multiply));
  }
  const auto inputs = args.input_tensors();
  if (args.integer("reduction", 1) == 0) {
    return stream(args, std::move(steps));
  }
  const auto total = largest_numel(inputs);
  Fold fold{function->alu, std::move(steps)};
  if (args.integer("reduction", 1) == 1) {
    fold.epilogue = divided_by(total);
  }
  std::vector<Access> reads = accesses(inputs);
  for (Access& read : reads) {  // an operand that repeats is read again: each step takes all operands' elements
    if (has_expression(function->name) && read.elements != total) {
      read = dense(read.dtype, total);
    }
  }
  return or_fill(
      reduce({total == 0 ? 0 : 1, total, false}, std::move(fold), std::move(reads), accesses(args.output_tensors())),
      args);
}

Spec equal(const LaunchArguments& args) {
  const auto inputs = args.input_tensors();
  auto spec = reduce({1, largest_numel(inputs), false}, {Alu::maximum, steps_of(tt(Alu::not_equal))}, accesses(inputs),
                     {dense(Dtype::boolean, 1)});
  if (!spec.empty()) {
    spec.emplace_back(kernels::TransferShape{1, false, true});
  }
  return spec;
}

}  // namespace trn::aten::rules
