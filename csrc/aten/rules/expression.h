// Pointwise functions as expressions: each operation is one engine instruction, temporaries are found by liveness.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "aten/launch_arguments.h"
#include "aten/rules/steps.h"

namespace trn::aten::rules {

// What an operation reads: an operand in HBM, the result of another operation, or a constant.
struct Value {
  enum class Kind : std::uint8_t { constant, input, result } kind = Kind::constant;
  std::int64_t index = 0;
  float constant = 0;

  Value(float value) : constant(value) {}
  Value(Kind which, std::int64_t place) : kind(which), index(place) {}
  bool is_constant() const { return kind == Kind::constant; }
};

class Expression {
 public:
  // `member`: which tensor of the operator's lists the expression is of. Results that are all fp32 are read back from
  // where they are written.
  explicit Expression(const LaunchArguments& args, std::size_t member = 0);
  // Of other results than the operator's.
  Expression(const LaunchArguments& args, std::span<const at::Tensor> outputs);

  const LaunchArguments& args() const { return args_; }
  Value input(std::int64_t index) const { return {Value::Kind::input, index}; }
  // An argument by name: a device tensor or a list of them, a number or a list, or the value of a CPU scalar.
  Value argument(std::string_view name, double fallback = 0) const;
  // The first of several names that the operator has.
  Value argument(std::initializer_list<std::string_view> names, double fallback = 0) const;

  // function(scale * x + bias), on ScalarE
  Value activation(Activation function, Value x, float scale = 1, float bias = 0);
  // alu(a, b), whichever of them is a constant
  Value apply(Alu alu, Value a, Value b);
  // alu1(alu0(x, c0), c1): one instruction
  Value apply(Alu alu0, Value x, float c0, Alu alu1, float c1);
  // alu1(alu0(x, c), y): one instruction
  Value apply(Alu alu0, Value x, float c, Alu alu1, Value y);
  Value reciprocal(Value x);
  Value iota();  // each element's place
  Value draw();  // uniform in [0, 1)
  Value select(Value condition, Value x, Value y);
  Value copy(Value x);
  Value where_not(Value mask, Value x, float constant);  // mask ? constant : x

  Value add(Value a, Value b) { return apply(Alu::add, a, b); }
  Value subtract(Value a, Value b) { return apply(Alu::subtract, a, b); }
  Value multiply(Value a, Value b) { return apply(Alu::multiply, a, b); }
  Value divide(Value a, Value b) { return apply(Alu::divide, a, b); }

  // Result j of the operator.
  void output(std::int64_t j, Value value);

  std::vector<Step> steps() const;

 private:
  struct Operation {
    Step step;
    std::vector<Value> reads;
  };
  Value emit(Step step, std::vector<Value> reads);
  Value as_tensor(Value value);
  std::vector<bool> needed() const;

  const LaunchArguments& args_;
  std::size_t member_;
  bool is_fp32_;
  std::vector<Operation> operations_;
  std::vector<std::pair<std::int64_t, std::int64_t>> outputs_;  // result of an operation, output
};

// The expression of a pointwise operator, or of a member of its foreach form; or no steps.
std::vector<Step> expression(const LaunchArguments& args, std::string_view function, std::size_t member = 0);
bool has_expression(std::string_view function);
// Such a function as part of another operator's.
void write_function(std::string_view function, Expression& e);

}  // namespace trn::aten::rules
