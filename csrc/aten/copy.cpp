// Copies on the device, between devices and across the host link; reads of a value by the host.
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/copy.h>
#include <ATen/ops/resize.h>
#include <torch/library.h>

#include <optional>

#include "aten/alias.h"
#include "aten/allocator.h"
#include "aten/below_autograd.h"
#include "aten/host_allocator.h"
#include "aten/launch_arguments.h"
#include "aten/launch_seam.h"
#include "aten/launching_thread.h"
#include "aten/numerics.h"
#include "aten/system.h"
#include "aten/values.h"

namespace trn::aten {

namespace {

const OperatorPlan& copy_plan() {
  static const OperatorPlan& plan = plan_of(c10::Dispatcher::singleton().findSchemaOrThrow("aten::_copy_from", ""));
  return plan;
}

// Bytes cross the link in the source's type; what differs in type or layout is converted on the device.
kernels::Spec transfer_spec(const at::Tensor& src, const at::Tensor& dst) {
  kernels::TransferShape transfer;
  transfer.bytes = src.numel() * static_cast<std::int64_t>(src.itemsize());
  transfer.from_device = src.device().is_privateuseone();
  transfer.to_device = dst.device().is_privateuseone();
  kernels::Spec spec{transfer};
  const bool converts = src.scalar_type() != dst.scalar_type() || src.strides() != dst.strides();
  if (converts) {
    const kernels::Access from{dtype_of(src.scalar_type()), src.numel(), src.numel()};
    spec.push_back(kernels::CopyShape{src.numel(), from, access_of(dst), false});
  }
  return spec;
}

const runtime::LaunchVariant* copy_variant(const at::Tensor& src, const at::Tensor& dst) {
  KeyWords key;
  key.push_back(key_of(copy_plan()));
  append_key(key, src);
  append_key(key, dst);
  const bool same_device = src.device() == dst.device();
  key.push_back(same_device);
  if (const auto* variant = system().launches().find(key)) {
    return variant;
  }
  if (same_device) {
    const c10::IValue inputs[] = {src, dst, false};
    const c10::IValue outputs[] = {dst};
    return make_variant(copy_plan(), key, inputs, outputs);
  }
  return system().launches().insert(key, copy_plan().name, src.numel() ? transfer_spec(src, dst) : kernels::Spec{});
}

void copy_values(const at::Tensor& self, const at::Tensor& dst) {
  const BelowAutograd below_autograd;
  const bool from_device = self.device().is_privateuseone(), to_device = dst.device().is_privateuseone();
  if (C10_UNLIKELY(from_device && !holds_values(self))) {
    if (to_device) {
      lose_values(dst);
    } else {
      dst.copy_(supplied_values("copy to host", self));
    }
    return;
  }
  if (C10_UNLIKELY(!may_write_values(dst)) && dry_run()) {
    return;
  }
  if (C10_UNLIKELY(hardware_numerics()) && from_device && to_device && self.device() == dst.device()) {
    const c10::IValue arguments[] = {self.expand_as(dst), dst, false}, results[] = {dst};
    if (execute_or_list(copy_plan(), arguments, results)) {
      return;
    }
  }
  std::optional<BorrowedAlias> to, from;
  if (to_device) {
    to.emplace(dst);
  }
  if (from_device) {
    from.emplace(self);
  }
  (to ? **to : dst).copy_(from ? **from : self);
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& dst, bool non_blocking) {
  const bool from_device = self.device().is_privateuseone();
  const bool to_device = dst.device().is_privateuseone();
  TORCH_CHECK((from_device || self.device().is_cpu()) && (to_device || dst.device().is_cpu()),
              "[copy_] copies run between trn devices and the CPU; got ", self.device(), " to ", dst.device(), ".");
  if (dst.numel() == 0) {
    self.expand_as(dst);  // raises where they do not broadcast
    return dst;
  }
  if (to_device) {
    dst.storage().unsafeGetStorageImpl()->mutable_data_ptr();
  }
  copy_values(self, dst);
  const int index = to_device ? dst.device().index() : self.device().index();
  Operands operands;
  if (recording()) {
    if (from_device && self.device() == aten::device(index)) {
      operands.read(self);
    }
    if (to_device) {
      operands.write(dst);
    }
  }
  // Another reference to a tensor that Python holds would take Python's lock.
  const runtime::LaunchVariant* variant =
      self.sizes() == dst.sizes() ? copy_variant(self, dst) : copy_variant(self.expand_as(dst), dst);
  launch(copy_plan(), *variant, index, operands);
  if (from_device != to_device) {
    const bool pinned = is_pinned(from_device ? dst.storage().data() : self.storage().data());
    host_copy("copy_", index, to_device ? runtime::Direction::to_device : runtime::Direction::to_host,
              self.numel() * static_cast<std::int64_t>(self.itemsize()), !(non_blocking && pinned));
  }
  return dst;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& dst) {
  dst.resize_(self.sizes());
  return copy_from(self, dst, false);
}

at::Scalar local_scalar_dense(const at::Tensor& self) {
  BelowAutograd below_autograd;
  const at::Scalar value = C10_LIKELY(holds_values(self)) ? at::_local_scalar_dense(*BorrowedAlias(self))
                                                          : at::_local_scalar_dense(supplied_values("item", self));
  host_copy("_local_scalar_dense", self.device().index(), runtime::Direction::to_host,
            static_cast<std::int64_t>(self.itemsize()), true);
  return value;
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("_local_scalar_dense", TORCH_FN(local_scalar_dense));
}

// copy_ passes a lazily conjugated or negated source on as it is; resolving it here would copy, which comes back here.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

}  // namespace

}  // namespace trn::aten
