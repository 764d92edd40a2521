// How the results of a launch lie, found by running the operator on tensors without memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <vector>

#include "aten/operator_plan.h"

namespace trn::aten {

// A tensor among a call's arguments, lists spread out.
struct FlatTensor {
  at::Tensor tensor;
  std::size_t position = 0;  // of its argument
};
std::vector<FlatTensor> flatten(const OperatorPlan& plan, c10::ArrayRef<c10::IValue> arguments);

struct TensorLayout {
  int argument = -1;  // the flat argument itself,
  int base = -1;      // or a view of its memory, `offset` elements from where it begins,
  int fresh = -1;     // or memory of its own
  std::vector<std::int64_t> sizes, strides;
  std::int64_t offset = 0;
  at::ScalarType dtype = at::kFloat;
  bool is_conj = false, is_neg = false;
};

struct TracedResult {
  bool is_list = false;
  std::vector<TensorLayout> layouts;  // empty, and no list: the constant
  c10::IValue constant;
};

// A written argument that changed its size.
struct Resized {
  int argument = -1;
  TensorLayout layout;
  std::size_t storage_bytes = 0;
};

struct Traced {
  std::vector<TracedResult> results;
  std::vector<std::size_t> fresh_bytes;
  std::vector<Resized> resized;
  std::int64_t num_fresh_elements = 0;
};

// Does the size of a result depend on more than shapes? Values then come from memory that holds them, or from the
// user.
bool depends_on_values(const OperatorPlan& plan, c10::ArrayRef<c10::IValue> arguments);
// By the operator's Meta kernel; where it has none, on host memory of zeros, if that is little.
Traced trace(const OperatorPlan& plan, c10::ArrayRef<c10::IValue> arguments, const std::vector<FlatTensor>& tensors);

}  // namespace trn::aten
