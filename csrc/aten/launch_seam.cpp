#include "aten/launch_seam.h"

#include <ATen/core/List.h>

#include <atomic>
#include <bit>
#include <string_view>

#include "aten/allocator.h"
#include "aten/launch_arguments.h"
#include "aten/op_table.h"
#include "aten/profiler.h"
#include "aten/site.h"
#include "aten/system.h"

namespace trn::aten {

namespace {

enum Kind : std::int64_t {
  kDeviceTensor = 1,
  kHostTensor,
  kUndefined,
  kNone,
  kScalar,
  kInteger,
  kList,
  kString,
  kOther
};
std::atomic<bool> strict_fallback{false};
std::atomic<SyncDebugMode> sync_debug_mode_{SyncDebugMode::off};

void debug_sync(std::string_view op_name) {
  const SyncDebugMode mode = sync_debug_mode_.load(std::memory_order_relaxed);
  if (C10_LIKELY(mode == SyncDebugMode::off)) {
    return;
  }
  const std::string message = c10::str(
      "[", op_name, "] the host waits for the device here. torch.trn.set_sync_debug_mode(\"default\") allows it.");
  TORCH_CHECK(mode != SyncDebugMode::error, message);
  TORCH_WARN(message);
}

// kernels::Precision in seven bits, above the 48 of an address.
std::atomic<std::int64_t> precision_bits{0};
constexpr int kPrecisionShift = 48;
constexpr std::int64_t kCastsAll = 32, kNativeInt64 = 64;

}  // namespace

void set_precision(const kernels::Precision& precision) {
  precision_bits = static_cast<std::int64_t>(precision.auto_cast) | (precision.casts_all ? kCastsAll : 0) |
                   (precision.native_int64 ? kNativeInt64 : 0);
}

kernels::Precision precision() {
  const std::int64_t bits = precision_bits.load(std::memory_order_relaxed);
  return {.auto_cast = static_cast<target::Dtype>(bits % kCastsAll),
          .casts_all = (bits & kCastsAll) != 0,
          .native_int64 = (bits & kNativeInt64) != 0};
}

std::int64_t key_of(const OperatorPlan& plan) {
  return reinterpret_cast<std::int64_t>(&plan) | precision_bits.load(std::memory_order_relaxed) << kPrecisionShift;
}

kernels::Spec spec_of(const LaunchArguments& arguments) {
  kernels::Spec spec = find_op(arguments.op().operator_name()).rule(arguments);
  const kernels::Precision current = precision();
  for (kernels::Part& part : spec) {
    part.precision = current;
  }
  return spec;
}

void append_key(KeyWords& key, const at::Tensor& tensor) {
  if (!tensor.defined()) {
    key.push_back(kUndefined);
    return;
  }
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  const auto sizes = impl->sizes();
  const bool contiguous = impl->is_contiguous();
  const std::size_t begin = key.size();
  key.resize_for_overwrite(begin + 1 + (contiguous ? 1 : 2) * sizes.size());
  std::int64_t* words = key.data() + begin;
  *words++ = (impl->device_type() == c10::DeviceType::PrivateUse1 ? kDeviceTensor : kHostTensor) |
             static_cast<std::int64_t>(sizes.size()) << 8 |
             static_cast<std::int64_t>(impl->dtype().toScalarType()) << 16 |
             static_cast<std::int64_t>(contiguous) << 24 | static_cast<std::int64_t>(impl->is_wrapped_number()) << 25;
  if (C10_UNLIKELY(sizes.empty() && impl->device_type() == c10::DeviceType::CPU)) {
    const auto number = host_number(tensor);
    words[-1] |= number ? static_cast<std::int64_t>(scalar_class(*number)) << 26 : 0;
  }
  for (const std::int64_t size : sizes) {  // few: a loop costs less than memcpy's call
    *words++ = size;
  }
  if (!contiguous) {
    for (const std::int64_t stride : impl->strides()) {
      *words++ = stride;
    }
  }
}

void append_key(KeyWords& key, const c10::IValue& value) {
  if (value.isInt()) {
    key.push_back(kInteger);
    key.push_back(value.toInt());
  } else if (value.isBool()) {
    key.push_back(kInteger | static_cast<std::int64_t>(value.toBool()) << 8);
  } else if (value.isNone()) {
    key.push_back(kNone);
  } else if (value.isDouble()) {
    key.push_back(kScalar | static_cast<std::int64_t>(scalar_class(value.toDouble())) << 8);
  } else if (value.isIntList()) {
    const auto list = value.toIntVector();
    key.push_back(kList | static_cast<std::int64_t>(list.size()) << 8);
    key.append(list.begin(), list.end());
  } else if (value.isBoolList()) {
    std::int64_t bits = 1;
    for (const bool item : value.toBoolList()) {
      bits = bits << 1 | static_cast<std::int64_t>(item);
    }
    key.push_back(kList | bits << 8);
  } else if (value.isString()) {
    key.push_back(kString);
    key.push_back(static_cast<std::int64_t>(std::hash<std::string_view>{}(value.toStringView())));
  } else {
    key.push_back(kOther);
  }
}

const runtime::LaunchVariant* make_variant(const OperatorPlan& plan, const KeyWords& key,
                                           c10::ArrayRef<c10::IValue> inputs, c10::ArrayRef<c10::IValue> outputs) {
  const LaunchArguments arguments(plan.op, inputs, outputs);
  try {
    return system().launches().insert(key, plan.name, spec_of(arguments));
  } catch (const trn::Error& error) {
    rethrow(error);
  }
}

void Operands::read(const at::Tensor& tensor) {
  if (runtime::Block* block = block_of(*tensor.storage().unsafeGetStorageImpl())) {
    reads.push_back({block, tensor.numel() * static_cast<std::int64_t>(tensor.itemsize())});
  }
}

void Operands::write(const at::Tensor& tensor) {
  if (runtime::Block* block = block_of(*tensor.storage().unsafeGetStorageImpl())) {
    writes.push_back({block, tensor.numel() * static_cast<std::int64_t>(tensor.itemsize())});
  }
}

bool recording() {
  return system().recorder().active();
}

void launch(const OperatorPlan& plan, const runtime::LaunchVariant& variant, int device, const Operands& operands) {
  if (variant.is_empty) {
    return;
  }
  auto& machine = system();
  const int stream = current_stream(device);
  const runtime::Site site = machine.recorder().active() ? current_site() : runtime::Site{};
  const runtime::Interval interval = machine.launch(variant, site, device, stream, operands.reads, operands.writes);
  if (C10_UNLIKELY(profiler_active())) {
    profiler_on_launch(("trn::" + plan.name).c_str(), device, stream, runtime::to_seconds(interval.start),
                       runtime::to_seconds(interval.end));
  }
}

void host_copy(std::string_view op_name, int device, runtime::Direction direction, std::int64_t bytes, bool blocking) {
  if (blocking) {
    debug_sync(op_name);
  }
  auto& machine = system();
  runtime::HostSync sync;
  sync.direction = direction;
  sync.blocking = blocking;
  if (machine.recorder().active()) {
    sync.site = current_site();
    sync.op = machine.launches().intern_op(op_name);
  }
  machine.host_copy(sync, device, current_stream(device), bytes);
}

void set_sync_debug_mode(SyncDebugMode mode) {
  sync_debug_mode_ = mode;
}

SyncDebugMode sync_debug_mode() {
  return sync_debug_mode_;
}

void set_strict_fallback(bool strict) {
  strict_fallback = strict;
}

void begin_call(const OperatorPlan& plan) {
  plan.num_calls.fetch_add(1, std::memory_order_relaxed);
  if (C10_UNLIKELY(strict_fallback.load(std::memory_order_relaxed)) &&
      plan.neuron_status != static_cast<int>(NeuronStatus::native)) {
    C10_THROW_ERROR(NotImplementedError,
                    c10::str("[strict] every operator must run on the device; got aten::", plan.name,
                             ", which TorchNeuron runs on the host. Rewrite it, or leave strict(fallback=True)."));
  }
}

}  // namespace trn::aten
