// Count rules of operators over lists of tensors: foreach and fused optimizer steps.
#include "aten/rules/foreach_optimizer.h"

#include <algorithm>
#include <map>
#include <utility>

#include "aten/rules/pointwise.h"
#include "aten/rules/reduction.h"
#include "aten/rules/steps.h"

namespace trn::aten::rules {

namespace {

constexpr std::string_view kPrefix = "_foreach_";

std::string_view function_of(const LaunchArguments& args) {
  auto name = args.base_name();
  name.remove_prefix(std::min(kPrefix.size(), name.size()));
  return name;
}

void append_list(const LaunchArguments& args, std::string_view name, std::vector<Access>& accesses) {
  const auto tensors = named(args, {name});
  const auto sum = aggregate(tensors);
  accesses.insert(accesses.end(), sum.begin(), sum.end());
}

std::int64_t total_numel(Tensors tensors) {
  std::int64_t total = 0;
  for (const auto& tensor : tensors) {
    total += numel(tensor);
  }
  return total;
}

// One Access per list argument, in the schema's order.
std::vector<Access> list_inputs(const LaunchArguments& args) {
  std::vector<Access> inputs;
  for (const auto& argument : args.op().schema().arguments()) {
    if (!argument.is_out()) {
      append_list(args, argument.name(), inputs);
    }
  }
  return inputs;
}

bool has_list(const LaunchArguments& args, std::string_view name) {
  const int position = args.find(name);
  return position >= 0 && args.inputs()[position].isList() && !args.tensors(name).empty();
}

std::vector<Step> foreach_steps(const LaunchArguments& args, std::string_view function) {
  if (function == "pow") {
    if (has_list(args, "exponent")) {
      return steps_of(tt(Alu::power));
    }
    const bool square = scalar_class(args.number("exponent", 0.1)) == ScalarClass::two;
    return square ? steps_of(act(Activation::square)) : steps_of(ts(Alu::power));
  }
  if (function == "clamp_max" || function == "minimum") {
    return steps_of(has_list(args, "other") ? tt(Alu::minimum) : ts(Alu::minimum));
  }
  if (function == "clamp_min" || function == "maximum") {
    return steps_of(has_list(args, "other") ? tt(Alu::maximum) : ts(Alu::maximum));
  }
  auto steps = recipe(function);
  const bool arithmetic = function == "add" || function == "sub" || function == "mul" || function == "div";
  if (arithmetic && !has_list(args, "other") && !steps.empty()) {
    steps.front().opcode = Opcode::tensor_scalar;
  } else if (arithmetic && scalar_class(args.number("alpha", 1)) != ScalarClass::one && !steps.empty()) {
    steps = steps_of(stt(steps.front().alu));
  } else if (function == "addcmul" || function == "addcdiv") {
    append(steps, ts(Alu::multiply));  // one value per tensor
  } else if (function == "lerp" && !has_list(args, "weights")) {
    steps = steps_of(tt(Alu::subtract), stt(Alu::multiply));
  }
  if (steps.empty()) {
    steps = steps_of(act(Activation::copy));
  }
  return steps;
}

std::vector<Step> adam_steps(const LaunchArguments& args, bool decoupled) {
  const bool decay = scalar_class(args.number("weight_decay", 0)) != ScalarClass::zero;
  std::vector<Step> steps;
  if (args.boolean("maximize", false)) {
    append(steps, ts(Alu::multiply, -1));
  }
  if (decay) {  // p *= 1 - lr * wd (AdamW) or g += wd * p (Adam)
    append(steps, decoupled ? ts(Alu::multiply) : horner(1));
  }
  append(steps, tt(Alu::subtract));        // g - m
  append(steps, horner(1));                // m += (1 - beta1) (g - m)
  append(steps, act(Activation::square));  // (1 - beta2) g^2, the factor in the activation's scale
  append(steps, horner(1));                // v = beta2 v + ...
  if (args.boolean("amsgrad", false)) {
    append(steps, tt(Alu::maximum));
  }
  append(steps, act(Activation::sqrt));  // sqrt(v / bias_correction2)
  append(steps, ts(Alu::add));           // + eps
  append(steps, tt(Alu::divide));        // m / denominator
  append(steps, horner(1));              // p -= step_size * ...
  return steps;
}

std::vector<Step> sgd_steps(const LaunchArguments& args) {
  std::vector<Step> steps;
  if (args.boolean("maximize", false)) {
    append(steps, ts(Alu::multiply, -1));
  }
  if (scalar_class(args.number("weight_decay", 0)) != ScalarClass::zero) {
    append(steps, horner(1));  // g += wd * p
  }
  if (scalar_class(args.number("momentum", 0)) != ScalarClass::zero) {
    append(steps, args.boolean("is_first_step", false) ? cast() : ts(Alu::multiply));  // (1 - dampening) g
    if (!args.boolean("is_first_step", false)) {
      append(steps, horner(1));  // b = momentum b + ...
    }
    if (args.boolean("nesterov", false)) {
      append(steps, horner(1));  // g += momentum b
    }
  }
  append(steps, horner(1));  // p -= lr g
  return steps;
}

std::vector<Step> adagrad_steps(const LaunchArguments& args) {
  std::vector<Step> steps;
  if (args.boolean("maximize", false)) {
    append(steps, ts(Alu::multiply, -1));
  }
  if (scalar_class(args.number("weight_decay", 0)) != ScalarClass::zero) {
    append(steps, horner(1));
  }
  append(steps, act(Activation::square));
  append(steps, tt(Alu::add));
  append(steps, act(Activation::sqrt));
  append(steps, ts(Alu::add));
  append(steps, tt(Alu::divide));
  append(steps, horner(1));
  return steps;
}

}  // namespace

Spec foreach (const LaunchArguments& args) {
  const auto outputs = args.output_tensors();
  return stream(total_numel(outputs), list_inputs(args), aggregate(outputs), foreach_steps(args, function_of(args)),
                static_cast<std::int64_t>(outputs.size()));
}

Spec foreach_copy(const LaunchArguments& args) {
  const auto outputs = args.output_tensors();
  const auto function = function_of(args);
  const auto sources = function == "clone" ? named(args, {"self"}) : named(args, {"src"});
  const bool zero = function == "zero";
  return stream(total_numel(outputs), zero ? std::vector<Access>{} : aggregate(sources), aggregate(outputs),
                steps_of(zero ? op(Opcode::memset) : cast()), static_cast<std::int64_t>(outputs.size()));
}

Spec foreach_reduction(const LaunchArguments& args) {
  const auto function = function_of(args);
  const Fold fold = function == "max" ? Fold{Alu::maximum, {}} : norm_fold(args.number("ord", 2));
  // Tensors of one size are rows of one part, so that a model's few distinct sizes make a short Spec.
  std::map<std::pair<std::int64_t, Dtype>, std::vector<at::Tensor>> by_size;
  for (const auto& tensor : named(args, {"self"})) {
    by_size[{tensor.numel(), dtype(tensor)}].push_back(tensor);
  }
  const auto outputs = args.output_tensors();
  const Dtype out_dtype = outputs.empty() ? Dtype::float32 : dtype(outputs.front());
  Spec spec;
  for (const auto& [kind, tensors] : by_size) {
    const auto rows = static_cast<std::int64_t>(tensors.size());
    spec =
        concat(std::move(spec), reduce({rows, kind.first, false}, fold, aggregate(tensors), {dense(out_dtype, rows)}));
  }
  return spec;
}

Spec fused_optimizer(const LaunchArguments& args) {
  const auto name = args.base_name();
  const auto parameters = named(args, {"self"});
  const bool scaled = is_strided(args.tensor("grad_scale"));
  std::vector<Access> inputs = list_inputs(args);
  std::vector<Access> outputs;
  append_list(args, "self", outputs);
  if (scaled) {
    append_list(args, "grads", outputs);  // unscaled in place
  }
  std::vector<Step> steps;
  if (name == "_fused_sgd") {
    append_list(args, "momentum_buffer_list", outputs);
    steps = sgd_steps(args);
    if (args.boolean("is_first_step", false)) {  // the buffers are written, not read
      inputs.clear();
      append_list(args, "self", inputs);
      append_list(args, "grads", inputs);
    }
  } else if (name == "_fused_adagrad") {
    append_list(args, "state_sums", outputs);
    steps = adagrad_steps(args);
  } else {
    append_list(args, "exp_avgs", outputs);
    append_list(args, "exp_avg_sqs", outputs);
    append_list(args, "max_exp_avg_sqs", outputs);
    steps = adam_steps(args, name == "_fused_adamw");
  }
  if (scaled) {
    steps.insert(steps.begin(), step(ts(Alu::divide)));
  }
  return stream(total_numel(parameters), std::move(inputs), std::move(outputs), std::move(steps),
                static_cast<std::int64_t>(parameters.size()));
}

Spec unscale(const LaunchArguments& args) {
  const auto tensors = named(args, {"self"});
  auto outputs = aggregate(tensors);
  append_list(args, "found_inf", outputs);
  return stream(total_numel(tensors), list_inputs(args), std::move(outputs),
                steps_of(ts(Alu::multiply), tt(Alu::not_equal), tt(Alu::maximum)),
                static_cast<std::int64_t>(tensors.size()));
}

}  // namespace trn::aten::rules
