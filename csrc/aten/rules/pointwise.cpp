// Count rules of operators that stream their operands once.
#include "aten/rules/pointwise.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "aten/rules/expression.h"
#include "aten/rules/steps.h"

namespace trn::aten::rules {

namespace {

bool is_device(const at::Tensor& tensor) {
  return tensor.defined() && is_device_tensor(tensor);
}

bool is_one(const LaunchArguments& args, std::string_view name) {
  return scalar_class(args.number(name, 1)) == ScalarClass::one;
}

bool any_complex(const LaunchArguments& args) {
  const auto test = [](const at::Tensor& tensor) { return is_complex(dtype(tensor)); };
  return std::ranges::any_of(args.input_tensors(), test) || std::ranges::any_of(args.output_tensors(), test);
}

// A complex element is two real ones: twice the instructions where real and imaginary parts stay apart, four times
// where they mix (a product is four multiplications, and so on).
constexpr std::string_view kSeparable[] = {"add",   "sub",           "rsub",        "neg",
                                           "where", "conj_physical", "masked_fill", "lerp"};

std::vector<Step> for_complex(std::vector<Step> steps, std::string_view function) {
  const auto once = steps.size();
  const std::size_t times = std::ranges::find(kSeparable, function) != std::end(kSeparable) ? 2 : 4;
  steps.reserve(once * times);
  for (std::size_t i = once; i < once * times; ++i) {
    steps.push_back(steps[i - once]);
  }
  return steps;
}

// An operand that is no device tensor rides in the instruction: the first tensor_tensor becomes tensor_scalar.
void use_scalar_operand(const LaunchArguments& args, std::vector<Step>& steps) {
  constexpr Alu kOrdered[] = {Alu::modulo, Alu::power, Alu::left_shift, Alu::right_shift};
  const bool scalar_self = !is_device(args.tensor("self"));
  const bool scalar_other = !is_device(args.tensor("other"));
  const auto first = std::ranges::find(steps, Opcode::tensor_tensor, &Step::opcode);
  if (args.find("other") < 0 || scalar_self == scalar_other || first == steps.end()) {
    return;
  }
  if (scalar_self && std::ranges::find(kOrdered, first->alu) != std::end(kOrdered)) {  // s alu x
    steps.insert(first, step(memset(static_cast<float>(args.number("self", 0)))));
    return;
  }
  first->opcode = Opcode::tensor_scalar;
  if (scalar_other) {
    first->scalar = static_cast<float>(args.number("other", 0));
    return;
  }
  const auto scalar = static_cast<float>(args.number("self", 0));
  if (first->alu == Alu::subtract) {  // s - x
    *first = step(ts(Alu::multiply, -1));
    steps.insert(first + 1, step(ts(Alu::add, scalar)));
  } else if (first->alu == Alu::divide) {  // s / x
    *first = step(op(Opcode::reciprocal));
    steps.insert(first + 1, step(ts(Alu::multiply, scalar)));
  } else {
    first->alu = mirrored(first->alu);
    first->scalar = scalar;
  }
}

std::vector<Step> power_steps(double exponent) {
  switch (scalar_class(exponent)) {
    case ScalarClass::zero:
      return steps_of(memset(1));
    case ScalarClass::half:
      return steps_of(act(Activation::sqrt));
    case ScalarClass::one:
      return steps_of(cast());
    case ScalarClass::two:
      return steps_of(act(Activation::square));
    case ScalarClass::three:
      return steps_of(act(Activation::square), tt(Alu::multiply));  // x, the first input again
    case ScalarClass::minus_one:
      return steps_of(op(Opcode::reciprocal));
    case ScalarClass::minus_two:
      return steps_of(act(Activation::square), op(Opcode::reciprocal));
    default:
      return steps_of(ts(Alu::power, static_cast<float>(exponent)));
  }
}

void set_scalars(const LaunchArguments& args, std::vector<Step>& steps) {
  constexpr std::string_view kNames[] = {"value", "min_val", "max_val", "negative_slope"};
  std::size_t next = 0;
  for (const auto name : kNames) {
    if (args.find(name) >= 0 && !is_device(args.tensor(name)) && next < steps.size()) {
      steps[next++].scalar = static_cast<float>(args.number(name, 0));
    }
  }
}

// Checked against CPU PyTorch on op_db's samples. Real, floating-point elements.
constexpr std::string_view kComputed[] = {"__ilshift__",
                                          "__irshift__",
                                          "__lshift__",
                                          "__rshift__",
                                          "abs",
                                          "acosh",
                                          "add",
                                          "arange",
                                          "bitwise_and",
                                          "bitwise_left_shift",
                                          "bitwise_not",
                                          "bitwise_or",
                                          "bitwise_right_shift",
                                          "bitwise_xor",
                                          "ceil",
                                          "clamp",
                                          "clamp_max",
                                          "clamp_min",
                                          "deg2rad",
                                          "div",
                                          "eq",
                                          "exp",
                                          "exp2",
                                          "expm1",
                                          "fill",
                                          "floor",
                                          "ge",
                                          "gt",
                                          "hardsigmoid",
                                          "hardswish",
                                          "hardtanh",
                                          "isinf",
                                          "isnan",
                                          "isneginf",
                                          "isposinf",
                                          "le",
                                          "leaky_relu",
                                          "linspace",
                                          "log",
                                          "log10",
                                          "log1p",
                                          "log2",
                                          "logical_and",
                                          "logical_not",
                                          "logical_or",
                                          "logical_xor",
                                          "logspace",
                                          "lt",
                                          "masked_fill",
                                          "maximum",
                                          "minimum",
                                          "mish",
                                          "mul",
                                          "ne",
                                          "neg",
                                          "pow",
                                          "rad2deg",
                                          "reciprocal",
                                          "relu",
                                          "remainder",
                                          "rsqrt",
                                          "sgn",
                                          "sigmoid",
                                          "sign",
                                          "signbit",
                                          "silu",
                                          "sqrt",
                                          "sub",
                                          "tanh",
                                          "where",
                                          "zero"};

}  // namespace

bool computes(std::string_view function) {
  return std::ranges::binary_search(kComputed, function) || has_expression(function);
}

bool computes(const LaunchArguments& args) {
  constexpr std::string_view kScalars[] = {"start", "steps"};
  const auto on_device = [&](std::string_view name) { return is_device(args.tensor(name)); };
  const auto name = args.base_name();
  const bool reads_scalar =
      ((name == "linspace" || name == "logspace") && on_device("end")) || (name != "masked_fill" && on_device("value"));
  const bool is_series = name == "polygamma" && args.integer("n", 0) > 1;
  // A number that is shifted would lie in a tile of integers, which a memset has not.
  const bool shifts_number = name.starts_with("bitwise_") && name.ends_with("_shift") && !on_device("self");
  return computes(name) && !is_series && !shifts_number && std::ranges::none_of(kScalars, on_device) && !reads_scalar &&
         !any_complex(args);
}

namespace {

// Bitwise operations on bools.
std::string_view logical(const LaunchArguments& args, std::string_view function) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {{"bitwise_and", "logical_and"},
                                                                      {"bitwise_not", "logical_not"},
                                                                      {"bitwise_or", "logical_or"},
                                                                      {"bitwise_xor", "logical_xor"}};
  for (const auto& [bitwise, name] : kNames) {
    if (function == bitwise && dtype(args.output()) == Dtype::boolean) {
      return name;
    }
  }
  return function;
}

}  // namespace

