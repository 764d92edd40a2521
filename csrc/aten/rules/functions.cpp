// The pointwise functions that take more than one intermediate, as expressions.
//
// erf and gelu take the rational-exponential form of erf in float32 (Abramowitz and Stegun 7.1.26, absolute error
// 1.5e-7): what compiled programs reach (docs/contract.md: 84 GB/s) rules out one pass of ScalarE.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numbers>
#include <span>

#include "aten/rules/functions.h"
#include "aten/rules/rounding.h"

namespace trn::aten::rules {

namespace {

constexpr auto kSqrtHalf = static_cast<float>(0.5 * std::numbers::sqrt2);

struct ErrorFunction {
  Value complement;  // erfc(|x|)
  Value size;        // |x|
  Value gaussian;    // exp(-x^2)
};

ErrorFunction error_function(Expression& e, Value x, float scale = 1) {
  const Value size = abs(e, x, scale);
  const Value t = e.reciprocal(e.apply(Alu::multiply, size, 0.3275911F, Alu::add, 1));
  Value sum = e.multiply(t, 1.061405429F);
  for (const float coefficient : {-1.453152027F, 1.421413741F, -0.284496736F, 0.254829592F}) {
    sum = e.apply(Alu::add, sum, coefficient, Alu::multiply, t);
  }
  const Value gaussian = e.activation(Activation::exp, e.activation(Activation::square, size), -1);
  return {e.multiply(sum, gaussian), size, gaussian};
}

void erf(Expression& e) {
  const Value x = e.input(0);
  const Value size = e.apply(Alu::multiply, error_function(e, x).complement, -1, Alu::add, 1);
  e.output(0, e.multiply(size, e.activation(Activation::sign, x)));
}

// sign(x) (erfc(|x|) - 1) + 1
void erfc(Expression& e) {
  const Value x = e.input(0);
  const Value sign = e.activation(Activation::sign, x);
  e.output(0, e.apply(Alu::add, e.apply(Alu::subtract, error_function(e, x).complement, 1, Alu::multiply, sign), 1));
}

bool is_tanh(const Expression& e) {
  return e.args().string("approximate") == "tanh";
}

// max(x, 0) - |x| erfc(|x| / sqrt 2) / 2
void gelu(Expression& e) {
  const Value x = e.input(0);
  if (is_tanh(e)) {
    e.output(0, e.activation(Activation::gelu_apprx_tanh, x));
    return;
  }
  const ErrorFunction at = error_function(e, x, kSqrtHalf);
  const Value lost = e.apply(Alu::multiply, at.size, kSqrtHalf, Alu::multiply, at.complement);
  e.output(0, e.subtract(e.activation(Activation::relu, x), lost));
}

// (1 + tanh u) / 2 + x (1 - tanh^2 u) u' / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3)
Value gelu_tanh_slope(Expression& e, Value x) {
  constexpr auto kScale = static_cast<float>(std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
  constexpr float kCubic = 0.044715F;
  const Value square = e.activation(Activation::square, x);
  const Value u = e.multiply(e.apply(Alu::multiply, square, kCubic * kScale, Alu::add, kScale), x);
  const Value tanh = e.activation(Activation::tanh, u);
  const Value slope = e.multiply(e.apply(Alu::multiply, square, 1.5F * kCubic * kScale, Alu::add, 0.5F * kScale), x);
  const Value falls = e.apply(Alu::multiply, e.activation(Activation::square, tanh), -1, Alu::add, 1);
  return e.apply(Alu::add, e.apply(Alu::multiply, tanh, 0.5F, Alu::add, e.multiply(slope, falls)), 0.5F);
}

// The normal distribution's mass below x, and x times its density.
void gelu_backward(Expression& e) {
  const Value grad = e.input(0), x = e.input(1);
  if (is_tanh(e)) {
    e.output(0, e.multiply(gelu_tanh_slope(e, x), grad));
    return;
  }
  const ErrorFunction at = error_function(e, x, kSqrtHalf);
  const Value half = e.apply(Alu::multiply, at.complement, -0.5F, Alu::add, 0.5F);
  const Value mass = e.multiply(half, e.activation(Activation::sign, x));
  constexpr auto kDensity = static_cast<float>(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
  const Value moment = e.apply(Alu::multiply, at.gaussian, kDensity, Alu::multiply, x);
  e.output(0, e.multiply(e.apply(Alu::add, mass, 0.5F, Alu::add, moment), grad));
}

// ---- Other activations

void sigmoid_backward(Expression& e) {
  const Value grad = e.input(0), y = e.input(1);
  const Value rest = e.apply(Alu::multiply, y, -1, Alu::add, 1);
  e.output(0, e.multiply(e.multiply(rest, y), grad));
}

void tanh_backward(Expression& e) {
  const Value grad = e.input(0), y = e.input(1);
  const Value slope = e.apply(Alu::multiply, e.activation(Activation::square, y), -1, Alu::add, 1);
  e.output(0, e.multiply(slope, grad));
}

void silu_backward(Expression& e) {
  e.output(0, e.multiply(e.activation(Activation::silu_dx, e.input(1)), e.input(0)));
}

void threshold(Expression& e) {
  const Value x = e.input(0);
  const auto bound = e.argument("threshold").constant;
  e.output(0, e.select(e.apply(Alu::greater, x, bound), x, e.argument("value")));
}

void threshold_backward(Expression& e) {
  e.output(0, e.apply(Alu::greater, e.argument("self"), e.argument("threshold").constant, Alu::multiply,
                      e.argument("grad_output")));
}

void leaky_relu_backward(Expression& e) {
  const Value grad = e.input(0);
  const Value positive = e.apply(Alu::greater, e.input(1), 0);
  e.output(0, e.select(positive, grad, e.multiply(grad, e.argument("negative_slope"))));
}

void hardtanh_backward(Expression& e) {
  const Value grad = e.input(0), x = e.input(1);
  const Value above = e.apply(Alu::greater, x, e.argument("min_val"));
  e.output(0, e.multiply(e.apply(Alu::less, x, e.argument("max_val").constant, Alu::logical_and, above), grad));
}

void hardsigmoid_backward(Expression& e) {
  const Value grad = e.input(0), x = e.input(1);
  const Value above = e.apply(Alu::greater, x, -3);
  const Value inside = e.apply(Alu::less, x, 3, Alu::logical_and, above);
  e.output(0, e.apply(Alu::multiply, inside, 1.0F / 6, Alu::multiply, grad));
}

// 0 below -3, grad (x / 3 + 1 / 2) up to 3, grad from there on
void hardswish_backward(Expression& e) {
  const Value grad = e.input(0), x = e.input(1);
  const Value slope = e.apply(Alu::multiply, x, 1.0F / 3, Alu::add, 0.5F);
  const Value above = e.apply(Alu::greater, x, -3);
  const Value capped = e.select(e.apply(Alu::less, x, 3), slope, e.apply(Alu::multiply, above, 1));
  e.output(0, e.multiply(e.multiply(capped, above), grad));
}

// scale * (x > 0 ? x : alpha (exp(input_scale x) - 1))
void elu(Expression& e) {
  const Value x = e.input(0);
  const float alpha = e.argument("alpha", 1).constant, scale = e.argument("scale", 1).constant;
  const float input_scale = e.argument("input_scale", 1).constant;
  const Value low = e.activation(Activation::exp, e.apply(Alu::minimum, x, 0), input_scale);
  const Value negative = e.apply(Alu::subtract, low, 1, Alu::multiply, alpha * scale);
  e.output(0, e.select(e.apply(Alu::greater, x, 0), e.multiply(x, scale), negative));
}

void elu_backward(Expression& e) {
  const Value grad = e.argument("grad_output"), x = e.argument("self_or_result");
  const float alpha = e.argument("alpha", 1).constant, scale = e.argument("scale", 1).constant;
  const float input_scale = e.argument("input_scale", 1).constant;
  const Value below = e.apply(Alu::minimum, x, 0);
  const Value slope = e.args().boolean("is_result", false)
                          ? e.apply(Alu::add, below, alpha * scale, Alu::multiply, input_scale)
                          : e.multiply(e.activation(Activation::exp, below, input_scale), alpha * scale * input_scale);
  const Value positive = e.apply(Alu::greater, x, 0);
  e.output(0, e.multiply(e.select(positive, e.apply(Alu::multiply, positive, scale), slope), grad));
}

// log(1 + exp(beta x)) / beta, and x past the threshold
void softplus(Expression& e) {
  const Value x = e.input(0);
  const float beta = e.argument("beta", 1).constant, threshold = e.argument("threshold", 20).constant;
  const Value smooth = e.multiply(e.activation(Activation::softplus, x, beta), 1 / beta);
  e.output(0, e.select(e.apply(Alu::multiply, x, beta, Alu::greater, threshold), x, smooth));
}

void softplus_backward(Expression& e) {
  const Value grad = e.input(0), x = e.input(1);
  const float beta = e.argument("beta", 1).constant, threshold = e.argument("threshold", 20).constant;
  const Value linear = e.apply(Alu::multiply, x, beta, Alu::greater, threshold);
  e.output(0, e.multiply(e.select(linear, linear, e.activation(Activation::sigmoid, x, beta)), grad));
}

void softshrink(Expression& e) {
  const Value x = e.input(0);
  const float lambda = e.argument("lambd", 0.5).constant;
  const Value above = e.apply(Alu::subtract, x, lambda, Alu::maximum, 0);
  e.output(0, e.add(e.apply(Alu::add, x, lambda, Alu::minimum, 0), above));
}

void shrink_mask(Expression& e) {
  const bool backward = e.args().find("grad_output") >= 0 || e.args().find("grad_out") >= 0;
  const Value x = e.argument("self"), value = backward ? e.input(0) : x;
  e.output(0, e.apply(Alu::greater, abs(e, x), e.argument("lambd", 0.5).constant, Alu::multiply, value));
}

void prelu(Expression& e) {
  const Value x = e.argument("self");
  e.output(0, e.select(e.apply(Alu::greater, x, 0), x, e.multiply(x, e.argument("weight"))));
}

void prelu_backward(Expression& e) {
  const Value grad = e.argument("grad_output"), x = e.argument("self");
  const Value positive = e.apply(Alu::greater, x, 0);
  e.output(0, e.select(positive, grad, e.multiply(grad, e.argument("weight"))));
  e.output(1, e.multiply(e.apply(Alu::minimum, x, 0), grad));
}

// grad (tanh s + x sigmoid(x) (1 - tanh^2 s)) with s = log(1 + exp(x))
void mish_backward(Expression& e) {
  const Value grad = e.argument("grad_output"), x = e.argument("self");
  const Value tanh = e.activation(Activation::tanh, e.activation(Activation::softplus, x));
  const Value falls = e.apply(Alu::multiply, e.activation(Activation::square, tanh), -1, Alu::add, 1);
  const Value slope = e.multiply(e.activation(Activation::silu, x), falls);
  e.output(0, e.multiply(e.add(slope, tanh), grad));
}

// min(x, 0) - log(1 + exp(-|x|)), and that exponential
void log_sigmoid(Expression& e) {
  const Value x = e.input(0);
  const Value small = e.activation(Activation::exp, abs(e, x), -1);
  e.output(0, e.apply(Alu::minimum, x, 0, Alu::subtract, e.activation(Activation::log, small, 1, 1)));
  e.output(1, small);
}

// -log(1 + exp(-x)); its backward sigmoid(-x) grad. The buffer is the CPU's alone.
void log_sigmoid_backward(Expression& e) {
  e.output(0, e.multiply(e.activation(Activation::sigmoid, e.argument("self"), -1), e.argument("grad_output")));
}

// grad times what the forward drew; with nothing drawn, a leaky_relu of the mean slope.
void rrelu_backward(Expression& e) {
  const Value grad = e.argument("grad_output"), x = e.argument("self"), noise = e.argument("noise");
  const float lower = e.argument("lower", 0.125).constant, upper = e.argument("upper", 1.0 / 3).constant;
  const bool has_drawn = e.args().boolean("training", false) && upper - lower > 1e-6F;
  const Value slope = e.select(e.apply(Alu::greater, x, 0), Value(1), (lower + upper) / 2);
  e.output(0, e.multiply(has_drawn ? noise : slope, grad));
}

// ---- Arithmetic

void add_relu(Expression& e) {
  const Value scaled =
      e.apply(Alu::multiply, e.argument("other"), e.argument("alpha", 1).constant, Alu::add, e.argument("self"));
  e.output(0, e.activation(Activation::relu, scaled));
}

// self + value * (tensor1 alu tensor2)
void add_scaled(Expression& e, Alu alu) {
  const float value = e.argument({"value", "scalars"}, 1).constant;
  const Value scaled = e.apply(Alu::multiply, e.argument("tensor1"), value, alu, e.argument("tensor2"));
  e.output(0, e.add(e.argument("self"), scaled));
}

// From the nearer end, as PyTorch does.
void lerp(Expression& e) {
  const Value a = e.argument("self"), b = e.argument({"end", "tensors1"});
  const Value weight = e.argument({"weight", "weights"});
  const Value distance = e.subtract(b, a);
  if (!weight.is_constant()) {
    e.output(0, e.add(a, e.multiply(weight, distance)));
  } else if (std::abs(weight.constant) < 0.5F) {
    e.output(0, e.apply(Alu::multiply, distance, weight.constant, Alu::add, a));
  } else {
    e.output(0, e.apply(Alu::multiply, distance, weight.constant - 1, Alu::add, b));
  }
}

// other - alpha self
void rsub(Expression& e) {
  const float alpha = e.argument("alpha", 1).constant;
  const Value other = e.argument("other");
  if (other.is_constant()) {
    e.output(0, e.apply(Alu::multiply, e.argument("self"), -alpha, Alu::add, other.constant));
  } else {
    e.output(0, e.apply(Alu::multiply, e.argument("self"), -alpha, Alu::add, other));
  }
}

void floor_divide(Expression& e) {
  e.output(0, floor_quotient(e, e.argument("self"), e.argument("other")));
}

void divide(Expression& e) {
  const Value a = e.argument("self"), b = e.argument("other");
  const auto mode = e.args().string("rounding_mode");
  e.output(0, mode == "floor" ? floor_quotient(e, a, b) : mode == "trunc" ? trunc(e, e.divide(a, b)) : e.divide(a, b));
}

void fmod(Expression& e) {
  const Value a = e.argument("self"), b = e.argument("other");
  const Value size = b.is_constant() ? Value(std::abs(b.constant)) : abs(e, b);
  e.output(0, e.multiply(e.apply(Alu::modulo, abs(e, a), size), e.activation(Activation::sign, a)));
}

void frac(Expression& e) {
  e.output(0, e.subtract(e.input(0), trunc(e, e.input(0))));
}

void round_decimals(Expression& e) {
  const auto decimals = static_cast<float>(e.args().integer("decimals", 0));
  if (decimals == 0) {
    e.output(0, round(e, e.input(0)));
    return;
  }
  const float scale = std::pow(10.0F, std::abs(decimals));
  const float before = decimals > 0 ? scale : 1 / scale;
  e.output(0, e.multiply(round(e, e.multiply(e.input(0), before)), 1 / before));
}

void hypot(Expression& e) {
  const Value a = e.activation(Activation::square, e.argument("self"));
  const Value b = e.activation(Activation::square, e.argument("other"));
  e.output(0, e.activation(Activation::sqrt, e.add(a, b)));
}

// max(a, b) + log(base^-|a - b| + 1); equal operands may be infinite
void log_add_exp(Expression& e, float base) {
  const Value a = e.argument("self"), b = e.argument("other");
  const Value gap = e.where_not(e.apply(Alu::equal, a, b), abs(e, e.subtract(a, b)), 0);
  const Value log = e.activation(Activation::log, e.activation(Activation::exp, gap, -base), 1, 1);
  e.output(0, e.apply(Alu::multiply, log, 1 / base, Alu::add, e.apply(Alu::maximum, a, b)));
}

void logit(Expression& e) {
  Value x = e.input(0);
  if (e.args().is_given("eps")) {
    const float eps = e.argument("eps").constant;
    x = e.apply(Alu::maximum, x, eps, Alu::minimum, 1 - eps);
  }
  const Value rest = e.apply(Alu::multiply, x, -1, Alu::add, 1);
  e.output(0, e.activation(Activation::log, e.divide(x, rest)));
}

// grad / (x (1 - x)); outside of [eps, 1 - eps] 0, without eps NaN
void logit_backward(Expression& e) {
  const Value grad = e.argument("grad_output"), x = e.argument("self");
  const bool has_eps = e.args().is_given("eps") && e.argument("eps").constant >= 0;
  const float eps = has_eps ? e.argument("eps").constant : 0;
  const Value rest = e.apply(Alu::multiply, x, -1, Alu::add, 1);
  const Value slope = e.divide(grad, e.multiply(rest, x));
  const Value below = e.apply(Alu::less, x, eps);
  const Value outside = e.apply(Alu::greater, x, 1 - eps, Alu::logical_or, below);
  e.output(0, e.where_not(outside, slope, has_eps ? 0 : kNan));
}

// -x log x; 0 at 0, minus infinity below
void entropy(Expression& e) {
  const Value x = e.input(0);
  const Value inside = e.apply(Alu::multiply, e.activation(Activation::log, x), -1, Alu::multiply, x);
  const Value at_zero = e.where_not(e.apply(Alu::equal, x, 0), inside, 0);
  e.output(0, e.where_not(e.apply(Alu::less, x, 0), at_zero, -kInfinity));
}

void fextreme(Expression& e, Alu alu) {  // the other operand where one is NaN
  const Value a = e.argument("self"), b = e.argument("other");
  const Value both = e.select(e.apply(Alu::not_equal, a, a), b, e.apply(alu, a, b));
  e.output(0, e.select(e.apply(Alu::not_equal, b, b), a, both));
}

void nan_to_num(Expression& e) {
  const Value x = e.input(0);
  auto number = [&](std::string_view name, float fallback) {
    return e.args().is_given(name) ? e.argument(name).constant : fallback;
  };
  const double most = e.args().tensor("self").scalar_type() == at::kHalf ? 65504.0 : 0;
  const float largest = most > 0 ? static_cast<float>(most) : std::numeric_limits<float>::max();
  const float nan = number("nan", 0), high = number("posinf", largest), low = number("neginf", -largest);
  Value result = e.where_not(e.apply(Alu::not_equal, x, x), x, nan);
  result = e.where_not(e.apply(Alu::equal, x, kInfinity), result, high);
  e.output(0, e.where_not(e.apply(Alu::equal, x, -kInfinity), result, low));
}

// x log(y + shift); 0 where x is 0, unless y is NaN
void times_log(Expression& e, float shift) {
  const Value x = e.argument("self"), y = e.argument("other");
  const Value log = y.is_constant() ? Value(std::log(y.constant + shift)) : e.activation(Activation::log, y, 1, shift);
  const Value product = e.multiply(x, log);
  if (x.is_constant()) {
    e.output(0, product);
    return;
  }
  const Value masked = e.where_not(e.apply(Alu::equal, x, 0), product, 0);
  e.output(0, y.is_constant() ? masked : e.where_not(e.apply(Alu::not_equal, y, y), masked, kNan));
}

void is_finite(Expression& e) {
  e.output(0, e.apply(Alu::less, abs(e, e.input(0)), kInfinity));
}

void heaviside(Expression& e) {
  const Value x = e.argument("self"), at_zero = e.argument("values");
  const Value step = e.apply(Alu::greater, x, 0), is_zero = e.apply(Alu::equal, x, 0);
  e.output(0, at_zero.is_constant() ? e.where_not(is_zero, step, at_zero.constant) : e.select(is_zero, at_zero, step));
}

void dropout_backward(Expression& e) {
  e.output(0, e.apply(Alu::multiply, e.input(0), e.argument("scale", 1).constant, Alu::multiply, e.input(1)));
}

constexpr Function kFunctions[] = {
    {"_add_relu", add_relu},
    {"_masked_scale", dropout_backward},
    {"_prelu_kernel", prelu},
    {"_prelu_kernel_backward", prelu_backward},
    {"addcdiv", [](Expression& e) { add_scaled(e, Alu::divide); }},
    {"addcmul", [](Expression& e) { add_scaled(e, Alu::multiply); }},
    {"ceil", write_ceil},
    {"div", divide},
    {"elu", elu},
    {"elu_backward", elu_backward},
    {"erf", erf},
    {"erfc", erfc},
    {"floor", write_floor},
    {"floor_divide", floor_divide},
    {"fmax", [](Expression& e) { fextreme(e, Alu::maximum); }},
    {"fmin", [](Expression& e) { fextreme(e, Alu::minimum); }},
    {"fmod", fmod},
    {"frac", frac},
    {"gelu", gelu},
    {"gelu_backward", gelu_backward},
    {"hardshrink", shrink_mask},
    {"hardshrink_backward", shrink_mask},
    {"hardsigmoid_backward", hardsigmoid_backward},
    {"hardswish_backward", hardswish_backward},
    {"hardtanh_backward", hardtanh_backward},
    {"heaviside", heaviside},
    {"hypot", hypot},
    {"isfinite", is_finite},
    {"leaky_relu_backward", leaky_relu_backward},
    {"lerp", lerp},
    {"log_sigmoid_backward", log_sigmoid_backward},
    {"log_sigmoid_forward", log_sigmoid},
    {"logaddexp", [](Expression& e) { log_add_exp(e, 1); }},
    {"logaddexp2", [](Expression& e) { log_add_exp(e, std::numbers::ln2_v<float>); }},
    {"logit", logit},
    {"logit_backward", logit_backward},
    {"mish_backward", mish_backward},
    {"nan_to_num", nan_to_num},
    {"native_dropout_backward", dropout_backward},
    {"round", round_decimals},
    {"rrelu_with_noise_backward", rrelu_backward},
    {"rsub", rsub},
    {"sigmoid_backward", sigmoid_backward},
    {"silu_backward", silu_backward},
    {"softplus", softplus},
    {"softplus_backward", softplus_backward},
    {"softshrink", softshrink},
    {"softshrink_backward", shrink_mask},
    {"special_entr", entropy},
    {"special_xlog1py", [](Expression& e) { times_log(e, 1); }},
    {"tanh_backward", tanh_backward},
    {"threshold", threshold},
    {"threshold_backward", threshold_backward},
    {"trunc", write_trunc},
    {"xlogy", [](Expression& e) { times_log(e, 0); }},
};

const Function* function_named(std::string_view name) {
  for (const std::span<const Function> table :
       {std::span<const Function>(kFunctions), losses(), special_functions(), trigonometry()}) {
    const auto found = std::ranges::lower_bound(table, name, {}, &Function::name);
    if (found != table.end() && found->name == name) {
      return &*found;
    }
  }
  return nullptr;
}

}  // namespace

bool has_expression(std::string_view function) {
  return function_named(function) != nullptr;
}

void write_function(std::string_view function, Expression& e) {
  function_named(function)->write(e);
}

std::vector<Step> expression(const LaunchArguments& args, std::string_view function, std::size_t member) {
  const Function* const found = function_named(function);
  if (found == nullptr) {
    return {};
  }
  Expression e(args, member);
  found->write(e);
  return e.steps();
}

}  // namespace trn::aten::rules
