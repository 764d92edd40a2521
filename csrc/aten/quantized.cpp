// Quantized tensors on the device.
#include <ATen/ops/_copy_from.h>
#include <ATen/ops/q_per_channel_scales.h>
#include <ATen/ops/q_per_channel_zero_points.h>
#include <ATen/quantized/QTensorImpl.h>
#include <torch/library.h>

#include "aten/alias.h"
#include "aten/any_layout.h"
#include "aten/system.h"

namespace trn::aten {

namespace {

// The stored integers as a plain tensor over the same memory.
at::Tensor stored(const at::Tensor& tensor) {
  if (!tensor.is_quantized()) {
    return tensor;
  }
  c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  const auto key = tensor.device().is_cpu() ? c10::DispatchKey::CPU : c10::DispatchKey::PrivateUse1;
  at::Tensor made =
      at::detail::make_tensor<c10::TensorImpl>(c10::Storage(impl->unsafe_storage()), c10::DispatchKeySet(key),
                                               c10::scalarTypeToTypeMeta(c10::toUnderlying(tensor.scalar_type())));
  made.unsafeGetTensorImpl()->set_sizes_and_strides(impl->sizes(), impl->strides(), impl->storage_offset());
  return made;
}

// The integers are copied, and the quantizer with them, as on the CPU.
at::Tensor copy_from(const at::Tensor& self, const at::Tensor& dst, bool non_blocking) {
  TORCH_CHECK_NOT_IMPLEMENTED(self.is_quantized() && dst.is_quantized(),
                              "[copy_] both sides of a quantized copy are quantized; got ", self.scalar_type(), " to ",
                              dst.scalar_type(), ". Use quantize_per_tensor or dequantize.");
  TORCH_CHECK(self.scalar_type() == dst.scalar_type(), "[copy_] quantized types must be the same; got ",
              self.scalar_type(), " to ", dst.scalar_type(), ".");
  TORCH_CHECK(self.qscheme() == dst.qscheme(), "[copy_] quantization schemes must be the same; got ",
              c10::toString(self.qscheme()), " to ", c10::toString(dst.qscheme()), ".");
  at::_copy_from(stored(self), stored(dst), non_blocking);
  static_cast<at::QTensorImpl*>(dst.unsafeGetTensorImpl())
      ->set_quantizer_(static_cast<at::QTensorImpl*>(self.unsafeGetTensorImpl())->quantizer());
  return dst;
}

// The quantizer keeps its scales on the host.
at::Tensor scales(const at::Tensor& self) {
  return at::q_per_channel_scales(cpu_alias(self)).to(self.device(), /*non_blocking=*/false, /*copy=*/true);
}
at::Tensor zero_points(const at::Tensor& self) {
  return at::q_per_channel_zero_points(cpu_alias(self)).to(self.device(), /*non_blocking=*/false, /*copy=*/true);
}

bool has_own_kernel(std::string_view name) {
  return name == "aten::q_per_channel_scales" || name == "aten::q_per_channel_zero_points";
}

TORCH_LIBRARY_IMPL(aten, QuantizedPrivateUse1, m) {
  take_layout(m, "aten", c10::DispatchKey::QuantizedCPU, has_own_kernel);
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("q_per_channel_scales", TORCH_FN(scales));
  m.impl("q_per_channel_zero_points", TORCH_FN(zero_points));
}

bool none(std::string_view) {
  return false;
}

TORCH_LIBRARY_IMPL(quantized, QuantizedPrivateUse1, m) {
  take_layout(m, "quantized", c10::DispatchKey::QuantizedCPU, none);
}

}  // namespace

}  // namespace trn::aten
