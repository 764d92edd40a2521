// Losses of an element, and their backward.
#include <algorithm>
#include <limits>

#include "aten/rules/common.h"
#include "aten/rules/functions.h"

namespace trn::aten::rules {

namespace {

Value distance(Expression& e) {
  return e.activation(Activation::abs, e.subtract(e.argument("self"), e.argument("target")));
}

void mse_loss(Expression& e) {
  e.output(0, e.activation(Activation::square, e.subtract(e.argument("self"), e.argument("target"))));
}

// m (d - m / 2) / scale with m the distance d up to a bound
void bounded_square(Expression& e, float bound, float scale) {
  const Value size = distance(e);
  const Value inner = e.apply(Alu::minimum, size, bound);
  const Value rest = e.apply(Alu::multiply, inner, -0.5F, Alu::add, size);
  e.output(0, e.apply(Alu::multiply, inner, 1 / scale, Alu::multiply, rest));
}

void huber_loss(Expression& e) {
  bounded_square(e, e.argument("delta", 1).constant, 1);
}

void smooth_l1_loss(Expression& e) {
  const float beta = e.argument("beta", 1).constant;
  if (beta == 0) {
    e.output(0, distance(e));
  } else {
    bounded_square(e, beta, beta);
  }
}

// -w (t log x + (1 - t) log(1 - x)), logarithms from -100 on
void binary_cross_entropy(Expression& e) {
  const Value x = e.argument("self"), target = e.argument("target");
  const Value yes = e.apply(Alu::maximum, e.activation(Activation::log, x), -100);
  const Value no = e.apply(Alu::maximum, e.activation(Activation::log, x, -1, 1), -100);
  const Value loss = e.multiply(e.add(e.multiply(e.subtract(yes, no), target), no), -1);
  e.output(0, is_strided(e.args().tensor("weight")) ? e.multiply(loss, e.argument("weight")) : loss);
}

float loss_scale(const Expression& e) {
  const bool is_mean = e.args().integer("reduction", 1) == 1;
  return is_mean ? 1.0F / static_cast<float>(std::max<std::int64_t>(e.args().tensor("self").numel(), 1)) : 1;
}

void mse_loss_backward(Expression& e) {
  const Value difference = e.subtract(e.argument("self"), e.argument("target"));
  e.output(0, e.apply(Alu::multiply, difference, 2 * loss_scale(e), Alu::multiply, e.argument("grad_output")));
}

void smooth_l1_loss_backward(Expression& e) {
  const float beta = e.argument("beta", e.argument("delta", 1).constant).constant;
  const bool is_huber = e.args().find("delta") >= 0;
  const Value difference = e.subtract(e.argument("self"), e.argument("target"));
  const float slope = is_huber ? 1 : 1 / std::max(beta, std::numeric_limits<float>::min());
  const float limit = is_huber ? beta : 1;
  const Value scaled = beta == 0 && !is_huber ? e.activation(Activation::sign, difference)
                                              : e.apply(Alu::multiply, difference, slope, Alu::minimum, limit);
  const Value clipped = e.apply(Alu::maximum, scaled, -limit, Alu::multiply, loss_scale(e));
  e.output(0, e.multiply(clipped, e.argument("grad_output")));
}

// grad w (x - t) / max(x (1 - x), 1e-12)
void binary_cross_entropy_backward(Expression& e) {
  const Value x = e.argument("self");
  const Value rest = e.apply(Alu::multiply, x, -1, Alu::add, 1);
  const Value spread = e.apply(Alu::maximum, e.multiply(rest, x), 1e-12F);
  const Value slope = e.divide(e.subtract(x, e.argument("target")), spread);
  const Value grad = e.apply(Alu::multiply, slope, loss_scale(e), Alu::multiply, e.argument("grad_output"));
  e.output(0, is_strided(e.args().tensor("weight")) ? e.multiply(grad, e.argument("weight")) : grad);
}

// -grad t sigmoid(-t x)
void soft_margin_loss_backward(Expression& e) {
  const Value target = e.argument("target");
  const Value slope = e.activation(Activation::sigmoid, e.multiply(target, e.argument("self")), -1);
  e.output(0,
           e.multiply(e.apply(Alu::multiply, slope, -loss_scale(e), Alu::multiply, target), e.argument("grad_output")));
}

constexpr Function kLosses[] = {
    {"binary_cross_entropy", binary_cross_entropy},
    {"binary_cross_entropy_backward", binary_cross_entropy_backward},
    {"huber_loss", huber_loss},
    {"huber_loss_backward", smooth_l1_loss_backward},
    {"mse_loss", mse_loss},
    {"mse_loss_backward", mse_loss_backward},
    {"smooth_l1_loss", smooth_l1_loss},
    {"smooth_l1_loss_backward", smooth_l1_loss_backward},
    {"soft_margin_loss_backward", soft_margin_loss_backward},
};

}  // namespace

std::span<const Function> losses() {
  return kLosses;
}

}  // namespace trn::aten::rules