constexpr std::string_view kChosen[] = {"condition", "self", "other"};

std::vector<Step> pointwise_steps(const LaunchArguments& args, std::string_view function, std::size_t member) {
  if (has_expression(function) && !any_complex(args)) {
    return expression(args, function, member);
  }
  auto steps = recipe(logical(args, function));
  if (function == "where" && !std::ranges::all_of(kChosen, [&](auto name) { return is_device(args.tensor(name)); })) {
    Expression e(args, member);
    const Value condition = e.argument("condition"), x = e.argument("self"), y = e.argument("other");
    e.output(0,
             x.is_constant() && !y.is_constant() ? e.where_not(condition, y, x.constant) : e.select(condition, x, y));
    return e.steps();
  }
  if (function == "masked_fill" && is_device(args.tensor("value"))) {
    Expression e(args, member);
    e.output(0, e.select(e.argument("mask"), e.argument("value"), e.argument("self")));
    return e.steps();
  }
  if ((function == "add" || function == "sub") && !is_one(args, "alpha")) {
    const auto alpha = static_cast<float>(args.number("alpha", 1));
    const Alu alu = function == "add" ? Alu::add : Alu::subtract;
    const bool has_two = is_device(args.tensor("self")) && is_device(args.tensor("other"));
    if (!has_two && !any_complex(args)) {  // one of them is a number
      Expression e(args, member);
      const Value self = e.argument("self"), other = e.argument("other");
      e.output(0, other.is_constant()
                      ? e.apply(alu, self, alpha * other.constant)
                      : e.apply(Alu::multiply, other, alu == Alu::add ? alpha : -alpha, Alu::add, self.constant));
      return e.steps();
    }
    steps = has_two ? steps_of(stt(alu, alpha)) : std::move(steps);
  } else if ((function == "addcmul" || function == "addcdiv") && !is_one(args, "value")) {
    append(steps, ts(Alu::multiply));
  } else if (function == "lerp" && !is_device(args.tensor("weight"))) {
    steps = steps_of(tt(Alu::subtract), stt(Alu::multiply));
  }
  if (function == "masked_fill" || function == "hardtanh" || function == "leaky_relu") {
    set_scalars(args, steps);
  }
  use_scalar_operand(args, steps);
  return steps;
}

