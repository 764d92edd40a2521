// Quantized tensors on the device.
#include <ATen/ops/_copy_from.h>
#include <ATen/ops/q_per_channel_scales.h>
#include <ATen/ops/q_per_channel_zero_points.h>
#include <ATen/ops/quantize_per_channel.h>
#include <ATen/ops/quantize_per_tensor.h>
#include <ATen/ops/set_native.h>
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
// A quantized target takes floating-point values in its own scheme.
at::Tensor in_scheme_of(const at::Tensor& values, const at::Tensor& target) {
  const at::Tensor moved = values.to(target.device(), at::kFloat);
  if (target.qscheme() == at::kPerTensorAffine) {
    return at::quantize_per_tensor(moved, target.q_scale(), target.q_zero_point(), target.scalar_type());
  }
  return at::quantize_per_channel(moved, target.q_per_channel_scales(), target.q_per_channel_zero_points(),
                                  target.q_per_channel_axis(), target.scalar_type());
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& dst, bool non_blocking) {
  TORCH_CHECK_NOT_IMPLEMENTED(dst.is_quantized(), "[copy_] a quantized source has a quantized target; got ",
                              source.scalar_type(), " to ", dst.scalar_type(), ". Use dequantize.");
  const at::Tensor self = source.is_quantized() ? source : in_scheme_of(source, dst);
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

bool has_own_quantized_kernel(std::string_view name) {
  return name == "aten::q_per_channel_scales" || name == "aten::q_per_channel_zero_points" ||
         name == "aten::set_.source_Storage_storage_offset";
}

TORCH_LIBRARY_IMPL(aten, QuantizedPrivateUse1, m) {
  take_layout(m, "aten", c10::DispatchKey::QuantizedCPU, has_own_quantized_kernel);
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(at::native::set_storage_quantized_));
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
