#include "aten/indices.h"

#include <ATen/core/IListRef.h>
#include <ATen/core/List.h>
#include <ATen/native/IndexingUtils.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "aten/alias.h"
#include "aten/values.h"

namespace trn::aten {

namespace {

// The interpreter of TorchScript makes lists of another element type.
OptionalTensors optional_tensors(const c10::IValue& value) {
  if (value.isOptionalTensorList()) {
    return value.toOptionalTensorList();
  }
  OptionalTensors list;
  for (const c10::IValue& item : value.toListRef()) {
    list.push_back(item.isNone() ? std::nullopt : std::optional<at::Tensor>(item.toTensor()));
  }
  return list;
}

// One value wherever one mask is true: the device knows where without asking.
bool fills(const OptionalTensors& indices, c10::ArrayRef<c10::IValue> rest, const at::Tensor& self) {
  const bool is_one_value =
      rest.size() > 1 && rest[0].isTensor() && rest[0].toTensor().numel() == 1 && rest[1].isBool() && !rest[1].toBool();
  std::int64_t num_indices = 0;
  for (const std::optional<at::Tensor>& index : indices) {
    if (index && index->defined()) {
      num_indices += is_mask(*index) && index->device() == self.device() ? 1 : 2;
    }
  }
  return is_one_value && num_indices == 1;
}

}  // namespace

bool is_mask(const at::Tensor& index) {
  return index.defined() && (index.scalar_type() == at::kBool || index.scalar_type() == at::kByte);
}

void make_indices(const OperatorPlan& plan, torch::jit::Stack& stack) {
  const std::size_t begin = stack.size() - plan.num_arguments;
  c10::IValue& value = stack[begin + static_cast<std::size_t>(plan.indices_argument)];
  if (!value.isList()) {
    return;
  }
  OptionalTensors indices = optional_tensors(value);
  const auto& self = stack[begin].toTensor();
  bool has_masks = false, are_known = true;
  for (const std::optional<at::Tensor>& index : indices) {
    has_masks = has_masks || (index && is_mask(*index));
    are_known = are_known && (!index || holds_values(*index));
  }
  const auto rest =
      c10::ArrayRef<c10::IValue>(stack).slice(begin + static_cast<std::size_t>(plan.indices_argument) + 1);
  const bool is_put = rest.size() > 1;  // values and whether they accumulate
  const bool wants_positions = has_masks && (!is_put || !dry_run() || are_known);
  if (wants_positions && !fills(indices, rest, self)) {
    const std::vector<at::Tensor> positions = at::native::expandTensors(self, indices);
    indices = OptionalTensors();
    for (const at::Tensor& position : positions) {
      indices.push_back(position.defined() ? std::optional<at::Tensor>(position) : std::nullopt);
    }
  } else if (value.isOptionalTensorList()) {
    return;
  }
  value = c10::IValue(std::move(indices));
}

}  // namespace trn::aten
