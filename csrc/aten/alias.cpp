#include "aten/alias.h"

#include <ATen/NestedTensorImpl.h>
#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/quantized/QTensorImpl.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/TensorImpl.h>

#include <optional>
#include <utility>

#include "aten/allocator.h"
#include "aten/system.h"

namespace trn::aten {

namespace {

using at::SparseCsrTensorImpl;
using at::SparseTensorImpl;
using at::native::NestedTensorImpl;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::TensorImpl;

constexpr DispatchKeySet kCarried({DispatchKey::Conjugate, DispatchKey::Negative});
constexpr DispatchKeySet kSparse({DispatchKey::Sparse, DispatchKey::SparseCsr});
constexpr DispatchKeySet kNotPlain({DispatchKey::Sparse, DispatchKey::SparseCsr, DispatchKey::Quantized,
                                    DispatchKey::NestedTensor});

// TensorImpl keeps its device to itself; a derived class may reach it.
struct Access : TensorImpl {
  static void set_storage(TensorImpl* impl, c10::Storage storage, caffe2::TypeMeta dtype) {
    impl->*(&Access::storage_) = std::move(storage);
    impl->*(&Access::data_type_) = dtype;
  }
  // Sizes, strides and what follows from them, which set_sizes_and_strides would compute anew.
  static void copy_layout(TensorImpl* to, const TensorImpl* from) {
    if (C10_UNLIKELY(from->has_symbolic_sizes_strides())) {
      copy_symbolic_layout(to, from);
    } else {
      copy_layout(static_cast<Access&>(*to), static_cast<const Access&>(*from));
    }
  }
  // _change_backend_component_keys, between two backends that are known.
  static void change_device(TensorImpl* impl, c10::Device device) {
    constexpr DispatchKeySet kCpuAutocast(DispatchKey::AutocastCPU);
    constexpr DispatchKeySet kDevice =
        DispatchKeySet(c10::BackendComponent::PrivateUse1Bit) | DispatchKeySet(DispatchKey::AutocastPrivateUse1);
    auto* access = static_cast<Access*>(impl);
    access->key_set_ = (access->key_set_ - kCpuAutocast).remove_backend(c10::BackendComponent::CPUBit) | kDevice;
    access->device_opt_ = device;
  }
  // True only of plain tensors that are neither conjugated nor negated. A false "no" costs a comparison in full.
  static bool is_same_plain_layout(const TensorImpl* one_impl, const TensorImpl* other_impl) {
    const auto* one = static_cast<const Access*>(one_impl);
    const auto* other = static_cast<const Access*>(other_impl);
    return !(one->key_set_ | other->key_set_).has_any(kNotPlain | kCarried) &&
           one->sizes_and_strides_ == other->sizes_and_strides_ && one->storage_offset_ == other->storage_offset_;
  }

