// A tensor argument that may be left out, as None or as an undefined tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace trn::aten {

using OptionalTensor = std::optional<at::Tensor>;

inline bool is_given(const OptionalTensor& tensor) {
  return tensor && tensor->defined();
}

}  // namespace trn::aten
