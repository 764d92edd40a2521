// CPU tensors over a device tensor's memory, and the way back: nothing is copied in either direction.
#pragma once

#include <ATen/core/Tensor.h>

namespace trn::aten {

// A CPU tensor over the same bytes: sizes, strides, offset, conj, neg and wrapped-number bits are those of `tensor`.
at::Tensor cpu_alias(const at::Tensor& tensor);
// A fresh result of a CPU kernel becomes a device tensor, in place.
void adopt(const at::Tensor& result, int device);
// A result that views `storage`'s CPU twin becomes a view of the device storage itself.
at::Tensor device_view(const at::Tensor& result, const c10::Storage& storage);
// The kernel may have resized, re-strided or conjugated a written argument through its alias.
void follow_metadata(const at::Tensor& original, const at::Tensor& alias);

}  // namespace trn::aten
