// Count rules of operators over lists of tensors: foreach and fused optimizer steps.
#include "aten/rules/foreach_optimizer.h"

#include <algorithm>
#include <map>
#include <utility>

#include "aten/rules/lists.h"
#include "aten/rules/reduction.h"
#include "aten/rules/steps.h"

namespace trn::aten::rules {

Spec foreach (const LaunchArguments& args) {
  return by_kind(members(args), [&](std::size_t member) { return member_steps(args, member, false); });
}

Spec foreach_reduction(const LaunchArguments& args) {
  const auto function = function_of(args);
  const Fold fold = function == "max" ? Fold{Alu::maximum, {}} : norm_fold(args.number("ord", 2));
  // Tensors of one size are rows of one part, so that a model's few distinct sizes make a short Spec.
  std::map<std::pair<std::int64_t, Dtype>, std::vector<at::Tensor>> by_size;
  for (const auto& tensor : named(args, {"self"})) {
    by_size[{tensor.numel(), dtype(tensor)}].push_back(tensor);
  }
  const auto outputs = args.output_tensors();
  const Dtype out_dtype = outputs.empty() ? Dtype::float32 : dtype(outputs.front());
  Spec spec;
  for (const auto& [kind, tensors] : by_size) {
    const auto rows = static_cast<std::int64_t>(tensors.size());
    spec =
        concat(std::move(spec), reduce({rows, kind.first, false}, fold, aggregate(tensors), {dense(out_dtype, rows)}));
  }
  return spec;
}

Spec fused_optimizer(const LaunchArguments& args) {
  auto all = members(args);
  const bool scaled = is_strided(args.tensor("grad_scale"));
  if (scaled) {  // gradients are unscaled in place
    const auto gradients = args.tensors("grads");
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i].outputs.push_back(gradients[i]);
    }
  }
  return by_kind(all, [&](std::size_t member) {
    auto steps = member_steps(args, member, false);
    if (scaled) {
      Step unscaled = step(ts(Alu::divide));
      unscaled.a = Step::kInput + 1;
      unscaled.dst = Step::kOutput + static_cast<std::int64_t>(all[member].outputs.size()) - 1;
      steps.insert(steps.begin(), unscaled);
    }
    return steps;
  });
}

}  // namespace trn::aten::rules
