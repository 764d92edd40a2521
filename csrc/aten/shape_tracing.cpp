#include "aten/shape_tracing.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/List.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "aten/alias.h"
#include "aten/below_autograd.h"
#include "aten/result_layouts.h"
#include "aten/values.h"

namespace trn::aten {

namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using torch::jit::Stack;

constexpr std::int64_t kMostStandInBytes = std::int64_t{64} << 20;

// Shape functions written in Python call operators of their own: no mode of the user's may see them.
class BelowModes {
 public:
  BelowModes() : disabled_(at::impl::PythonTorchFunctionTLS::get_disabled_state()) {
    at::impl::PythonTorchFunctionTLS::set_disabled_state(at::impl::TorchFunctionDisabledState::ALL_DISABLED);
  }
  ~BelowModes() { at::impl::PythonTorchFunctionTLS::set_disabled_state(disabled_); }
  BelowModes(const BelowModes&) = delete;
  BelowModes& operator=(const BelowModes&) = delete;

 private:
  at::impl::TorchFunctionDisabledState disabled_;
  BelowAutograd below_autograd_;
  c10::impl::ExcludeDispatchKeyGuard below_python_{
      DispatchKeySet({DispatchKey::Python, DispatchKey::PythonTLSSnapshot})};
};

// The argument whose values decide the result's size.
std::size_t deciding_position(const OperatorPlan& plan) {
  const auto& arguments = plan.op.schema().arguments();
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].name() == "mask" || arguments[i].name() == "lengths") {
      return i;
    }
  }
  return 0;
}

at::Tensor values_of(const OperatorPlan& plan, const at::Tensor& tensor) {
  if (!tensor.device().is_privateuseone()) {
    return tensor;
  }
  return holds_values(tensor) ? cpu_alias(tensor) : supplied_values(plan.name, tensor);
}

// The flat arguments as one engine takes them, and the stack made of them.
class Converted {
 public:
  std::vector<at::Tensor> tensors;

  Stack stack(c10::ArrayRef<IValue> arguments, c10::Device device) const {
    Stack out;
    std::size_t next = 0;
    for (const IValue& value : arguments) {
      if (value.isTensor()) {
        out.emplace_back(tensors[next++]);
      } else if (value.isTensorList()) {
        c10::List<at::Tensor> list;
        for (std::size_t left = value.toTensorList().size(); left; --left) {
          list.push_back(tensors[next++]);
        }
        out.emplace_back(std::move(list));
      } else if (value.isOptionalTensorList()) {
        out.emplace_back(optional_list(value.toOptionalTensorList().size(), next));
      } else {
        out.push_back(value.isDevice() ? IValue(device) : value);
      }
    }
    return out;
  }

 private:
  c10::List<std::optional<at::Tensor>> optional_list(std::size_t size, std::size_t& next) const {
    c10::List<std::optional<at::Tensor>> list;
    for (std::size_t i = 0; i < size; ++i, ++next) {
      list.push_back(tensors[next].defined() ? std::make_optional(tensors[next]) : std::nullopt);
    }
    return list;
  }
};

// Tensors on the meta device: those that share memory share it there too.
class MetaTensors {
 public:
  at::Tensor of(const at::Tensor& tensor) {
    if (!tensor.defined() || tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
      return tensor;  // shape functions written in Python take a number for what it is
    }
    for (const auto& [original, meta] : made_) {
      if (original.is_same(tensor)) {
        return meta;
      }
    }
    DispatchKeySet keys(DispatchKey::Meta);
    const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
    at::Tensor meta = at::detail::make_tensor<c10::TensorImpl>(storage_of(tensor), keys, impl->dtype());
    meta.unsafeGetTensorImpl()->set_sizes_and_strides(impl->sizes(), impl->strides(), impl->storage_offset());
    meta._set_conj(tensor.is_conj());
    meta._set_neg(tensor.is_neg());
    made_.emplace_back(tensor, meta);
    return meta;
  }

 private:
  c10::Storage storage_of(const at::Tensor& tensor) {
    const c10::StorageImpl* original = tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
    for (const auto& [known, storage] : storages_) {
      if (known == original) {
        return storage;
      }
    }
    const c10::Device meta(c10::kMeta);
    c10::Storage storage(c10::Storage::use_byte_size_t(), original->nbytes(), c10::DataPtr(nullptr, meta),
                         c10::GetAllocator(c10::kMeta), true);
    storages_.emplace_back(original, storage);
    return storage;
  }

  std::vector<std::pair<at::Tensor, at::Tensor>> made_;
  std::vector<std::pair<const c10::StorageImpl*, c10::Storage>> storages_;
};

