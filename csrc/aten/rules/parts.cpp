#include "aten/rules/parts.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "aten/rules/broadcast.h"
#include "aten/rules/expression.h"
#include "aten/rules/reduction.h"

namespace trn::aten::rules {

namespace {

class Writer {
 public:
  explicit Writer(const LaunchArguments& args) : args_(args), e_(args) {}

  Expression& e() { return e_; }
  bool has(std::string_view name) const {
    const at::Tensor& tensor = args_.tensor(name);
    return tensor.defined() && is_device_tensor(tensor);
  }
  Value read(const at::Tensor& part) {
    stream_.inputs.push_back(part);
    return e_.input(static_cast<std::int64_t>(stream_.inputs.size()) - 1);
  }
  Value read(std::string_view name) { return read(args_.tensor(name)); }
  // The parts of an argument along `dim`.
  std::vector<Value> split(std::string_view name, std::int64_t count, std::int64_t dim = -1) {
    std::vector<Value> values;
    for (const at::Tensor& part : args_.tensor(name).chunk(count, dim)) {
      values.push_back(read(part));
    }
    return values;
  }
  void write(const at::Tensor& part, Value value) {
    if (part.defined()) {
      e_.output(static_cast<std::int64_t>(stream_.outputs.size()), value);
      stream_.outputs.push_back(part);
    }
  }
  void write(const at::Tensor& result, const std::vector<Value>& values, std::int64_t dim = -1) {
    if (result.defined()) {
      const auto into = result.chunk(static_cast<std::int64_t>(values.size()), dim);
      for (std::size_t i = 0; i < values.size(); ++i) {
        write(into[i], values[i]);
      }
    }
  }
  PartStream take() {
    stream_.steps = e_.steps();
    return std::move(stream_);
  }

  Value sigmoid(Value x) { return e_.activation(Activation::sigmoid, x); }
  Value tanh(Value x) { return e_.activation(Activation::tanh, x); }
  // grad y (1 - y)
  Value through_sigmoid(Value grad, Value y) {
    return e_.multiply(e_.multiply(e_.apply(Alu::multiply, y, -1, Alu::add, 1), y), grad);
  }
  // grad (1 - y^2)
  Value through_tanh(Value grad, Value y) {
    return e_.multiply(e_.apply(Alu::multiply, e_.activation(Activation::square, y), -1, Alu::add, 1), grad);
  }

