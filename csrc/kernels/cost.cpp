// Sums the counts, times and model FLOPs of a Spec's parts.
#include "kernels/cost.h"

namespace trn::kernels {

Cost cost(const target::Target& target, const Spec& spec) {
  Cost total;
  double longest = -1;
  std::int64_t most_flops = -1;
  for (const auto& part : spec) {
    const auto program = build(target, part);
    total.counts += program::count(program, target.core);
    const auto time = program::duration(program, target);
    total.seconds += time.seconds;
    for (int engine = 0; engine < program::kNumEngines; ++engine) {
      total.busy_seconds[engine] += time.busy_seconds[engine];
    }
    if (time.seconds > longest) {
      longest = time.seconds;
      total.bound_by = time.bound_by;
    }
    const auto model = model_flops(part);
    total.model.flops += model.flops;
    total.model.causal_flops += model.causal_flops;
    if (model.flops > most_flops) {
      most_flops = model.flops;
      total.model.dtype = model.dtype;
    }
  }
  return total;
}

}  // namespace trn::kernels
