// Count rules of recurrent layers.
#include "aten/rules/rnn.h"

#include <algorithm>
#include <utility>

#include "aten/rules/matmul.h"
#include "aten/rules/steps.h"

namespace trn::aten::rules {

namespace {

std::vector<Step> lstm_steps(bool biases) {
  // Four gates: add (with biases three times), three sigmoids and a tanh; c = f c + i g; h = o tanh(c).
  return steps_of(tt(Alu::add, biases ? 12 : 4), act(Activation::sigmoid), act(Activation::sigmoid),
                  act(Activation::sigmoid), act(Activation::tanh), tt(Alu::multiply, 2), tt(Alu::add),
                  act(Activation::tanh), tt(Alu::multiply));
}

std::vector<Step> lstm_backward_steps() {
  // Through tanh(c) and the four gates: per gate a derivative (two steps) and its products.
  return steps_of(act(Activation::tanh), act(Activation::square), ts(Alu::subtract), tt(Alu::multiply, 3), tt(Alu::add),
                  tt(Alu::multiply, 4), ts(Alu::subtract, 0, 4), tt(Alu::multiply, 8));
}

std::vector<Step> gru_steps(bool biases) {
  return steps_of(tt(Alu::add, biases ? 8 : 3), act(Activation::sigmoid), act(Activation::sigmoid), tt(Alu::multiply),
                  act(Activation::tanh), tt(Alu::subtract), tt(Alu::multiply), tt(Alu::add));
}

std::vector<Step> gru_backward_steps() {
  return steps_of(tt(Alu::subtract), tt(Alu::multiply, 10), ts(Alu::subtract, 0, 3), act(Activation::square),
                  tt(Alu::add));
}

struct Layer {
  std::int64_t rows = 0, batch = 0, steps = 0, in = 0, hidden = 0, gates = 0;
  Dtype type = Dtype::float32;
};

Layer layer_of(const LaunchArguments& args) {
  constexpr std::int64_t kLstm = 2, kGru = 3;
  const auto& input = args.tensor("input");
  Layer layer;
  layer.in = size(input, -1);
  layer.rows = layer.in == 0 ? 0 : numel(input) / layer.in;
  layer.steps = std::max<std::int64_t>(size(input, 0), 1);
  layer.batch = layer.rows / layer.steps;
  layer.hidden = args.integer("hidden_size", 1);
  const auto mode = args.integer("mode", kLstm);
  layer.gates = mode == kLstm ? 4 : mode == kGru ? 3 : 1;
  layer.type = dtype(input);
  return layer;
}

std::vector<Step> steps_of_mode(const Layer& layer, bool backward) {
  if (layer.gates == 4) {
    return backward ? lstm_backward_steps() : lstm_steps(true);
  }
  return backward ? gru_backward_steps() : gru_steps(true);
}

Spec pointwise_part(const Layer& layer, bool backward) {
  const auto states = layer.rows * layer.hidden;
  return stream(states, {dense(layer.type, states * layer.gates), dense(layer.type, states)},
                {dense(layer.type, states), dense(layer.type, states)}, steps_of_mode(layer, backward));
}

}  // namespace

Spec rnn_layer(const LaunchArguments& args) {
  const auto layer = layer_of(args);
  if (layer.rows == 0) {
    return {};
  }
  // All inputs in one product, then one product of the state per time step.
  auto input = matmul_shape(layer.type, layer.rows, layer.gates * layer.hidden, layer.in);
  input.b_k_major = false;
  if (args.boolean("has_biases", false)) {
    input.bias = {1, 1, layer.gates * layer.hidden};
  }
  Spec spec{input};
  auto state = matmul_shape(layer.type, layer.batch, layer.gates * layer.hidden, layer.hidden);
  state.b_k_major = false;
  state.batch = state.a_batch = layer.steps;
  spec.emplace_back(state);
  return concat(std::move(spec), pointwise_part(layer, false));
}

Spec rnn_layer_backward(const LaunchArguments& args) {
  const auto layer = layer_of(args);
  if (layer.rows == 0) {
    return {};
  }
  const auto gates = layer.gates * layer.hidden;
  auto spec = pointwise_part(layer, true);
  auto state = matmul_shape(layer.type, layer.batch, layer.hidden, gates);
  state.batch = state.a_batch = layer.steps;
  spec.emplace_back(state);
  spec.emplace_back(matmul_shape(layer.type, layer.rows, layer.in, gates));
  for (const auto width : {layer.in, layer.hidden}) {
    auto weight = matmul_shape(layer.type, gates, width, layer.rows);
    weight.a_k_major = true;
    spec.emplace_back(weight);
  }
  return spec;
}

}  // namespace trn::aten::rules