 private:
  const LaunchArguments& args_;
  Expression e_;
  PartStream stream_;
};

// The gates' sums for one source: products, and the bias where there is one.
std::vector<Value> gates(Writer& w, std::string_view products, std::string_view bias, std::int64_t count) {
  auto sums = w.split(products, count);
  if (w.has(bias)) {
    const auto biases = w.split(bias, count);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      sums[i] = w.e().add(sums[i], biases[i]);
    }
  }
  return sums;
}

void lstm_cell(const LaunchArguments& args, Writer& w) {
  auto& e = w.e();
  const auto input = gates(w, "input_gates", "input_bias", 4), hidden = gates(w, "hidden_gates", "hidden_bias", 4);
  auto gate = [&](std::size_t i) { return e.add(hidden[i], input[i]); };
  const Value in = w.sigmoid(gate(0)), forget = w.sigmoid(gate(1)), cell = w.tanh(gate(2)), out = w.sigmoid(gate(3));
  const Value state = e.add(e.multiply(forget, w.read("cx")), e.multiply(in, cell));
  w.write(args.output(0), e.multiply(w.tanh(state), out));
  w.write(args.output(1), state);
  w.write(args.output(2), {in, forget, cell, out});
}

void lstm_cell_backward(const LaunchArguments& args, Writer& w) {
  auto& e = w.e();
  const auto gate = w.split("workspace", 4);
  const Value in = gate[0], forget = gate[1], cell = gate[2], out = gate[3];
  Value grad_out = 0, grad_state = 0;
  if (w.has("grad_hy")) {
    const Value grad = w.read("grad_hy"), hidden = w.tanh(w.read("cy"));
    grad_out = w.through_sigmoid(e.multiply(grad, hidden), out);
    grad_state = w.through_tanh(e.multiply(grad, out), hidden);
    grad_state = w.has("grad_cy") ? e.add(grad_state, w.read("grad_cy")) : grad_state;
  } else {
    grad_state = w.read("grad_cy");
  }
  w.write(args.output(0), {w.through_sigmoid(e.multiply(grad_state, cell), in),
                           w.through_sigmoid(e.multiply(grad_state, w.read("cx")), forget),
                           w.through_tanh(e.multiply(grad_state, in), cell), grad_out});
  w.write(args.output(1), e.multiply(grad_state, forget));
}

// The results' workspace: reset, update and new gate, the old state, the state's part of the new gate.
void gru_cell(const LaunchArguments& args, Writer& w) {
  auto& e = w.e();
  const auto input = gates(w, "input_gates", "input_bias", 3), hidden = gates(w, "hidden_gates", "hidden_bias", 3);
  const Value reset = w.sigmoid(e.add(hidden[0], input[0])), update = w.sigmoid(e.add(hidden[1], input[1]));
  const Value fresh = w.tanh(e.add(e.multiply(hidden[2], reset), input[2])), old = w.read("hx");
  w.write(args.output(0), e.add(e.multiply(e.subtract(old, fresh), update), fresh));
  w.write(args.output(1), {reset, update, fresh, old, hidden[2]});
}

void gru_cell_backward(const LaunchArguments& args, Writer& w) {
  auto& e = w.e();
  const auto saved = w.split("workspace", 5);
  const Value reset = saved[0], update = saved[1], fresh = saved[2], old = saved[3], hidden = saved[4];
  const Value grad = w.read("grad_hy");
  const Value grad_update = w.through_sigmoid(e.multiply(e.subtract(old, fresh), grad), update);
  const Value kept = e.apply(Alu::multiply, update, -1, Alu::add, 1);
  const Value grad_fresh = w.through_tanh(e.multiply(kept, grad), fresh);
  const Value grad_reset = w.through_sigmoid(e.multiply(grad_fresh, hidden), reset);
  w.write(args.output(0), {grad_reset, grad_update, grad_fresh});
  w.write(args.output(1), {grad_reset, grad_update, e.multiply(grad_fresh, reset)});
  w.write(args.output(2), e.multiply(grad, update));
}

void glu(const LaunchArguments& args, Writer& w) {
  const auto halves = w.split("self", 2, args.integer("dim", -1));
  w.write(args.output(), w.e().multiply(w.sigmoid(halves[1]), halves[0]));
}

void glu_backward(const LaunchArguments& args, Writer& w) {
  auto& e = w.e();
  const std::int64_t dim = args.integer("dim", -1);
  const auto halves = w.split("self", 2, dim);
  const Value gate = w.sigmoid(halves[1]), grad = w.read("grad_output");
  const Value grad_gate = w.through_sigmoid(e.multiply(grad, halves[0]), gate);
  w.write(args.output(), {e.multiply(gate, grad), grad_gate}, dim);
}

// The directional derivative of a b' with b' = sigmoid(b).
void glu_jvp(const LaunchArguments& args, Writer& w) {
  auto& e = w.e();
  const std::int64_t dim = args.integer("dim", -1);
  const Value gate = w.sigmoid(w.split("x", 2, dim)[1]), y = w.read("glu");
  const auto change = w.split("dx", 2, dim);
  const Value open = e.apply(Alu::multiply, gate, -1, Alu::add, 1);
  w.write(args.output(), e.add(e.multiply(change[0], gate), e.multiply(e.multiply(open, y), change[1])));
}

void glu_backward_jvp(const LaunchArguments& args, Writer& w) {
  auto& e = w.e();
  const std::int64_t dim = args.integer("dim", -1);
  const auto x = w.split("x", 2, dim), dx = w.split("dx", 2, dim);
  const Value grad = w.split("grad_x", 2, dim)[0], upstream = w.read("grad_glu"), change = w.read("dgrad_glu");
  const Value gate = w.sigmoid(x[1]), open = e.apply(Alu::multiply, gate, -1, Alu::add, 1);
  const Value opening = e.multiply(open, dx[1]);
  const Value first = e.add(e.multiply(change, gate), e.multiply(opening, e.multiply(upstream, gate)));
  const Value bend = e.subtract(e.multiply(dx[0], open), e.multiply(e.multiply(x[0], gate), opening));
  const Value second = e.add(e.multiply(e.multiply(x[0], open), first), e.multiply(bend, grad));
  w.write(args.output(), {first, second}, dim);
}

// [batch, tokens, 3 heads depth] plus a bias, as three [batch, heads, tokens, depth]; q is scaled by 1 / sqrt(depth).
void rescale_qkv(const LaunchArguments& args, Writer& w) {
  const at::Tensor &qkv = args.tensor("qkv"), &bias = args.tensor("qkv_bias");
  const at::Tensor& q = args.output();
  if (!q.defined() || q.dim() != 4 || qkv.dim() != 3 || !qkv.is_contiguous() || !bias.is_contiguous()) {
    return;
  }
  const std::int64_t heads = q.size(1), depth = q.size(3);
  const at::Tensor all = qkv.view({qkv.size(0), qkv.size(1), 3, heads, depth}),
                   biases = bias.view({3, heads, 1, depth});
  for (int i = 0; i < 3; ++i) {
    const Value sum = w.e().add(w.read(all.select(2, i).transpose(1, 2)), w.read(biases.select(0, i)));
    w.write(args.output(i), i == 0 ? w.e().multiply(sum, 1 / std::sqrt(static_cast<float>(depth))) : sum);
  }
}

struct Row {
  std::string_view name;
  void (*write)(const LaunchArguments&, Writer&);
};

constexpr Row kRows[] = {
    {"_thnn_fused_gru_cell", gru_cell},
    {"_thnn_fused_gru_cell_backward", gru_cell_backward},
    {"_thnn_fused_lstm_cell", lstm_cell},
    {"_thnn_fused_lstm_cell_backward_impl", lstm_cell_backward},
    {"_transform_bias_rescale_qkv", rescale_qkv},
    {"glu", glu},
    {"glu_backward", glu_backward},
    {"glu_backward_jvp", glu_backward_jvp},
    {"glu_jvp", glu_jvp},
};

const Row* row_named(std::string_view name) {
  const auto* const found = std::ranges::lower_bound(kRows, name, {}, &Row::name);
  return found != std::end(kRows) && found->name == name ? found : nullptr;
}

// Rows are moved whole, all parts at once, and engines pick their part on the chip: its bytes move once, densely.
std::vector<Access> dense_accesses(Tensors parts) {
  std::vector<Access> result;
  for (const at::Tensor& part : parts) {
    result.push_back(dense(dtype(part), part.numel()));
  }
  return result;
}

}  // namespace

