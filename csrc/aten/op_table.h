// THE operator table: family, engines, count rule of every operator, by its ATen base name.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "aten/launch_arguments.h"

namespace trn::aten {

struct OpRow {
  std::string_view name;     // base name without overload and without the in-place underscore: "add", "_foreach_add"
  std::string_view family;   // one of kernels::kFamilyNames, or "host": a documented CPU fallback of TorchNeuron
  std::string_view engines;  // "TensorE", "VectorE+ScalarE", ...
  CountRule rule;
};

std::span<const OpRow> op_table();  // sorted by name; duplicates fail the build

// The row of an operator (aten::add_.Tensor finds "add"), or the generic row where the table has none.
const OpRow& find_op(const c10::OperatorName& name);

}  // namespace trn::aten
