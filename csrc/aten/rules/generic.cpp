// The count rule of operators that no family covers.
#include "aten/rules/generic.h"

namespace trn::aten::rules {

Spec generic(const LaunchArguments& args) {
  const auto inputs = args.input_tensors();
  const auto outputs = args.output_tensors();
  if (largest_numel(inputs) == 0 && largest_numel(outputs) == 0) {
    return {};
  }
  return {kernels::GenericShape{accesses(inputs), accesses(outputs)}};
}

}  // namespace trn::aten::rules
