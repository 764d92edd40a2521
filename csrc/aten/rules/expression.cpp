// Builds the steps of an expression: constants move into instructions, temporaries are reused after their last read.
#include "aten/rules/expression.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace trn::aten::rules {

namespace {

bool is_commutative(Alu alu) {
  return alu != Alu::subtract && alu != Alu::divide && alu != Alu::power && alu != Alu::modulo &&
         alu != Alu::left_shift && alu != Alu::right_shift;
}

// Whether an argument that is read lies on the device: a tensor, or a member of a list.
bool is_operand(const LaunchArguments& args, int position, std::size_t member) {
  if (position < 0 || args.op().schema().arguments()[static_cast<std::size_t>(position)].is_out()) {
    return false;
  }
  const at::Tensor& tensor = args.tensor(position);
  if (tensor.defined()) {
    return is_device_tensor(tensor);
  }
  const auto list = args.tensors(args.op().schema().arguments()[static_cast<std::size_t>(position)].name());
  return member < list.size() && is_device_tensor(list[member]);
}

// The value of a member that is a scalar of the CPU's.
std::optional<double> host_scalar(const LaunchArguments& args, std::string_view name, std::size_t member) {
  const auto list = args.tensors(name);
  return member < list.size() && list[member].numel() == 1 ? host_number(list[member].reshape({})) : std::nullopt;
}

Step tensor_scalar(Alu alu0, float scalar0, Alu alu1 = Alu::none, float scalar1 = 1) {
  Step step;
  step.opcode = Opcode::tensor_scalar;
  step.alu = alu0;
  step.scalar = scalar0;
  step.alu1 = alu1;
  step.scalar1 = scalar1;
  return step;
}

Step plain(Opcode opcode, Alu alu = Alu::none) {
  Step step;
  step.opcode = opcode;
  step.alu = alu;
  return step;
}

bool are_fp32(std::span<const at::Tensor> tensors) {
  return std::ranges::all_of(tensors, [](const at::Tensor& tensor) { return tensor.scalar_type() == at::kFloat; });
}

}  // namespace

Expression::Expression(const LaunchArguments& args, std::size_t member)
    : args_(args), member_(member), is_fp32_(are_fp32(args.output_tensors())) {}

Expression::Expression(const LaunchArguments& args, std::span<const at::Tensor> outputs)
    : args_(args), member_(0), is_fp32_(are_fp32(outputs)) {}

Value Expression::argument(std::string_view name, double fallback) const {
  const int position = args_.find(name);
  if (!is_operand(args_, position, member_)) {
    if (const auto value = host_scalar(args_, name, member_)) {
      return static_cast<float>(*value);
    }
    const auto numbers = args_.numbers(name);
    return static_cast<float>(member_ < numbers.size() ? numbers[member_] : args_.number(name, fallback));
  }
  std::int64_t index = 0;
  for (int i = 0; i < position; ++i) {
    index += is_operand(args_, i, member_) ? 1 : 0;
  }
  return input(index);
}

Value Expression::argument(std::initializer_list<std::string_view> names, double fallback) const {
  for (const std::string_view name : names) {
    if (args_.find(name) >= 0) {
      return argument(name, fallback);
    }
  }
  return static_cast<float>(fallback);
}

Value Expression::emit(Step step, std::vector<Value> reads) {
  operations_.push_back({step, std::move(reads)});
  return {Value::Kind::result, static_cast<std::int64_t>(operations_.size()) - 1};
}

Value Expression::as_tensor(Value value) {
  if (!value.is_constant()) {
    return value;
  }
  Step step = plain(Opcode::memset);
  step.scalar = value.constant;
  return emit(step, {});
}

Value Expression::activation(Activation function, Value x, float scale, float bias) {
  Step step = plain(Opcode::activation);
  step.function = function;
  step.scalar = bias;
  step.scalar1 = scale;
  return emit(step, {as_tensor(x)});
}

Value Expression::apply(Alu alu, Value a, Value b) {
  if (!a.is_constant() && !b.is_constant()) {
    return emit(plain(Opcode::tensor_tensor, alu), {a, b});
  }
  if (b.is_constant()) {
    return emit(tensor_scalar(alu, b.constant), {as_tensor(a)});
  }
  if (is_commutative(alu)) {
    return emit(tensor_scalar(mirrored(alu), a.constant), {b});
  }
  if (alu == Alu::subtract) {
    return emit(tensor_scalar(Alu::multiply, -1, Alu::add, a.constant), {b});
  }
  if (alu == Alu::divide) {
    const Value inverse = reciprocal(b);
    return a.constant == 1 ? inverse : apply(Alu::multiply, inverse, a);
  }
  return emit(plain(Opcode::tensor_tensor, alu), {as_tensor(a), b});
}

Value Expression::apply(Alu alu0, Value x, float c0, Alu alu1, float c1) {
  return emit(tensor_scalar(alu0, c0, alu1, c1), {as_tensor(x)});
}

