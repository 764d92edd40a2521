#include "aten/rules/lists.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "aten/alias.h"
#include "aten/rules/expression.h"
#include "aten/rules/pointwise.h"

namespace trn::aten::rules {

namespace {

constexpr std::string_view kForeach = "_foreach_";

// ---- foreach

void arithmetic(Expression& e, Alu alu) {
  const Value self = e.argument("self"), other = e.argument({"other", "scalar", "scalars"});
  const float alpha = e.argument("alpha", 1).constant;
  if (alpha == 1 || (alu != Alu::add && alu != Alu::subtract)) {
    e.output(0, e.apply(alu, self, other));
  } else if (other.is_constant()) {
    e.output(0, e.apply(alu, self, alpha * other.constant));
  } else {
    e.output(0, e.apply(Alu::multiply, other, alu == Alu::add ? alpha : -alpha, Alu::add, self));
  }
}

void power(Expression& e) {
  const Value self = e.argument("self"), exponent = e.argument("exponent");
  const bool is_square = exponent.is_constant() && exponent.constant == 2 && !self.is_constant();
  e.output(0, is_square ? e.activation(Activation::square, self) : e.apply(Alu::power, self, exponent));
}

struct ListFunction {
  std::string_view name;
  void (*write)(Expression&);
};

// What differs from the function of the same name on one tensor.
constexpr ListFunction kForeachFunctions[] = {
    {"add", [](Expression& e) { arithmetic(e, Alu::add); }},
    {"clamp_max", [](Expression& e) { arithmetic(e, Alu::minimum); }},
    {"clamp_min", [](Expression& e) { arithmetic(e, Alu::maximum); }},
    {"clone", [](Expression& e) { e.output(0, e.copy(e.argument("self"))); }},
    {"copy", [](Expression& e) { e.output(0, e.copy(e.input(0))); }},  // what it overwrites is not read
    {"div", [](Expression& e) { arithmetic(e, Alu::divide); }},
    {"maximum", [](Expression& e) { arithmetic(e, Alu::maximum); }},
    {"minimum", [](Expression& e) { arithmetic(e, Alu::minimum); }},
    {"mul", [](Expression& e) { arithmetic(e, Alu::multiply); }},
    {"pow", power},
    {"sub", [](Expression& e) { arithmetic(e, Alu::subtract); }},
    {"zero", [](Expression& e) { e.output(0, 0); }},
};

const ListFunction* find_foreach(std::string_view name) {
  const auto* const found = std::ranges::lower_bound(kForeachFunctions, name, {}, &ListFunction::name);
  return found != std::end(kForeachFunctions) && found->name == name ? found : nullptr;
}

// ---- Fused optimizers: the operands by name, as the lists of the schema follow one another

struct Fused {
  Expression& e;
  double step;

