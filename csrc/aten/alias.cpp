#include "aten/alias.h"

#include <c10/core/TensorImpl.h>

#include "aten/allocator.h"
#include "aten/system.h"

namespace trn::aten {

namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;

// TensorImpl keeps its device to itself; a derived class may reach it.
struct Access : c10::TensorImpl {
  static void set_device(c10::TensorImpl* impl, c10::Device device) { impl->*(&Access::device_opt_) = device; }
};

constexpr DispatchKeySet kCarried({DispatchKey::Conjugate, DispatchKey::Negative});

}  // namespace

at::Tensor cpu_alias(const at::Tensor& tensor) {
  c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  const DispatchKeySet carried = impl->key_set() & kCarried;
  auto alias = c10::make_intrusive<c10::TensorImpl>(cpu_twin(impl->unsafe_storage()),
                                                    DispatchKeySet(DispatchKey::CPU) | carried, impl->dtype());
  alias->set_sizes_and_strides(impl->sizes(), impl->strides(), impl->storage_offset());
  if (C10_UNLIKELY(impl->is_wrapped_number())) {
    alias->set_wrapped_number(true);
  }
  return at::Tensor(std::move(alias));
}

void adopt(const at::Tensor& result, int index) {
  c10::TensorImpl* impl = result.unsafeGetTensorImpl();
  if (impl->device().is_privateuseone()) {
    return;
  }
  adopt(*impl->unsafe_storage().unsafeGetStorageImpl(), index);
  impl->_change_backend_component_keys(device(index));
  Access::set_device(impl, device(index));
}

at::Tensor device_view(const at::Tensor& result, const c10::Storage& storage) {
  c10::TensorImpl* impl = result.unsafeGetTensorImpl();
  const DispatchKeySet carried = impl->key_set() & kCarried;
  auto view = c10::make_intrusive<c10::TensorImpl>(c10::Storage(storage),
                                                   DispatchKeySet(DispatchKey::PrivateUse1) | carried, impl->dtype());
  view->set_sizes_and_strides(impl->sizes(), impl->strides(), impl->storage_offset());
  return at::Tensor(std::move(view));
}

void follow_metadata(const at::Tensor& original, const at::Tensor& alias) {
  c10::TensorImpl* to = original.unsafeGetTensorImpl();
  c10::TensorImpl* from = alias.unsafeGetTensorImpl();
  const c10::Storage& storage = to->unsafe_storage();
  if (C10_UNLIKELY(from->unsafe_storage().data() != storage.data() ||
                   from->unsafe_storage().nbytes() != storage.nbytes())) {
    follow_resize(storage, from->unsafe_storage());
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
}

}  // namespace trn::aten