Value Expression::apply(Alu alu0, Value x, float c, Alu alu1, Value y) {
  Step step = plain(Opcode::scalar_tensor_tensor, alu0);
  step.scalar = c;
  step.alu1 = alu1;
  return emit(step, {as_tensor(x), as_tensor(y)});
}

Value Expression::reciprocal(Value x) {
  return emit(plain(Opcode::reciprocal), {as_tensor(x)});
}

Value Expression::iota() {
  return emit(plain(Opcode::iota), {});
}

Value Expression::draw() {
  return emit(plain(Opcode::rng), {});
}

Value Expression::select(Value condition, Value x, Value y) {
  if (y.is_constant()) {
    Step step = plain(Opcode::select);
    step.scalar = y.constant;
    return emit(step, {as_tensor(condition), as_tensor(x)});
  }
  return emit(plain(Opcode::select), {as_tensor(condition), as_tensor(x), y});
}

Value Expression::where_not(Value mask, Value x, float constant) {
  Step step = plain(Opcode::tensor_copy_predicated);
  step.scalar = constant;
  return emit(step, {as_tensor(x), as_tensor(mask)});
}

Value Expression::copy(Value x) {
  return emit(plain(Opcode::tensor_copy), {as_tensor(x)});
}

void Expression::output(std::int64_t j, Value value) {
  value = as_tensor(value);
  const bool is_taken = std::ranges::any_of(outputs_, [&](const auto& one) { return one.first == value.index; });
  if (value.kind != Value::Kind::result || is_taken) {
    value = copy(value);
  }
  outputs_.emplace_back(value.index, j);
}

// What an output follows from.
std::vector<bool> Expression::needed() const {
  std::vector<bool> is_needed(operations_.size());
  for (const auto& [operation, output] : outputs_) {
    is_needed[static_cast<std::size_t>(operation)] = true;
  }
  for (std::size_t i = operations_.size(); i-- > 0;) {
    for (const Value& value : operations_[i].reads) {
      if (is_needed[i] && value.kind == Value::Kind::result) {
        is_needed[static_cast<std::size_t>(value.index)] = true;
      }
    }
  }
  return is_needed;
}

std::vector<Step> Expression::steps() const {
  const auto is_needed = needed();
  std::vector<std::int64_t> last_read(operations_.size(), -1);
  for (std::size_t i = 0; i < operations_.size(); ++i) {
    if (!is_needed[i]) {
      continue;
    }
    for (const Value& value : operations_[i].reads) {
      if (value.kind == Value::Kind::result) {
        last_read[static_cast<std::size_t>(value.index)] = static_cast<std::int64_t>(i);
      }
    }
  }
  auto output_of = [&](std::size_t operation) {
    const auto found = std::ranges::find(outputs_, static_cast<std::int64_t>(operation),
                                         &std::pair<std::int64_t, std::int64_t>::first);
    return found == outputs_.end() ? std::int64_t{-1} : found->second;
  };
  std::vector<std::int64_t> place(operations_.size());
  std::vector<bool> is_busy;
  std::vector<Step> steps;
  std::vector<Step> copies;
  for (std::size_t i = 0; i < operations_.size(); ++i) {
    if (!is_needed[i]) {
      continue;
    }
    Step step = operations_[i].step;
    std::int64_t* const slots[] = {&step.a, &step.b, &step.c};
    for (std::size_t r = 0; r < operations_[i].reads.size(); ++r) {
      const Value& value = operations_[i].reads[r];
      *slots[r] =
          value.kind == Value::Kind::input ? Step::kInput + value.index : place[static_cast<std::size_t>(value.index)];
    }
    for (const Value& value : operations_[i].reads) {
      const auto index = static_cast<std::size_t>(value.index);
      if (value.kind == Value::Kind::result && last_read[index] == static_cast<std::int64_t>(i) &&
          output_of(index) < 0) {
        is_busy[static_cast<std::size_t>(place[index] - Step::kTemporary)] = false;
      }
    }
    const std::int64_t output = output_of(i);
    if (output >= 0 && (last_read[i] < 0 || is_fp32_)) {
      step.dst = Step::kOutput + output;
    } else {
      const auto free = static_cast<std::size_t>(std::ranges::find(is_busy, false) - is_busy.begin());
      is_busy.resize(std::max(is_busy.size(), free + 1));
      is_busy[free] = true;
      step.dst = Step::kTemporary + static_cast<std::int64_t>(free);
      if (output >= 0) {  // read again in fp32, so it is stored at the end
        Step copy = plain(Opcode::tensor_copy);
        copy.a = step.dst;
        copy.dst = Step::kOutput + output;
        copies.push_back(copy);
      }
    }
    place[i] = step.dst;
    steps.push_back(step);
  }
  steps.insert(steps.end(), copies.begin(), copies.end());
  return steps;
}

}  // namespace trn::aten::rules
