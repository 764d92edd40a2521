// Fused LSTM and GRU cells: everything between the gates' matrix products and the new state.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <tuple>

#include "aten/cpu_kernels/optional_tensor.h"

namespace trn::aten {

namespace {

using at::Tensor;

Tensor with_bias(const Tensor& gates, const OptionalTensor& bias) {
  return is_given(bias) ? gates + *bias : gates;
}

void check_cell(const char* where, const Tensor& input_gates, const Tensor& hidden_gates, const Tensor& state,
                std::int64_t num_gates) {
  TORCH_CHECK(input_gates.dim() == 2 && input_gates.sizes() == hidden_gates.sizes(), "[", where,
              "] gates are [batch, gates * hidden], the same for input and state; got ", input_gates.sizes(), " and ",
              hidden_gates.sizes(), ".");
  TORCH_CHECK(
      state.dim() == 2 && input_gates.size(0) == state.size(0) && input_gates.size(1) == num_gates * state.size(1), "[",
      where, "] the state is [batch, hidden] of ", num_gates, " gates; got state ", state.sizes(), " and gates ",
      input_gates.sizes(), ".");
}

// grad * y * (1 - y)
Tensor through_sigmoid(const Tensor& grad, const Tensor& y) {
  return grad * y * (1 - y);
}
// grad * (1 - y * y)
Tensor through_tanh(const Tensor& grad, const Tensor& y) {
  return grad * (1 - y * y);
}

// Workspace: [batch, 4 * hidden], the gates after their activations, for the backward.
std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& input_gates, const Tensor& hidden_gates, const Tensor& cx,
                                             const OptionalTensor& input_bias, const OptionalTensor& hidden_bias) {
  check_cell("_thnn_fused_lstm_cell", input_gates, hidden_gates, cx, 4);
  Tensor gates = with_bias(hidden_gates, hidden_bias) + with_bias(input_gates, input_bias);
  const auto chunks = gates.chunk(4, 1);
  Tensor in = chunks[0], forget = chunks[1], cell = chunks[2], out = chunks[3];
  in.sigmoid_();
  forget.sigmoid_();
  cell.tanh_();
  out.sigmoid_();
  Tensor cy = (forget * cx).add_(in * cell);
  Tensor hy = out * cy.tanh();
  return {hy, cy, gates};
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell_backward(const OptionalTensor& grad_hy, const OptionalTensor& grad_cy,
                                                      const Tensor& cx, const Tensor& cy, const Tensor& workspace,
                                                      bool has_bias) {
  if (!is_given(grad_hy) && !is_given(grad_cy)) {
    return {};
  }
  const auto chunks = workspace.chunk(4, 1);
  const Tensor &in = chunks[0], &forget = chunks[1], &cell = chunks[2], &out = chunks[3];
  const Tensor hidden = cy.tanh();
  Tensor grad_out, grad_cell_state;
  if (is_given(grad_hy)) {
    grad_out = through_sigmoid(*grad_hy * hidden, out);
    grad_cell_state = through_tanh(*grad_hy * out, hidden);
    if (is_given(grad_cy)) {
      grad_cell_state.add_(*grad_cy);
    }
  } else {
    grad_out = at::zeros_like(cy);
    grad_cell_state = *grad_cy;
  }
  Tensor grad_gates =
      at::cat({through_sigmoid(grad_cell_state * cell, in), through_sigmoid(grad_cell_state * cx, forget),
               through_tanh(grad_cell_state * in, cell), grad_out},
              1);
  Tensor grad_bias = has_bias ? grad_gates.sum(0, false) : Tensor();
  return {grad_gates, grad_cell_state * forget, grad_bias};
}

// Workspace: [batch, 5 * hidden], reset, update and new gate, the old state, the state's part of the new gate.
std::tuple<Tensor, Tensor> gru_cell(const Tensor& input_gates, const Tensor& hidden_gates, const Tensor& hx,
                                    const OptionalTensor& input_bias, const OptionalTensor& hidden_bias) {
  check_cell("_thnn_fused_gru_cell", input_gates, hidden_gates, hx, 3);
  const auto input = with_bias(input_gates, input_bias).chunk(3, 1);
  const auto hidden = with_bias(hidden_gates, hidden_bias).chunk(3, 1);
  const Tensor reset = (hidden[0] + input[0]).sigmoid_();
  const Tensor update = (hidden[1] + input[1]).sigmoid_();
  const Tensor fresh = (input[2] + hidden[2] * reset).tanh_();
  Tensor hy = (hx - fresh).mul_(update).add_(fresh);
  return {hy, at::cat({reset, update, fresh, hx, hidden[2]}, 1)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_cell_backward(const Tensor& grad_hy, const Tensor& workspace,
                                                                     bool has_bias) {
  const auto chunks = workspace.chunk(5, 1);
  const Tensor &reset = chunks[0], &update = chunks[1], &fresh = chunks[2], &hx = chunks[3], &hidden = chunks[4];
  const Tensor grad_update = through_sigmoid(grad_hy * (hx - fresh), update);
  const Tensor grad_fresh = through_tanh(grad_hy * (1 - update), fresh);
  const Tensor grad_reset = through_sigmoid(grad_fresh * hidden, reset);
  Tensor grad_input_gates = at::cat({grad_reset, grad_update, grad_fresh}, 1);
  Tensor grad_hidden_gates = at::cat({grad_reset, grad_update, grad_fresh * reset}, 1);
  Tensor grad_input_bias, grad_hidden_bias;
  if (has_bias) {
    grad_input_bias = grad_input_gates.sum(0, false);
    grad_hidden_bias = grad_hidden_gates.sum(0, false);
  }
  return {grad_input_gates, grad_hidden_gates, grad_hy * update, grad_input_bias, grad_hidden_bias};
}

TORCH_LIBRARY_FRAGMENT(trn, m) {
  m.def(
      "_thnn_fused_lstm_cell(Tensor input_gates, Tensor hidden_gates, Tensor cx, Tensor? input_bias=None, Tensor? "
      "hidden_bias=None) -> (Tensor, Tensor, Tensor)");
  m.def(
      "_thnn_fused_lstm_cell_backward_impl(Tensor? grad_hy, Tensor? grad_cy, Tensor cx, Tensor cy, Tensor workspace, "
      "bool has_bias) -> (Tensor, Tensor, Tensor)");
  m.def(
      "_thnn_fused_gru_cell(Tensor input_gates, Tensor hidden_gates, Tensor hx, Tensor? input_bias=None, Tensor? "
      "hidden_bias=None) -> (Tensor, Tensor)");
  m.def(
      "_thnn_fused_gru_cell_backward(Tensor grad_hy, Tensor workspace, bool has_bias) -> (Tensor, Tensor, Tensor, "
      "Tensor, Tensor)");
}

void register_cells(torch::Library& m) {
  m.impl("_thnn_fused_lstm_cell", TORCH_FN(lstm_cell));
  m.impl("_thnn_fused_lstm_cell_backward_impl", TORCH_FN(lstm_cell_backward));
  m.impl("_thnn_fused_gru_cell", TORCH_FN(gru_cell));
  m.impl("_thnn_fused_gru_cell_backward", TORCH_FN(gru_cell_backward));
}

TORCH_LIBRARY_IMPL(trn, CPU, m) {
  register_cells(m);
}
TORCH_LIBRARY_IMPL(trn, Meta, m) {
  register_cells(m);  // made of operators that have shape rules
}

}  // namespace

}  // namespace trn::aten
