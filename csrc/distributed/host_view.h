// CPU tensors over the HBM of device tensors, as the transport takes them: flat, nothing copied when contiguous.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace trn::distributed {

std::int64_t bytes_of(const at::Tensor& tensor);

// The elements of one device tensor for the length of a collective. A tensor with gaps or permuted dimensions is
// gathered into a contiguous one first, and scattered back by `finish` when it was written.
class HostView {
 public:
  HostView() = default;
  static HostView read(const at::Tensor& tensor) { return HostView(tensor, true, false); }
  static HostView write(const at::Tensor& tensor) { return HostView(tensor, false, true); }
  static HostView read_write(const at::Tensor& tensor) { return HostView(tensor, true, true); }

  at::Tensor bytes() const { return bytes_; }  // uint8 [bytes]
  at::Tensor elements() const;                 // [numel], complex numbers as pairs
  // Elements in the tensor's own type.
  at::Tensor values() const;
  void finish() const;

 private:
  HostView(const at::Tensor& tensor, bool is_read, bool is_written);

  at::Tensor bytes_;
  at::ScalarType dtype_ = at::kByte;
  at::Tensor target_;  // the tensor itself over its own strides, when `bytes_` is a copy
};

// Bytes [start, start + size) of a flat byte tensor.
at::Tensor slice(const at::Tensor& bytes, std::int64_t start, std::int64_t size);

}  // namespace trn::distributed
