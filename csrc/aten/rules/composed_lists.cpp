// Gradient scaling: every gradient of a list is unscaled and looked at, and the scale follows what was found.

#include "aten/rules/composition.h"
#include "aten/rules/lists.h"

namespace trn::aten::rules {

namespace {

using Values = Composition::Values;

// found_inf = max(found_inf, any element that is not finite); each element times inv_scale.
void unscale(Composition& c) {
  std::vector<Member> members;
  for (const at::Tensor& tensor : named(c.args(), {"self"})) {
    if (tensor.numel() > 0) {
      members.push_back({{tensor}, {tensor}});
    }
  }
  if (members.empty()) {
    return;
  }
  const at::Tensor scale = c.tensor("inv_scale"), found = c.tensor("found_inf");
  const at::Tensor flags = c.temporary({static_cast<std::int64_t>(members.size())}), any = c.temporary({1});
  std::int64_t place = 0;
  for (const auto& kind : kinds_of(members)) {
    Stack tensors;
    for (const std::size_t member : kind) {
      tensors.push_back(members[member].outputs.front());
    }
    const auto count = static_cast<std::int64_t>(kind.size());
    const std::int64_t each = tensors.front().numel();
    const Access all = repeated(access_of(tensors.front()), count, false);
    const at::Tensor flag = flags.narrow(0, place, count);
    Expression is_not_finite(c.args(), {&flag, 1});
    const Value x = is_not_finite.input(0);
    is_not_finite.output(0, is_not_finite.apply(Alu::not_equal, is_not_finite.subtract(x, x), 0));
    const auto looked = reduce({count, each, false}, {Alu::maximum, is_not_finite.steps()}, {all}, {access_of(flag)});
    c.add(looked.front(), {tensors}, {{flag}});
    Expression unscaled(c.args(), tensors);
    unscaled.output(0, unscaled.multiply(unscaled.input(0), unscaled.input(1)));
    const auto streamed = stream(count * each, {all, access_of(scale)}, {all}, unscaled.steps(), count);
    c.add(streamed.front(), {tensors, {scale}}, {tensors});
    place += count;
  }
  c.reduce({flags}, any, {}, {Alu::maximum});
  c.map({found, any}, {found}, [](Expression& e, const Values& v) { e.output(0, e.apply(Alu::maximum, v[0], v[1])); });
}

// Less after an infinity, more after growth_interval steps without one; never infinite.
void update_scale(Composition& c) {
  const auto grows = static_cast<float>(c.args().number("scale_growth_factor", 2));
  const auto shrinks = static_cast<float>(c.args().number("scale_backoff_factor", 0.5));
  const auto interval = static_cast<float>(c.args().integer("growth_interval", 1));
  const at::Tensor scale = c.tensor("self"), tracker = c.tensor("growth_tracker");
  c.map({scale, tracker, c.tensor("found_inf")}, {scale, tracker}, [&](Expression& e, const Values& v) {
    const Value steps = e.add(v[1], 1), is_due = e.apply(Alu::equal, steps, interval);
    const Value grown = e.multiply(v[0], grows);
    const Value is_finite = e.apply(Alu::less, e.activation(Activation::abs, grown), kInfinity);
    const Value larger = e.select(e.multiply(is_due, is_finite), grown, v[0]);
    e.output(0, e.select(v[2], e.multiply(v[0], shrinks), larger));
    e.output(1, e.where_not(e.apply(Alu::logical_or, v[2], is_due), steps, 0));
  });
}

constexpr Composed kLists[] = {
    {"_amp_foreach_non_finite_check_and_unscale", unscale},
    {"_amp_update_scale", update_scale},
};

}  // namespace

std::span<const Composed> composed_lists() {
  return kLists;
}

}  // namespace trn::aten::rules
