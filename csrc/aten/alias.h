// CPU tensors over a device tensor's memory, and the way back: nothing is copied in either direction.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace trn::aten {

// A CPU tensor over the same bytes: sizes, strides, offset, conj, neg and wrapped-number bits are those of `tensor`.
// Of any layout: sparse tensors alias their members, quantized ones keep their quantizer.
at::Tensor cpu_alias(const at::Tensor& tensor);
using OptionalTensors = c10::List<std::optional<at::Tensor>>;  // an operator's indices
// The same for one call's length: a plain tensor's alias, and a list as long as the last one, cost no allocation.
class AliasPool {
 public:
  at::Tensor borrow(const at::Tensor& tensor);
  void give_back(at::Tensor& alias);
  OptionalTensors borrow_list(c10::ArrayRef<at::Tensor> aliases);
  void give_back(OptionalTensors& list);

 private:
  std::vector<at::Tensor> idle_;
  std::optional<OptionalTensors> idle_list_;
};
// A fresh result of a CPU kernel, of any layout, becomes a device tensor, in place.
void adopt(const at::Tensor& result, int device);
// A result that views the CPU twin of an original's storage becomes a view of the device storage itself; of a tensor
// made outside of inference mode as such a tensor.
at::Tensor device_view(const at::Tensor& result, const at::Tensor& original);
// The kernel may have resized, re-strided or conjugated a written argument through its alias.
void follow_metadata(const at::Tensor& original, const at::Tensor& alias);

// Neither sparse nor quantized nor nested: its elements are its storage's.
bool is_plain(const at::Tensor& tensor);
// Coordinates or compressed, of any block shape.
bool is_sparse(const at::Tensor& tensor);
// The plain, quantized or nested tensors that hold the memory: a sparse tensor's indices and values, or itself.
std::vector<at::Tensor> members_of(const at::Tensor& tensor);

// The tensors of one call, of any layout, on their way to a CPU kernel and back.
class Aliases {
 public:
  explicit Aliases(int device) : device_(device) {}

  at::Tensor to_cpu(const at::Tensor& tensor, bool written);
  // An argument itself, a view of one, or fresh memory; of a sparse tensor, each member for itself.
  at::Tensor to_device(const at::Tensor& result);
  void follow_written();

 private:
  struct Pair {
    at::Tensor original, alias;
    bool written = false;
  };
  at::Tensor remember(const at::Tensor& original, at::Tensor alias, bool written);

  int device_;
  std::vector<Pair> pairs_;  // a sparse tensor's members come before it
};

}  // namespace trn::aten