bool streams_parts(std::string_view operator_name) {
  return row_named(operator_name) != nullptr;
}

PartStream part_stream(const LaunchArguments& args) {
  Writer writer(args);
  row_named(args.base_name())->write(args, writer);
  return writer.take();
}

std::vector<BiasGradient> bias_gradients(const LaunchArguments& args) {
  std::vector<BiasGradient> sums;
  if (args.base_name() == "_thnn_fused_lstm_cell_backward_impl") {
    sums = {{args.output(0), args.output(2)}};
  } else if (args.base_name() == "_thnn_fused_gru_cell_backward") {
    sums = {{args.output(0), args.output(3)}, {args.output(1), args.output(4)}};
  }
  std::erase_if(sums, [](const BiasGradient& sum) { return !sum.bias.defined(); });
  return sums;
}

Spec parts(const LaunchArguments& args) {
  auto streamed = part_stream(args);
  if (streamed.outputs.empty()) {  // parts of nested tensors are not told apart
    return stream(args, std::move(streamed.steps));
  }
  Spec spec = stream(largest_numel(streamed.outputs), dense_accesses(streamed.inputs), dense_accesses(streamed.outputs),
                     std::move(streamed.steps));
  if (spec.empty()) {
    return spec;
  }
  set_axes(std::get<kernels::PointwiseShape>(spec.front()), streamed.inputs, streamed.outputs);
  for (const BiasGradient& sum : bias_gradients(args)) {
    const std::int64_t axis = 0;
    spec = concat(std::move(spec),
                  reduce(rows_of(sum.gates, {&axis, 1}), Fold{}, accesses({&sum.gates, 1}), accesses({&sum.bias, 1})));
  }
  return spec;
}

}  // namespace trn::aten::rules