 private:
  [[gnu::noinline, gnu::cold]] static void copy_symbolic_layout(TensorImpl* to, const TensorImpl* from) {
    to->set_sizes_and_strides(from->sym_sizes(), from->sym_strides(), from->sym_storage_offset());
  }
  static void copy_layout(Access& to, const Access& from) {
    to.sizes_and_strides_ = from.sizes_and_strides_;
    to.storage_offset_ = from.storage_offset_;
    to.numel_ = from.numel_;
    copy_flags(to, from);
  }
  // All the bits of one byte, in their order: the compiler copies the byte, knowing that it is another.
  static void copy_flags(Access& __restrict to, const Access& __restrict from) {
    to.is_contiguous_ = from.is_contiguous_;
    to.storage_access_should_throw_ = from.storage_access_should_throw_;
    to.is_channels_last_ = from.is_channels_last_;
    to.is_channels_last_contiguous_ = from.is_channels_last_contiguous_;
    to.is_channels_last_3d_ = from.is_channels_last_3d_;
    to.is_channels_last_3d_contiguous_ = from.is_channels_last_3d_contiguous_;
    to.is_non_overlapping_and_dense_ = from.is_non_overlapping_and_dense_;
    to.is_wrapped_number_ = from.is_wrapped_number_;
  }
};

SparseTensorImpl* as_coo(const at::Tensor& tensor) {
  return tensor.key_set().has(DispatchKey::Sparse) ? static_cast<SparseTensorImpl*>(tensor.unsafeGetTensorImpl())
                                                   : nullptr;
}
SparseCsrTensorImpl* as_compressed(const at::Tensor& tensor) {
  return tensor.key_set().has(DispatchKey::SparseCsr) ? static_cast<SparseCsrTensorImpl*>(tensor.unsafeGetTensorImpl())
                                                      : nullptr;
}
NestedTensorImpl* as_nested(const at::Tensor& tensor) {
  return tensor.key_set().has(DispatchKey::NestedTensor) ? static_cast<NestedTensorImpl*>(tensor.unsafeGetTensorImpl())
                                                         : nullptr;
}
at::QTensorImpl* as_quantized(const at::Tensor& tensor) {
  return tensor.key_set().has(DispatchKey::Quantized) ? static_cast<at::QTensorImpl*>(tensor.unsafeGetTensorImpl())
                                                      : nullptr;
}

// The same quantized or nested tensor over another storage; `backend` is the storage's component. A nested one asks its
// own autograd kernels first, as PyTorch makes it.
at::Tensor over_storage(const at::Tensor& tensor, c10::Storage storage, c10::BackendComponent backend) {
  TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (NestedTensorImpl* nested = as_nested(tensor)) {
    return at::detail::make_tensor<NestedTensorImpl>(
        std::move(storage),
        DispatchKeySet({DispatchKey::NestedTensor, DispatchKey::AutogradNestedTensor}) | DispatchKeySet(backend),
        impl->dtype(), nested->get_nested_sizes(), nested->get_nested_strides(), nested->get_storage_offsets());
  }
  at::Tensor made = at::detail::make_tensor<at::QTensorImpl>(
      std::move(storage), DispatchKeySet(DispatchKey::Quantized) | DispatchKeySet(backend), impl->dtype(),
      as_quantized(tensor)->quantizer());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(impl->sizes(), impl->strides(), impl->storage_offset());
  return made;
}

// The same sparse tensor on the CPU, of the members that `alias` makes of its own.
template <class Alias>
at::Tensor sparse_alias(const at::Tensor& tensor, Alias alias) {
  if (SparseTensorImpl* coo = as_coo(tensor)) {
    at::Tensor made = at::detail::make_tensor<SparseTensorImpl>(DispatchKeySet(DispatchKey::SparseCPU), coo->dtype());
    SparseTensorImpl* to = as_coo(made);
    to->raw_resize_(coo->sparse_dim(), coo->dense_dim(), coo->sizes());
    to->set_indices_and_values_unsafe(alias(coo->indices()), alias(coo->values()));
    to->set_coalesced(coo->coalesced());
    return made;
  }
  SparseCsrTensorImpl* compressed = as_compressed(tensor);
  at::Tensor made = at::detail::make_tensor<SparseCsrTensorImpl>(
      DispatchKeySet(DispatchKey::SparseCsrCPU), c10::Device(c10::kCPU), tensor.layout(), compressed->dtype());
  as_compressed(made)->set_member_tensors(alias(compressed->compressed_indices()), alias(compressed->plain_indices()),
                                          alias(compressed->values()), compressed->sizes());
  return made;
}

// A sparse result of the CPU becomes one of the device, of the members that `give` makes of its own.
template <class Give>
void adopt_sparse(const at::Tensor& result, int index, Give give) {
  const c10::DeviceGuard guard(device(index));
  if (SparseTensorImpl* coo = as_coo(result)) {
    const bool coalesced = coo->coalesced();
    const at::Tensor indices = give(coo->indices()), values = give(coo->values());
    Access::change_device(coo, device(index));
    coo->set_indices_and_values_unsafe(indices, values);
    coo->set_coalesced(coalesced);
    return;
  }
  SparseCsrTensorImpl* compressed = as_compressed(result);
  const at::Tensor outer = give(compressed->compressed_indices()), inner = give(compressed->plain_indices()),
                   values = give(compressed->values());
  const std::vector<std::int64_t> sizes = compressed->sizes().vec();
  Access::change_device(compressed, device(index));
  compressed->set_member_tensors(outer, inner, values, sizes);
}

}  // namespace

bool is_plain(const at::Tensor& tensor) {
  return !tensor.key_set().has_any(kNotPlain);
}

bool is_sparse(const at::Tensor& tensor) {
  return tensor.key_set().has_any(kSparse);
}

std::vector<at::Tensor> members_of(const at::Tensor& tensor) {
  if (SparseTensorImpl* coo = as_coo(tensor)) {
    return {coo->indices(), coo->values()};
  }
  if (SparseCsrTensorImpl* compressed = as_compressed(tensor)) {
    return {compressed->compressed_indices(), compressed->plain_indices(), compressed->values()};
  }
  return {tensor};
}

at::Tensor cpu_alias(const at::Tensor& tensor) {
  TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (C10_UNLIKELY(impl->key_set().has_any(kNotPlain))) {
    return is_sparse(tensor) ? sparse_alias(tensor, [](const at::Tensor& member) { return cpu_alias(member); })
                             : over_storage(tensor, cpu_twin(impl->unsafe_storage()), c10::BackendComponent::CPUBit);
  }
  const DispatchKeySet carried = impl->key_set() & kCarried;
  auto alias = c10::make_intrusive<TensorImpl>(cpu_twin(impl->unsafe_storage()),
                                               DispatchKeySet(DispatchKey::CPU) | carried, impl->dtype());
  Access::copy_layout(alias.get(), impl);
  return at::Tensor(std::move(alias));
}

at::Tensor AliasPool::borrow(const at::Tensor& tensor) {
  TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (idle_.empty() || impl->key_set().has_any(kNotPlain | kCarried)) {
    return cpu_alias(tensor);
  }
  at::Tensor alias = std::move(idle_.back());
  idle_.pop_back();
  TensorImpl* to = alias.unsafeGetTensorImpl();
  Access::set_storage(to, cpu_twin(impl->unsafe_storage()), impl->dtype());
  Access::copy_layout(to, impl);
  return alias;
}

void AliasPool::give_back(at::Tensor& alias) {
  constexpr std::size_t kMostIdle = 1024;
  TensorImpl* impl = alias.unsafeGetTensorImpl();
  const bool is_ours_alone = alias.use_count() == 1 && !impl->autograd_meta() && !impl->pyobj_slot()->load_pyobj() &&
                             !impl->key_set().has_any(kNotPlain | kCarried);
  if (is_ours_alone && idle_.size() < kMostIdle) {
    Access::set_storage(impl, c10::Storage(), impl->dtype());  // the block's twin has no other owner again
    idle_.push_back(std::move(alias));
  } else {
    alias.reset();  // an argument that was passed twice comes back with its last owner
  }
}

OptionalTensors AliasPool::borrow_list(c10::ArrayRef<at::Tensor> aliases) {
  if (!idle_list_ || idle_list_->size() != aliases.size()) {
    OptionalTensors made;
    made.reserve(aliases.size());
    for (const at::Tensor& alias : aliases) {
      made.push_back(alias);
    }
    return made;
  }
  OptionalTensors list = *std::exchange(idle_list_, std::nullopt);
  for (std::size_t i = 0; i < aliases.size(); ++i) {
    list.set(i, aliases[i]);
  }
  return list;
}

void AliasPool::give_back(OptionalTensors& list) {
  if (list.use_count() == 1) {  // else a kernel kept it
    for (std::size_t i = 0; i < list.size(); ++i) {
      list.set(i, std::nullopt);
    }
    idle_list_ = std::move(list);
  }
}

void adopt(const at::Tensor& result, int index) {
  TensorImpl* impl = result.unsafeGetTensorImpl();
  if (impl->device().is_privateuseone()) {
    return;
  }
  if (C10_UNLIKELY(is_sparse(result))) {
    adopt_sparse(result, index, [&](const at::Tensor& member) {
      adopt(member, index);
      return member;
    });
    return;
  }
  c10::StorageImpl* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  if (C10_UNLIKELY(!storage)) {
    C10_THROW_ERROR(NotImplementedError,
                    c10::str("[layout] a result on the device has memory of its own; got the layout ", impl->layout(),
                             ", whose memory is a CPU library's. Move the tensor to the CPU first."));
  }
  if (C10_UNLIKELY(is_twin(*storage))) {
    Access::set_storage(impl, device_copy(*storage, index), impl->dtype());
  } else {
    adopt(*storage, index);
  }
  Access::change_device(impl, device(index));
}

at::Tensor device_view(const at::Tensor& result, const at::Tensor& original) {
  TensorImpl* impl = result.unsafeGetTensorImpl();
  const c10::Storage& storage = original.unsafeGetTensorImpl()->unsafe_storage();
  std::optional<c10::InferenceMode> as_original;
  if (C10_UNLIKELY(c10::InferenceMode::is_enabled() && !original.is_inference())) {
    as_original.emplace(false);
  }
  if (C10_UNLIKELY(impl->key_set().has_any(kNotPlain))) {
    return over_storage(result, storage, c10::BackendComponent::PrivateUse1Bit);
  }
  const DispatchKeySet carried = impl->key_set() & kCarried;
  auto view = c10::make_intrusive<TensorImpl>(c10::Storage(storage), DispatchKeySet(DispatchKey::PrivateUse1) | carried,
                                              impl->dtype());
  Access::copy_layout(view.get(), impl);
  return at::Tensor(std::move(view));
}

void follow_metadata(const at::Tensor& original, const at::Tensor& alias) {
  TensorImpl* to = original.unsafeGetTensorImpl();
  TensorImpl* from = alias.unsafeGetTensorImpl();
  const c10::Storage& storage = to->unsafe_storage();
  const bool has_same_memory =
      from->unsafe_storage().data() == storage.data() && from->unsafe_storage().nbytes() == storage.nbytes();
  if (C10_LIKELY(has_same_memory && Access::is_same_plain_layout(to, from))) {
    return;
  }
  if (!has_same_memory) {
    follow_resize(storage, from->unsafe_storage());
  }
  if (C10_UNLIKELY(as_nested(original))) {
    return;  // its sizes are fixed for life
  }
  if (C10_UNLIKELY(to->sizes() != from->sizes() || to->strides() != from->strides() ||
                   to->storage_offset() != from->storage_offset())) {
    to->set_sizes_and_strides(from->sizes(), from->strides(), from->storage_offset());
  }
  if (C10_UNLIKELY(original.is_conj() != alias.is_conj())) {
    original._set_conj(alias.is_conj());
  }
  if (C10_UNLIKELY(original.is_neg() != alias.is_neg())) {
    original._set_neg(alias.is_neg());
  }
  if (at::QTensorImpl* quantized = as_quantized(original)) {
    quantized->set_quantizer_(as_quantized(alias)->quantizer());
  }
}

at::Tensor Aliases::remember(const at::Tensor& original, at::Tensor alias, bool written) {
  pairs_.push_back({original, alias, written});
  return alias;
}

at::Tensor Aliases::to_cpu(const at::Tensor& tensor, bool written) {
  if (!tensor.defined() || !tensor.device().is_privateuseone()) {
    return tensor;
  }
  if (written && !is_sparse(tensor)) {
    tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()->mutable_data_ptr();
  }
  for (auto& pair : pairs_) {  // kernels tell "the same tensor" by identity
    if (pair.original.is_same(tensor)) {
      pair.written |= written;
      return pair.alias;
    }
  }
  if (is_sparse(tensor)) {
    return remember(tensor, sparse_alias(tensor, [&](const at::Tensor& member) { return to_cpu(member, written); }),
                    written);
  }
  return remember(tensor, cpu_alias(tensor), written);
}

at::Tensor Aliases::to_device(const at::Tensor& result) {
  if (!result.defined() || !result.device().is_cpu()) {
    return result;
  }
  for (const auto& pair : pairs_) {
    if (pair.alias.is_same(result)) {
      return pair.original;
    }
  }
  if (is_sparse(result)) {
    adopt_sparse(result, device_, [&](const at::Tensor& member) { return to_device(member); });
    return result;
  }
  const c10::Storage& storage = result.unsafeGetTensorImpl()->unsafe_storage();
  for (const auto& pair : pairs_) {
    if (!is_sparse(pair.alias) && storage.nbytes() &&
        pair.alias.unsafeGetTensorImpl()->unsafe_storage().is_alias_of(storage)) {
      return device_view(result, pair.original);
    }
  }
  adopt(result, device_);
  return result;
}

void Aliases::follow_written() {
  for (const auto& [original, alias, written] : pairs_) {
    if (!written) {
      continue;
    }
    if (SparseTensorImpl* to = as_coo(original)) {
      const SparseTensorImpl* from = as_coo(alias);
      const at::Tensor indices = to_device(from->indices()), values = to_device(from->values());
      const c10::DeviceGuard guard(device(device_));
      if (!indices.is_same(to->indices()) || !values.is_same(to->values()) || to->sizes() != from->sizes()) {
        to->raw_resize_(from->sparse_dim(), from->dense_dim(), from->sizes());
        to->set_indices_and_values_unsafe(indices, values);
      }
      if (to->coalesced() != from->coalesced()) {
        to->set_coalesced(from->coalesced());
      }
    } else if (SparseCsrTensorImpl* to = as_compressed(original)) {
      const SparseCsrTensorImpl* from = as_compressed(alias);
      const at::Tensor outer = to_device(from->compressed_indices()), inner = to_device(from->plain_indices()),
                       values = to_device(from->values());
      if (!outer.is_same(to->compressed_indices()) || !inner.is_same(to->plain_indices()) ||
          !values.is_same(to->values()) || to->sizes() != from->sizes()) {
        to->set_member_tensors(outer, inner, values, from->sizes());
      }
    } else {
      follow_metadata(original, alias);
    }
  }
}

}  // namespace trn::aten