// Turns an engine's results into layouts, by what they share with the converted arguments.
class Reader {
 public:
  Reader(const std::vector<FlatTensor>& tensors, const Converted& converted)
      : tensors_(tensors), converted_(converted) {}

  Traced read(const OperatorPlan& plan, const Stack& stack) {
    name_ = plan.name;
    for (const IValue& value : stack) {
      TracedResult& result = traced_.results.emplace_back();
      if (value.isTensorList()) {
        result.is_list = true;
        for (const at::Tensor& tensor : value.toTensorVector()) {
          result.layouts.push_back(layout_of(tensor));
        }
      } else if (value.isTensor() && value.toTensor().defined()) {
        result.layouts.push_back(layout_of(value.toTensor()));
      } else {
        result.constant = value;
      }
    }
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (plan.is_written[tensors_[i].position] && tensors_[i].tensor.defined()) {
        read_resized(static_cast<int>(i));
      }
    }
    return std::move(traced_);
  }

 private:
  static TensorLayout plain(const at::Tensor& tensor) {
    TensorLayout layout;
    layout.sizes = tensor.sizes().vec();
    layout.strides = tensor.strides().vec();
    layout.offset = tensor.storage_offset();
    layout.dtype = tensor.scalar_type();
    layout.is_conj = tensor.is_conj();
    layout.is_neg = tensor.is_neg();
    return layout;
  }

  TensorLayout layout_of(const at::Tensor& tensor) {
    if (!is_plain(tensor)) {
      C10_THROW_ERROR(NotImplementedError,
                      c10::str("[dry_run] sparse, quantized and nested tensors need values; got aten::", name_,
                               ", which makes one. Run this part with values, or without such tensors: "
                               "nn.TransformerEncoder(enable_nested_tensor=False)."));
    }
    TensorLayout layout = plain(tensor);
    const auto& given = converted_.tensors;
    for (std::size_t i = 0; i < given.size(); ++i) {
      if (given[i].is_same(tensor)) {
        layout.argument = static_cast<int>(i);
        return layout;
      }
    }
    for (std::size_t i = 0; i < given.size(); ++i) {
      if (given[i].defined() && given[i].has_storage() && given[i].storage().is_alias_of(tensor.storage()) &&
          given[i].storage().unsafeGetStorageImpl() == tensor.storage().unsafeGetStorageImpl()) {
        layout.base = static_cast<int>(i);
        layout.offset -= given[i].storage_offset();
        return layout;
      }
    }
    layout.fresh = fresh_of(tensor);
    return layout;
  }

  int fresh_of(const at::Tensor& tensor) {
    const c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
    const auto known = std::find(fresh_.begin(), fresh_.end(), storage);
    if (known != fresh_.end()) {
      return static_cast<int>(known - fresh_.begin());
    }
    fresh_.push_back(storage);
    traced_.fresh_bytes.push_back(storage->nbytes());
    traced_.num_fresh_elements += static_cast<std::int64_t>(storage->nbytes() / tensor.itemsize());
    return static_cast<int>(fresh_.size()) - 1;
  }

  void read_resized(int i) {
    const at::Tensor &before = tensors_[static_cast<std::size_t>(i)].tensor,
                     &after = converted_.tensors[static_cast<std::size_t>(i)];
    if (before.sizes() == after.sizes() && before.strides() == after.strides()) {
      return;
    }
    Resized resized{i, plain(after), after.storage().nbytes()};
    resized.layout.offset -= before.storage_offset();
    traced_.num_fresh_elements += after.numel();
    traced_.resized.push_back(std::move(resized));
  }

  const std::vector<FlatTensor>& tensors_;
  const Converted& converted_;
  std::vector<const c10::StorageImpl*> fresh_;
  std::string_view name_;
  Traced traced_;
};

void clear_generator(const OperatorPlan& plan, Stack& stack, bool fresh) {
  if (plan.generator_argument >= 0) {
    stack[static_cast<std::size_t>(plan.generator_argument)] =
        fresh ? IValue(at::make_generator<at::CPUGeneratorImpl>()) : IValue();
  }
}

const c10::OperatorHandle* meta_operator(const OperatorPlan& plan) {
  for (const c10::OperatorHandle* op : {&plan.compute, &plan.op}) {
    if (op->hasComputedKernelForDispatchKey(DispatchKey::Meta)) {
      return op;
    }
  }
  return nullptr;
}

// Every result is an argument that the operator writes in place.
bool only_writes(const OperatorPlan& plan) {
  const auto& schema = plan.op.schema();
  return std::none_of(schema.arguments().begin(), schema.arguments().end(),
                      [](const c10::Argument& argument) { return argument.is_out(); }) &&
         std::all_of(schema.returns().begin(), schema.returns().end(),
                     [](const c10::Argument& result) { return result.alias_info() && result.alias_info()->isWrite(); });
}

