// Functions of random numbers that are only compared: the generator says which elements pass, in its own sequence.
#include "aten/rules/composition.h"

namespace trn::aten::rules {

namespace {

using Values = Composition::Values;

// Kept elements are scaled; the mask is a result too.
void dropout(Composition& c) {
  const at::Tensor input = c.tensor("input");
  const at::Tensor &out = c.args().output(0), &mask = c.args().output(1);
  const auto kept = static_cast<float>(1 - c.args().number("p", 0.5));
  const bool draws = !c.args().is_given("train") || c.args().boolean("train", true);
  c.map_drawn({input}, {out, mask}, draws ? mask : at::Tensor(), [&](Expression& e, const Values& v) {
    const Value passes = draws ? e.apply(Alu::less, e.draw(), kept) : Value(1);
    e.output(0, draws ? e.apply(Alu::multiply, v[0], kept == 0 ? 0 : 1 / kept, Alu::multiply, passes) : e.copy(v[0]));
    e.output(1, passes);
  });
}

// 1 with a probability for each element, or for all.
void bernoulli(Composition& c) {
  const at::Tensor& out = c.args().output();
  const at::Tensor given = c.tensor("p");
  const bool has_number = !given.defined() && c.args().find("p") >= 0;
  const auto chance = static_cast<float>(c.args().number("p", 0.5));
  const at::Tensor chances = given.defined() ? given : has_number ? at::Tensor() : c.tensor("self");
  c.map_drawn({chances}, {out}, out, [&](Expression& e, const Values& v) {
    e.output(0, e.apply(Alu::less, e.draw(), has_number ? Value(chance) : v[0]));
  });
}

constexpr Composed kDraws[] = {{"bernoulli", bernoulli}, {"native_dropout", dropout}};

}  // namespace

std::span<const Composed> composed_draws() {
  return kDraws;
}

}  // namespace trn::aten::rules
