// Margin losses: every class of a row against the row's target, or against each of several.
#include <algorithm>

#include "aten/rules/composition.h"

namespace trn::aten::rules {

namespace {

using Values = Composition::Values;

// [rows, classes], and the targets as [rows, 1] or [rows, classes].
struct Rows2d {
  at::Tensor x, target;
  std::int64_t rows, classes;
};

Rows2d rows_of(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const std::int64_t classes = self.dim() == 0 ? 1 : self.size(-1), rows = self.numel() / classes;
  return {c.flat(self).view({rows, classes}), c.flat(c.tensor("target")).view({rows, -1}), rows, classes};
}

// Of each row an element, or several, by their places in it.
at::Tensor picked(Composition& c, const at::Tensor& table, const at::Tensor& index) {
  const at::Tensor found = c.temporary(index.sizes(), table.scalar_type());
  c.gather_elements(table.unsqueeze(-1), index, found);
  return found;
}

void add_at(Composition& c, const at::Tensor& table, const at::Tensor& index, const at::Tensor& values) {
  c.scatter_add_elements(table.unsqueeze(-1), index, values);
}

bool is_mean(const Composition& c) {
  return c.args().integer("reduction", 1) == 1;
}

// What an element of the loss is divided by.
float divisor_of(const Composition& c, const Rows2d& all) {
  return static_cast<float>(all.classes * (is_mean(c) ? all.rows : 1));
}

// [rows, n] to a loss for each row, or one.
void finish(Composition& c, const at::Tensor& losses, float divisor) {
  const at::Tensor& out = c.args().output(0);
  const std::int64_t last = -1;
  const bool is_each = c.args().integer("reduction", 1) == 0;
  c.reduce({losses}, out, {&last, is_each ? std::size_t{1} : std::size_t{0}},
           {Alu::add, {}, steps_of(ts(Alu::multiply, 1 / divisor))});
}

// The gradient of each row's loss, or of their sum, for [rows, ...].
at::Tensor upstream(const Composition& c, std::int64_t rank) {
  const at::Tensor grad = c.tensor("grad_output");
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(rank), 1);
  sizes.front() = grad.numel();
  return grad.view(sizes);
}

// ---- One target for each row

struct Margins {
  Rows2d all;
  at::Tensor at_target, weight, classes;
};

Margins margins_of(Composition& c) {
  Margins m{rows_of(c), {}, c.tensor("weight"), {}};
  m.at_target = picked(c, m.all.x, m.all.target);
  m.classes = c.iota({m.all.classes});
  if (m.weight.defined()) {
    const at::Tensor own = c.temporary({m.all.rows, 1}, m.weight.scalar_type());
    c.gather(m.weight.view({-1, 1}), m.all.target.view({-1}), own);
    m.weight = own;
  }
  return m;
}

Stack operands(const Margins& m) {
  return {m.all.x, m.at_target, m.all.target, m.classes, m.weight};
}

// margin - x[target] + x; nothing at the target itself.
Value shortfall(const Composition& c, Expression& e, const Values& v) {
  const auto margin = static_cast<float>(c.args().number("margin", 1));
  const Value gap = e.apply(Alu::maximum, e.add(e.subtract(v[0], v[1]), margin), 0);
  return e.where_not(e.apply(Alu::equal, v[2], v[3]), gap, 0);
}

void multi_margin(Composition& c) {
  if (c.tensor("self").numel() == 0) {
    c.fill(c.args().output(), 0);
    return;
  }
  const Margins m = margins_of(c);
  const at::Tensor losses = c.temporary({m.all.rows, m.all.classes});
  c.map(operands(m), {losses}, [&](Expression& e, const Values& v) {
    const Value gap = shortfall(c, e, v);
    const Value loss = c.args().number("p", 1) == 2 ? e.activation(Activation::square, gap) : gap;
    e.output(0, m.weight.defined() ? e.multiply(loss, v[4]) : e.copy(loss));
  });
  finish(c, losses, divisor_of(c, m.all));
}

// What the other classes take, the target gives.
void multi_margin_backward(Composition& c) {
  const at::Tensor& out = c.args().output();
  if (out.numel() == 0) {
    return;
  }
  const Margins m = margins_of(c);
  const at::Tensor taken = c.temporary({m.all.rows, m.all.classes}), given = c.temporary({m.all.rows, 1});
  Stack inputs = operands(m);
  inputs.push_back(upstream(c, 2));
  c.map(inputs, {taken}, [&](Expression& e, const Values& v) {
    const Value gap = shortfall(c, e, v);
    const float scale = 1 / divisor_of(c, m.all);
    const Value slope =
        c.args().number("p", 1) == 2 ? e.multiply(gap, 2 * scale) : e.apply(Alu::greater, gap, 0, Alu::multiply, scale);
    const Value weighed = m.weight.defined() ? e.multiply(slope, v[4]) : slope;
    e.output(0, e.multiply(weighed, v[5]));
  });
  const std::int64_t last = -1;
  c.reduce({taken}, given, {&last, 1}, {});
  c.map({taken, given, m.all.target, m.classes}, {out.view({m.all.rows, m.all.classes})},
        [](Expression& e, const Values& v) {
          e.output(0, e.select(e.apply(Alu::equal, v[2], v[3]), e.multiply(v[1], -1), v[0]));
        });
}

// ---- Several targets for each row, up to the first that is negative

struct Targets {
  at::Tensor index, counts;  // [rows, classes]: a place, and whether it counts
};

Targets targets_of(Composition& c, const Rows2d& all) {
  const Targets targets{c.temporary(all.target.sizes(), at::kLong), c.temporary(all.target.sizes())};
  c.map({all.target}, {targets.index, targets.counts}, [](Expression& e, const Values& v) {
    e.output(0, e.apply(Alu::maximum, v[0], 0));
    e.output(1, e.apply(Alu::greater_equal, v[0], 0));
  });
  c.scan({targets.counts}, targets.counts, Alu::minimum);
  return targets;
}

// Each target against each class that is none: [rows, targets, classes].
struct Contest {
  Stack inputs;
  std::vector<std::int64_t> sizes;
};

constexpr std::int64_t kMostPairs = std::int64_t{1} << 26;

Contest contest_of(Composition& c, const Rows2d& all, const Targets& targets, const at::Tensor& is_target) {
  Contest contest;
  if (all.rows * all.classes * all.classes > kMostPairs) {
    c.only_counts();
  }
  const at::Tensor at_target = picked(c, all.x, targets.index);
  contest.inputs = {all.x.unsqueeze(1), at_target.unsqueeze(2), targets.counts.unsqueeze(2),
                    is_target.view({all.rows, 1, all.classes})};
  contest.sizes = {all.rows, all.classes, all.classes};
  return contest;
}

// 1 - x[target] + x of those that meet, or 0.
Value meeting(Expression& e, const Values& v) {
  const Value gap = e.apply(Alu::maximum, e.add(e.subtract(v[0], v[1]), 1), 0);
  return e.where_not(v[3], e.multiply(gap, v[2]), 0);
}

void multilabel_margin(Composition& c) {
  const at::Tensor& is_target = c.args().output(1);
  if (c.tensor("self").numel() == 0) {
    c.fill(c.args().output(), 0);
    return;
  }
  const Rows2d all = rows_of(c);
  const Targets targets = targets_of(c, all);
  const at::Tensor marks = c.filled({all.rows, all.classes}, 0);
  add_at(c, marks, targets.index, targets.counts);
  c.map({marks}, {is_target.view(marks.sizes())},
        [](Expression& e, const Values& v) { e.output(0, e.apply(Alu::minimum, v[0], 1)); });
  const Contest contest = contest_of(c, all, targets, is_target);
  const at::Tensor losses = c.temporary(contest.sizes);
  c.map(contest.inputs, {losses}, [](Expression& e, const Values& v) { e.output(0, meeting(e, v)); });
  finish(c, losses.view({all.rows, -1}), divisor_of(c, all));
}

void multilabel_margin_backward(Composition& c) {
  const at::Tensor& out = c.args().output();
  if (out.numel() == 0) {
    return;
  }
  const Rows2d all = rows_of(c);
  const Targets targets = targets_of(c, all);
  Contest contest = contest_of(c, all, targets, c.tensor("is_target"));
  const at::Tensor taken = c.temporary(contest.sizes);
  contest.inputs.push_back(upstream(c, 3));
  c.map(contest.inputs, {taken}, [&](Expression& e, const Values& v) {
    e.output(0, e.multiply(e.apply(Alu::greater, meeting(e, v), 0, Alu::multiply, 1 / divisor_of(c, all)), v[4]));
  });
  const at::Tensor to_classes = c.temporary({all.rows, all.classes}), from_targets = c.temporary(to_classes.sizes());
  const std::int64_t over_targets = 1, over_classes = 2;
  c.reduce({taken}, to_classes, {&over_targets, 1}, {});
  c.reduce({taken}, from_targets, {&over_classes, 1}, {Alu::add, {}, steps_of(ts(Alu::multiply, -1))});
  add_at(c, to_classes, targets.index, from_targets);
  c.copy(to_classes, out.view(to_classes.sizes()));
}

constexpr Composed kMargins[] = {
    {"multi_margin_loss", multi_margin},
    {"multi_margin_loss_backward", multi_margin_backward},
    {"multilabel_margin_loss_backward", multilabel_margin_backward},
    {"multilabel_margin_loss_forward", multilabel_margin},
};

}  // namespace

std::span<const Composed> composed_margins() {
  return kMargins;
}

}  // namespace trn::aten::rules