Traced written_in_place(const OperatorPlan& plan, const std::vector<FlatTensor>& tensors) {
  Traced traced;
  std::size_t next = 0;
  for (std::size_t i = 0; i < plan.num_returns; ++i) {
    while (next < tensors.size() && !plan.is_written[tensors[next].position]) {
      ++next;
    }
    TensorLayout layout;
    layout.argument = static_cast<int>(next++);
    TracedResult& result = traced.results.emplace_back();
    result.layouts.push_back(std::move(layout));
  }
  return traced;
}

Traced trace_on_meta(const OperatorPlan& plan, const c10::OperatorHandle& op, c10::ArrayRef<IValue> arguments,
                     const std::vector<FlatTensor>& tensors) {
  MetaTensors meta;
  Converted converted;
  for (const FlatTensor& each : tensors) {
    converted.tensors.push_back(meta.of(each.tensor));
  }
  Stack stack = converted.stack(arguments, c10::Device(c10::kMeta));
  clear_generator(plan, stack, false);
  op.redispatchBoxed(DispatchKeySet(DispatchKey::Meta), &stack);
  Traced traced = Reader(tensors, converted).read(plan, stack);
  follow_cpu_kernels(plan, arguments, tensors, converted.tensors, traced);
  return traced;
}

// On the host, in memory of zeros; what decides sizes has its values.
Traced trace_on_host(const OperatorPlan& plan, c10::ArrayRef<IValue> arguments, const std::vector<FlatTensor>& tensors,
                     bool needs_values) {
  const std::size_t deciding = deciding_position(plan);
  std::int64_t bytes = 0;
  Converted converted;
  for (const FlatTensor& each : tensors) {
    const at::Tensor& tensor = each.tensor;
    if (!tensor.defined() || !tensor.device().is_privateuseone()) {
      converted.tensors.push_back(tensor);
    } else if (needs_values && each.position == deciding) {
      converted.tensors.push_back(values_of(plan, tensor));
    } else if (needs_values && !plan.is_written[each.position]) {
      converted.tensors.push_back(at::zeros({}, at::TensorOptions(tensor.scalar_type())).expand(tensor.sizes()));
    } else {
      bytes += tensor.numel() * static_cast<std::int64_t>(tensor.itemsize());
      if (bytes > kMostStandInBytes) {
        C10_THROW_ERROR(
            NotImplementedError,
            c10::str("[dry_run] an operator without a Meta kernel is tried on little host memory; got aten::",
                     plan.name, " on ", bytes, " bytes or more, limit ", kMostStandInBytes,
                     ". Run this part of the model on the CPU, or register a Meta kernel with "
                     "torch.library."));
      }
      converted.tensors.push_back(
          at::empty_strided(tensor.sizes(), tensor.strides(), at::TensorOptions(tensor.scalar_type())).zero_());
    }
  }
  Stack stack = converted.stack(arguments, c10::Device(c10::kCPU));
  clear_generator(plan, stack, true);
  plan.compute.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &stack);
  return Reader(tensors, converted).read(plan, stack);
}

}  // namespace

std::vector<FlatTensor> flatten(const OperatorPlan& plan, c10::ArrayRef<IValue> arguments) {
  std::vector<FlatTensor> out;
  for (std::size_t i = 0; i < plan.num_arguments; ++i) {
    const IValue& value = arguments[i];
    if (value.isTensor()) {
      out.push_back({value.toTensor(), i});
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorList()) {
        out.push_back({tensor, i});
      }
    } else if (value.isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
        out.push_back({tensor.value_or(at::Tensor()), i});
      }
    }
  }
  return out;
}

bool depends_on_values(const OperatorPlan& plan, c10::ArrayRef<IValue> arguments) {
  if (plan.returns_host_value || plan.name == "_pack_padded_sequence") {
    return true;
  }
  if (plan.result_size_depends_on_data) {
    const auto size = plan.op.schema().argumentIndexWithName("output_size");
    return !size || arguments[static_cast<std::size_t>(*size)].isNone();
  }
  return false;
}

Traced trace(const OperatorPlan& plan, c10::ArrayRef<IValue> arguments, const std::vector<FlatTensor>& tensors) {
  const BelowModes below_modes;
  if (depends_on_values(plan, arguments)) {
    return trace_on_host(plan, arguments, tensors, true);
  }
  if (const c10::OperatorHandle* op = meta_operator(plan)) {
    try {
      return trace_on_meta(plan, *op, arguments, tensors);
    } catch (const c10::NotImplementedError&) {
      // A kernel made of other operators, one of which has none.
    }
  }
  if (only_writes(plan)) {
    return written_in_place(plan, tensors);
  }
  return trace_on_host(plan, arguments, tensors, false);
}

}  // namespace trn::aten