Spec pointwise(const LaunchArguments& args) {
  const auto function = args.base_name();
  auto steps = pointwise_steps(args, function);
  if (any_complex(args)) {
    steps = for_complex(std::move(steps), function);
  }
  return stream(args, std::move(steps));
}

Spec power(const LaunchArguments& args) {
  const auto& exponent = args.tensor("exponent");
  if (is_device(exponent)) {
    if (is_device(args.tensor("self"))) {
      return stream(args, steps_of(tt(Alu::power)));
    }
    const double base = args.number("self", 1);
    if (c10::isIntegralType(args.output().scalar_type(), true)) {  // which an exponential would miss by a fraction
      return stream(args, steps_of(memset(static_cast<float>(base)), tt(Alu::power)));
    }
    const auto scale = static_cast<float>(std::log(base));
    return stream(args, steps_of(ts(Alu::multiply, scale), act(Activation::exp)));
  }
  auto steps = power_steps(args.number("exponent", 0.1));
  return stream(args, any_complex(args) ? for_complex(std::move(steps), "pow") : std::move(steps));
}

Spec clamp(const LaunchArguments& args) {
  std::vector<Step> steps;
  constexpr std::pair<std::string_view, Alu> kBounds[] = {{"min", Alu::maximum}, {"max", Alu::minimum}};
  if (!is_device(args.tensor("self")) && !any_complex(args)) {  // a number between tensors
    Expression e(args);
    Value bounded = e.argument("self");
    for (const auto& [bound, alu] : kBounds) {
      bounded = args.is_given(bound) ? e.apply(alu, bounded, e.argument(bound)) : bounded;
    }
    e.output(0, bounded);
    return stream(args, e.steps());
  }
  for (const auto& [bound, alu] : kBounds) {
    if (args.is_given(bound)) {
      append(steps, is_device(args.tensor(bound)) ? tt(alu) : ts(alu, static_cast<float>(args.number(bound, 0))));
    }
  }
  return stream(args, std::move(steps));
}

// Of order 0 and 1 written out; beyond (-1)^(n+1) n! zeta.
Spec polygamma(const LaunchArguments& args) {
  if (args.integer("n", 0) <= 1) {
    return pointwise(args);
  }
  auto steps = recipe("special_zeta");
  append(steps, ts(Alu::multiply));
  return stream(args, std::move(steps));
}

Spec fill(const LaunchArguments& args) {
  const auto outputs = args.output_tensors();
  const auto values = named(args, {"value"});
  const auto value = static_cast<float>(args.number("value", args.number("fill_value", 0)));
  return stream(largest_numel(outputs), accesses(values), accesses(outputs),
                steps_of(values.empty() ? memset(value) : cast()));
}

namespace {

// start + i step; of logspace the exponent of its base.
std::vector<Step> progression(const LaunchArguments& args) {
  const double start = args.number("start", 0);
  const auto intervals = static_cast<double>(std::max<std::int64_t>(args.integer("steps", 1) - 1, 1));
  const double step =
      args.base_name() == "arange" ? args.number("step", 1) : (args.number("end", 0) - start) / intervals;
  Expression e(args);
  const Value place = e.apply(Alu::multiply, e.iota(), static_cast<float>(step), Alu::add, static_cast<float>(start));
  const bool is_exponent = args.base_name() == "logspace";
  e.output(0, is_exponent ? e.activation(Activation::exp, place, static_cast<float>(std::log(args.number("base", 10))))
                          : place);
  return e.steps();
}

}  // namespace

Spec sequence(const LaunchArguments& args) {
  const auto outputs = args.output_tensors();
  std::vector<Step> steps = steps_of(op(Opcode::iota), ts(Alu::multiply, 1), ts(Alu::add));
  const auto name = args.base_name();
  if (name == "arange" || name == "linspace" || name == "logspace") {
    steps = progression(args);
  }
  return stream(largest_numel(outputs), {}, accesses(outputs), std::move(steps));
}

}  // namespace trn::aten::rules