  Value gradient(Value parameter, bool decays) const {
    Value gradient = e.argument("grads");
    if (e.args().boolean("maximize", false)) {
      gradient = e.multiply(gradient, -1);
    }
    const float decay = e.argument("weight_decay").constant;
    return decays && decay != 0 ? e.apply(Alu::multiply, parameter, decay, Alu::add, gradient) : gradient;
  }
};

void adam(const Fused& fused, bool decoupled, double rate) {
  Expression& e = fused.e;
  const double beta1 = e.args().number("beta1", 0.9), beta2 = e.args().number("beta2", 0.999);
  const double correction1 = 1 - std::pow(beta1, fused.step), correction2 = 1 - std::pow(beta2, fused.step);
  const double decay = e.args().number("weight_decay", 0);
  Value parameter = e.argument("self");
  const Value gradient = fused.gradient(parameter, !decoupled);
  if (decoupled && decay != 0) {
    // By ScalarE, as the root: VectorE, with the division, takes longest.
    parameter = e.activation(Activation::copy, parameter, static_cast<float>(1 - rate * decay));
  }
  const Value mean = e.argument("exp_avgs");
  const Value new_mean =
      e.apply(Alu::multiply, e.subtract(gradient, mean), static_cast<float>(1 - beta1), Alu::add, mean);
  const Value square = e.activation(Activation::square, gradient, static_cast<float>(std::sqrt(1 - beta2)));
  const Value new_square =
      e.apply(Alu::multiply, e.argument("exp_avg_sqs"), static_cast<float>(beta2), Alu::add, square);
  Value largest = new_square;
  if (e.args().boolean("amsgrad", false)) {
    largest = e.apply(Alu::maximum, e.argument("max_exp_avg_sqs"), new_square);
    e.output(3, largest);
  }
  const Value root = e.activation(Activation::sqrt, largest, static_cast<float>(1 / correction2));
  const Value denominator = e.activation(Activation::copy, root, 1, e.argument("eps").constant);
  const Value direction = e.divide(new_mean, denominator);
  e.output(0, e.apply(Alu::multiply, direction, static_cast<float>(-rate / correction1), Alu::add, parameter));
  e.output(1, new_mean);
  e.output(2, new_square);
}

void sgd(const Fused& fused, double rate) {
  Expression& e = fused.e;
  const Value parameter = e.argument("self");
  Value direction = fused.gradient(parameter, true);
  if (const float momentum = e.argument("momentum").constant; momentum != 0) {
    const bool is_first = e.args().boolean("is_first_step", false);
    const float dampening = e.argument("dampening").constant;
    const Value damped = is_first         ? e.copy(direction)
                         : dampening != 0 ? e.multiply(direction, 1 - dampening)
                                          : direction;
    const Value buffer =
        is_first ? damped : e.apply(Alu::multiply, e.argument("momentum_buffer_list"), momentum, Alu::add, damped);
    e.output(1, buffer);
    direction =
        e.args().boolean("nesterov", false) ? e.apply(Alu::multiply, buffer, momentum, Alu::add, direction) : buffer;
  }
  e.output(0, e.apply(Alu::multiply, direction, static_cast<float>(-rate), Alu::add, parameter));
}

void adagrad(const Fused& fused, double rate) {
  Expression& e = fused.e;
  const double slowed = rate / (1 + (fused.step - 1) * e.args().number("lr_decay", 0));
  const Value parameter = e.argument("self");
  const Value gradient = fused.gradient(parameter, true);
  const Value sum = e.add(e.argument("state_sums"), e.activation(Activation::square, gradient));
  const Value denominator = e.add(e.activation(Activation::sqrt, sum), e.argument("eps").constant);
  const Value direction = e.divide(gradient, denominator);
  e.output(0, e.apply(Alu::multiply, direction, static_cast<float>(-slowed), Alu::add, parameter));
  e.output(1, sum);
}

// A scalar that a launch has on the device.
double read(const at::Tensor& tensor, double otherwise) {
  if (!tensor.defined()) {
    return otherwise;
  }
  return (is_device_tensor(tensor) ? cpu_alias(tensor) : tensor).item().toDouble();
}

void write_fused(const LaunchArguments& args, Expression& e, std::size_t member, bool reads_scalars) {
  const auto steps = args.tensors("state_steps");
  const double rate = reads_scalars && args.tensor("lr").defined() ? read(args.tensor("lr"), 0) : args.number("lr", 1);
  const Fused fused{e, reads_scalars && member < steps.size() ? read(steps[member], 1) : 1};
  const auto name = args.base_name();
  if (name == "_fused_sgd") {
    sgd(fused, rate);
  } else if (name == "_fused_adagrad") {
    adagrad(fused, rate);
  } else {
    adam(fused, name == "_fused_adamw", rate);
  }
}

bool is_fused(const LaunchArguments& args) {
  return args.base_name().starts_with("_fused_");
}

std::vector<std::string_view> written_lists(const LaunchArguments& args) {
  const auto name = args.base_name();
  if (name == "_fused_sgd") {
    return {"self", "momentum_buffer_list"};
  }
  if (name == "_fused_adagrad") {
    return {"self", "state_sums"};
  }
  return {"self", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"};
}

bool is_read(const LaunchArguments& args, std::string_view list) {
  const bool is_first = args.boolean("is_first_step", false);
  return !(list == "momentum_buffer_list" && is_first) && !(function_of(args) == "zero") &&
         !(function_of(args) == "copy" && list == "self");
}

}  // namespace

Access repeated(Access access, std::int64_t times, bool is_shared) {
  if (is_shared) {
    return access;
  }
  const bool is_dense = access.contiguous_elements == access.elements;
  access.elements *= times;
  access.span_elements *= times;
  access.contiguous_elements = is_dense ? access.elements : access.contiguous_elements;
  return access;
}

std::string_view function_of(const LaunchArguments& args) {
  const auto name = args.base_name();
  return name.starts_with(kForeach) ? name.substr(kForeach.size()) : name;
}

std::vector<Member> members(const LaunchArguments& args) {
  const bool fused = is_fused(args);
  const auto results = args.output_tensors();
  std::vector<Member> found(fused ? args.tensors("self").size() : results.size());
  for (const auto& argument : args.op().schema().arguments()) {
    const at::Tensor& shared = args.tensor(argument.name());
    const auto list = args.tensors(argument.name());
    const bool is_list = !shared.defined() && list.size() == found.size();
    for (std::size_t i = 0; i < found.size() && !argument.is_out() && is_read(args, argument.name()); ++i) {
      if (is_list && is_device_tensor(list[i])) {
        found[i].inputs.push_back(list[i]);
      } else if (shared.defined() && is_device_tensor(shared)) {
        found[i].inputs.push_back(shared);
      }
    }
  }
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (!fused) {
      found[i].outputs = {results[i]};
      continue;
    }
    for (const auto name : written_lists(args)) {
      if (const auto list = args.tensors(name); i < list.size()) {
        found[i].outputs.push_back(list[i]);
      }
    }
  }
  return found;
}

std::vector<Step> member_steps(const LaunchArguments& args, std::size_t member, bool reads_scalars) {
  Expression e(args, member);
  if (is_fused(args)) {
    write_fused(args, e, member, reads_scalars);
    return e.steps();
  }
  if (const ListFunction* const found = find_foreach(function_of(args))) {
    found->write(e);
    return e.steps();
  }
  const auto steps = pointwise_steps(args, function_of(args), member);
  return steps.empty() ? steps_of(act(Activation::copy)) : steps;
}

bool is_list_launch(const LaunchArguments& args) {
  constexpr std::string_view kOptimizers[] = {"_fused_adagrad", "_fused_adam", "_fused_adamw", "_fused_sgd"};
  const auto name = args.base_name();
  return name.starts_with(kForeach) || std::ranges::find(kOptimizers, name) != std::end(kOptimizers);
}

bool is_list_reduction(const LaunchArguments& args) {
  constexpr std::string_view kReductions[] = {"_foreach_max", "_foreach_norm", "_foreach_powsum"};
  return std::ranges::find(kReductions, args.base_name()) != std::end(kReductions);
}

bool computes_list(const LaunchArguments& args) {
  const auto function = function_of(args);
  if (is_fused(args)) {
    return !args.tensor("grad_scale").defined() && !args.tensor("found_inf").defined();
  }
  // Scalars of all members in one tensor are no scalars of an instruction.
  return !args.tensor("scalars").defined() && (find_foreach(function) != nullptr || computes(function));
}

std::vector<std::vector<std::size_t>> kinds_of(const std::vector<Member>& members) {
  std::vector<std::vector<std::size_t>> kinds;
  std::map<std::vector<std::int64_t>, std::size_t> known;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const Member& member = members[i];
    std::vector<std::int64_t> key{static_cast<std::int64_t>(member.inputs.size())};
    for (const auto* list : {&member.inputs, &member.outputs}) {
      for (const at::Tensor& tensor : *list) {
        const Access access = access_of(tensor);
        key.insert(key.end(), {static_cast<std::int64_t>(access.dtype), access.elements, access.contiguous_elements,
                               access.span_elements});
      }
    }
    const auto [place, is_new] = known.try_emplace(std::move(key), kinds.size());
    if (is_new) {
      kinds.emplace_back();
    }
    kinds[place->second].push_back(i);
  }
  return kinds;
}

Spec by_kind(const std::vector<Member>& members, const std::function<std::vector<Step>(std::size_t member)>& steps) {
  Spec spec;
  for (const auto& kind : kinds_of(members)) {
    const Member& first = members[kind.front()];
    const auto count = static_cast<std::int64_t>(kind.size());
    const std::int64_t elements = largest_numel(first.outputs);
    auto all = [&](Tensors tensors) {
      std::vector<Access> result;
      for (const at::Tensor& tensor : tensors) {
        result.push_back(repeated(access_of(tensor), count, tensor.numel() == 1 && elements > 1));
      }
      return result;
    };
    spec = concat(std::move(spec),
                  stream(elements * count, all(first.inputs), all(first.outputs), steps(kind.front()), count));
  }
  return spec;
}

}  // namespace trn::aten::rules
