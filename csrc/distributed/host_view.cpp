#include "distributed/host_view.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

namespace trn::distributed {

namespace {

// Over the same bytes; the storage stays alive as long as the view.
at::Tensor over(const at::Tensor& tensor, void* data, at::IntArrayRef sizes, at::IntArrayRef strides,
                at::ScalarType dtype) {
  return at::from_blob(
      data, sizes, strides, [storage = tensor.storage()](void*) {}, at::TensorOptions(dtype).device(at::kCPU));
}

}  // namespace

std::int64_t bytes_of(const at::Tensor& tensor) {
  return tensor.numel() * static_cast<std::int64_t>(tensor.itemsize());
}

HostView::HostView(const at::Tensor& tensor, bool is_read, bool is_written) : dtype_(tensor.scalar_type()) {
  const std::int64_t size = bytes_of(tensor);
  if (size == 0) {
    bytes_ = at::empty({0}, at::kByte);
    return;
  }
  void* data = is_written ? tensor.mutable_data_ptr() : const_cast<void*>(tensor.const_data_ptr());
  if (tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg()) {
    bytes_ = over(tensor, data, {size}, {1}, at::kByte);
    return;
  }
  const at::Tensor strided = over(tensor, data, tensor.sizes(), tensor.strides(), dtype_);
  at::Tensor staged = at::empty(tensor.sizes(), strided.options());
  if (is_read) {
    staged.copy_(strided);
    if (tensor.is_conj()) {
      staged = staged.conj().resolve_conj();
    }
    if (tensor.is_neg()) {
      staged = staged.neg();
    }
  }
  if (is_written) {
    target_ = strided;
    TORCH_CHECK(
        !tensor.is_conj() && !tensor.is_neg(),
        "[collective] a result cannot be lazily conjugated or negated. Call resolve_conj or resolve_neg first.");
  }
  bytes_ = over(staged, staged.mutable_data_ptr(), {size}, {1}, at::kByte);
}

at::Tensor HostView::values() const {
  return bytes_.view(dtype_);
}

at::Tensor HostView::elements() const {
  return c10::isComplexType(dtype_) ? bytes_.view(c10::toRealValueType(dtype_)) : bytes_.view(dtype_);
}

void HostView::finish() const {
  if (target_.defined()) {
    at::Tensor target = target_;
    target.copy_(values().view(target.sizes()));
  }
}

at::Tensor slice(const at::Tensor& bytes, std::int64_t start, std::int64_t size) {
  return bytes.narrow(0, start, size);
}

}  // namespace trn::distributed
