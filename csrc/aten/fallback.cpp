#include "aten/fallback.h"

#include <ATen/Context.h>
#include <ATen/core/List.h>
#include <torch/library.h>

#include <bit>
#include <optional>

#include "aten/alias.h"
#include "aten/allocator.h"
#include "aten/below_autograd.h"
#include "aten/generator.h"
#include "aten/indices.h"
#include "aten/inference.h"
#include "aten/launch_seam.h"
#include "aten/launching_thread.h"
#include "aten/numerics.h"
#include "aten/system.h"
#include "aten/unwinding.h"
#include "aten/values.h"

namespace trn::aten {

namespace {

using c10::IValue;
using torch::jit::Stack;

[[noreturn]] void throw_mixed_devices(const OperatorPlan& plan, c10::Device first, c10::Device second) {
  TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", first, " and ",
              second, "! (when running aten::", plan.name, ")");
}

// One operator call: its tensors' aliases, its launch key and its device.
class Call {
 public:
  explicit Call(const OperatorPlan& plan) : plan_(plan) { key_.push_back(key_of(plan)); }

  ~Call() {
    for (auto& pair : pairs_) {
      if (pair.alias.defined()) {
        pool_.give_back(pair.alias);
      }
    }
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  int device() const { return device_; }
  KeyWords& key() { return key_; }

  // The device of the call: its first device tensor's, its device argument's, or the current one.
  void find_device(c10::ArrayRef<IValue> arguments) {
    for (const auto& value : arguments) {
      if (value.isTensor() && value.toTensor().defined() && value.toTensor().device().is_privateuseone()) {
        device_ = value.toTensor().device().index();
        has_device_tensor_ = true;
        return;
      }
      if (value.isTensorList()) {
        for (const at::Tensor& tensor : value.toTensorList()) {
          if (tensor.defined() && tensor.device().is_privateuseone()) {
            device_ = tensor.device().index();
            has_device_tensor_ = true;
            return;
          }
        }
      }
    }
    for (const auto& value : arguments) {
      if (value.isDevice() && value.toDevice().is_privateuseone()) {
        device_ = resolve(value.toDevice());
        return;
      }
    }
    device_ = current_device();
  }

  // Checks the argument's devices and adds it to the key.
  void describe(const IValue& value, std::size_t position) {
    if (value.isTensor()) {
      describe(value.toTensor(), position);
    } else if (value.isTensorList()) {
      const auto list = value.toTensorList();
      key_.push_back(static_cast<std::int64_t>(list.size()));
      for (const at::Tensor& tensor : list) {
        describe(tensor, position);
      }
    } else if (value.isOptionalTensorList()) {
      const auto list = value.toOptionalTensorList();
      key_.push_back(static_cast<std::int64_t>(list.size()));
      for (const std::optional<at::Tensor>& tensor : list) {
        describe(tensor.value_or(at::Tensor()), position);
      }
    } else if (C10_UNLIKELY(plan_.sized_by_scalars) && value.isDouble()) {
      key_.push_back(std::bit_cast<std::int64_t>(value.toDouble()));
    } else if (static_cast<int>(position) != plan_.generator_argument && !value.isDevice()) {
      append_key(key_, value);
    }
  }

  // Puts CPU aliases in the place of device tensors.
  void alias(IValue& value, std::size_t position) {
    if (value.isTensor()) {
      const at::Tensor& tensor = value.toTensor();
      if (tensor.defined() && tensor.device().is_privateuseone()) {
        value = IValue(take(tensor, position));
      }
    } else if (value.isTensorList()) {
      const auto list = value.toTensorList();
      c10::List<at::Tensor> aliases;
      aliases.reserve(list.size());
      for (const at::Tensor& tensor : list) {
        aliases.push_back(take(tensor, position));
      }
      value = IValue(std::move(aliases));
    } else if (value.isOptionalTensorList()) {
      const auto list = value.toOptionalTensorList();
      c10::List<std::optional<at::Tensor>> aliases;
      aliases.reserve(list.size());
      for (const std::optional<at::Tensor>& tensor : list) {
        aliases.push_back(tensor ? std::optional<at::Tensor>(take(*tensor, position)) : std::nullopt);
      }
      value = IValue(std::move(aliases));
    } else if (value.isDevice()) {
      value = IValue(c10::Device(c10::kCPU));
    }
  }

  // Knows the argument's device tensors as operands of the launch.
  void note(const IValue& value, std::size_t position) {
    auto note_tensor = [&](const at::Tensor& tensor) {
      if (tensor.defined() && tensor.device().is_privateuseone()) {
        pair_of(tensor, plan_.is_written[position]);
      }
    };
    if (value.isTensor()) {
      note_tensor(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorList()) {
        note_tensor(tensor);
      }
    } else if (value.isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
        note_tensor(tensor.value_or(at::Tensor()));
      }
    }
  }

  // The random launch gets an engine derived from the device generator's state.
  void take_generator(IValue& value, std::int64_t num_draws) {
    std::optional<at::Generator> generator;
    if (!value.isNone()) {
      generator = value.toGenerator();
    }
    value = IValue(cpu_generator_for(generator, static_cast<c10::DeviceIndex>(device_), num_draws));
  }
  static std::int64_t num_draws(c10::ArrayRef<IValue> arguments) {
    std::int64_t draws = 0;
    for (const auto& value : arguments) {
      if (value.isTensor() && value.toTensor().defined()) {
        draws = std::max(draws, value.toTensor().numel());
      }
    }
    return draws;
  }

  // A result of the CPU kernel as a device tensor: an argument itself, a view of one, or fresh memory.
  at::Tensor give(const at::Tensor& result) const {
    if (!result.defined() || !result.device().is_cpu()) {
      return result;
    }
    for (const auto& pair : pairs_) {
      if (pair.alias.is_same(result)) {
        return pair.original;
      }
    }
    if (result.has_storage()) {
      for (const auto& pair : pairs_) {
        if (pair.alias.storage().is_alias_of(result.storage()) && pair.alias.storage().nbytes()) {
          return device_view(result, pair.original);
        }
      }
    }
    for (const auto& host : host_tensors_) {
      if (host.is_same(result)) {
        return result;
      }
    }
    adopt(result, device_);
    return result;
  }

  void give_result(IValue& value) const {
    if (value.isTensor()) {
      value = IValue(give(value.toTensor()));
    } else if (value.isTensorList()) {
      auto list = value.toTensorList();
      for (std::size_t i = 0; i < list.size(); ++i) {
        list.set(i, give(list.get(i)));
      }
    }
  }

  void follow_written() const {
    for (const auto& pair : pairs_) {
      if (pair.written) {
        follow_metadata(pair.original, pair.alias);
      }
    }
  }

  void operands(Operands& out, c10::ArrayRef<IValue> results) const {
    for (const auto& pair : pairs_) {
      if (!pair.original.has_storage()) {
        continue;
      }
      out.read(pair.original);
      if (pair.written) {
        out.write(pair.original);
      }
    }
    auto result = [&](const at::Tensor& tensor) {
      if (tensor.defined() && tensor.has_storage() && tensor.device().is_privateuseone()) {
        out.write(tensor);
      }
    };
    for (const auto& value : results) {
      if (value.isTensor()) {
        result(value.toTensor());
      } else if (value.isTensorList()) {
        for (const at::Tensor& tensor : value.toTensorList()) {
          result(tensor);
        }
      }
    }
  }

 private:
  struct Pair {
    at::Tensor original, alias;
    bool written = false;
  };

  void describe(const at::Tensor& tensor, std::size_t position) {
    append_key(key_, tensor);
    if (!tensor.defined()) {
      return;
    }
    const c10::Device device = tensor.device();
    if (C10_LIKELY(device.is_privateuseone())) {
      if (C10_UNLIKELY(device.index() != device_)) {
        throw_mixed_devices(plan_, aten::device(device_), device);
      }
      TORCH_CHECK(!plan_.is_on_host[position], "Expected ", plan_.op.schema().arguments()[position].name(),
                  " to be on CPU, got ", device, " instead. (when running aten::", plan_.name, ")");
      return;
    }
    const bool scalar =
        tensor.dim() == 0 && device.is_cpu() && !plan_.is_index[position] && !plan_.is_written[position];
    if (!scalar && !(plan_.may_be_on_host[position] && device.is_cpu())) {
      TORCH_CHECK(has_device_tensor_ || plan_.generator_argument < 0, "Expected a '", device.type(),
                  "' device type for generator but found '", c10::get_privateuse1_backend(), "'");
      throw_mixed_devices(plan_, aten::device(device_), device);
    }
    host_tensors_.push_back(tensor);
  }

  at::Tensor take(const at::Tensor& tensor, std::size_t position) {
    if (!tensor.defined() || !tensor.device().is_privateuseone()) {
      return tensor;
    }
    const bool written = plan_.is_written[position];
    if (written && tensor.has_storage()) {
      tensor.storage().unsafeGetStorageImpl()->mutable_data_ptr();  // a lazily cloned storage gets its own memory now
    }
    Pair& pair = pair_of(tensor, written);
    if (!pair.alias.defined()) {
      pair.alias = pool_.borrow(tensor);
    }
    return pair.alias;
  }

  // One tensor passed twice is one alias: kernels tell "the same tensor" by identity. In long lists only a written
  // argument is looked for, which is where it matters.
  Pair& pair_of(const at::Tensor& tensor, bool written) {
    const std::size_t num_searched = written ? pairs_.size() : std::min<std::size_t>(pairs_.size(), 16);
    for (std::size_t i = 0; i < num_searched; ++i) {
      if (pairs_[i].original.is_same(tensor)) {
        pairs_[i].written |= written;
        return pairs_[i];
      }
    }
    pairs_.push_back({tensor, at::Tensor(), written});
    return pairs_.back();
  }

  const OperatorPlan& plan_;
  int device_ = 0;
  bool has_device_tensor_ = false;
  KeyWords key_;
  AliasPool& pool_ = LaunchingThread::current().aliases;
  c10::SmallVector<Pair, 4> pairs_;
  c10::SmallVector<at::Tensor, 1> host_tensors_;
};

// Runs the CPU kernel on aliases: arguments off the stack, results on the device onto it.
void compute(const OperatorPlan& plan, Call& call, std::optional<HardwareRun>& hardware, std::int64_t num_draws,
             Stack& stack) {
  const std::size_t begin = stack.size() - plan.num_arguments;
  for (std::size_t i = 0; i < plan.num_arguments; ++i) {
    call.alias(stack[begin + i], i);
  }
  if (C10_UNLIKELY(hardware.has_value())) {
    hardware->bound_index(stack.data() + begin);
  }
  if (plan.generator_argument >= 0) {
    call.take_generator(stack[begin + static_cast<std::size_t>(plan.generator_argument)], num_draws);
  }
  {
    BelowAutograd below_autograd;
    DeviceScope scope(call.device());
    std::optional<LaunchGenerator> generator;
    if (plan.draws_without_generator) {
      generator.emplace(static_cast<c10::DeviceIndex>(call.device()), num_draws);
    }
    following_errors([&] { plan.compute.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack); },
                     [&] { call.follow_written(); });
  }
  for (std::size_t i = stack.size() - plan.num_returns; i < stack.size(); ++i) {
    call.give_result(stack[i]);
  }
  call.follow_written();
}

// Whether lists hold tensors of several devices, which is one launch for none of them.
bool spans_devices(const OperatorPlan& plan, const Stack& stack) {
  std::optional<c10::Device> first;
  for (std::size_t i = stack.size() - plan.num_arguments; i < stack.size(); ++i) {
    if (!stack[i].isTensorList()) {
      continue;
    }
    for (const at::Tensor& tensor : stack[i].toTensorList()) {
      if (!tensor.defined() || (tensor.device().is_cpu() && tensor.dim() == 0)) {
        continue;
      }
      if (first.value_or(tensor.device()) != tensor.device()) {
        return true;
      }
      first = tensor.device();
    }
  }
  return false;
}

// A convolution by the name that torch.jit.trace records, with the settings that PyTorch's own kernel would add.
void trace_parts(Stack& stack) {
  static const c10::OperatorHandle op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::_convolution", "");
  const at::Context& context = at::globalContext();
  torch::jit::push(stack, context.benchmarkCuDNN(), context.deterministicCuDNN() || context.deterministicAlgorithms(),
                   context.userEnabledCuDNN(), context.allowTF32CuDNN());
  op.callBoxed(&stack);
}

}  // namespace

const runtime::LaunchVariant* run_on_device(const OperatorPlan& plan, Stack* stack) {
  if (C10_UNLIKELY(plan.is_untraced) && is_tracing()) {
    trace_parts(*stack);
    return nullptr;
  }
  if (plan.indices_argument >= 0) {
    make_indices(plan, *stack);
  }
  if (C10_UNLIKELY(plan.is_foreach) && spans_devices(plan, *stack)) {
    plan.op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);  // PyTorch's loop, on any devices
    return nullptr;
  }
  Call call(plan);
  const std::size_t begin = stack->size() - plan.num_arguments;
  const auto arguments = c10::ArrayRef<IValue>(*stack).slice(begin);
  call.find_device(arguments);
  for (std::size_t i = 0; i < plan.num_arguments; ++i) {
    call.describe(arguments[i], i);
  }
  const runtime::LaunchVariant* variant = nullptr;
  if (!plan.result_size_depends_on_data) {
    variant = system().launches().find(call.key());
  }
  std::optional<HardwareRun> hardware;
  if (C10_UNLIKELY(hardware_numerics()) && C10_LIKELY(!dry_run())) {
    Operands operands;
    if (variant && HardwareRun::repeat(plan, call.key(), call.device(), *stack, operands)) {
      launch(plan, *variant, call.device(), operands);
      return variant;
    }
    hardware.emplace(plan, arguments);
  }
  const bool is_dry = dry_run();
  std::vector<IValue> originals;
  if (!variant || C10_UNLIKELY(is_dry)) {
    originals = arguments.vec();  // the table's rule reads them after the run
  }
  const std::int64_t num_draws = plan.draws() ? Call::num_draws(arguments) : 0;
  if (C10_UNLIKELY(is_dry) && infer(plan, call.key(), call.device(), num_draws, *stack)) {
    for (std::size_t i = 0; i < plan.num_arguments; ++i) {
      call.note(originals[i], i);
    }
  } else {
    compute(plan, call, hardware, num_draws, *stack);
  }

  const std::size_t first_result = stack->size() - plan.num_returns;
  const c10::ArrayRef<IValue> results = c10::ArrayRef<IValue>(*stack).slice(first_result);
  if (plan.result_size_depends_on_data) {
    for (const auto& value : results) {
      if (value.isTensor()) {
        append_key(call.key(), value.toTensor());
      }
    }
    variant = system().launches().find(call.key());
  }
  if (!variant) {
    variant = make_variant(plan, call.key(), originals, results);
  }
  if (C10_UNLIKELY(hardware.has_value())) {
    hardware->finish(call.key(), results);
  }
  Operands operands;
  if (C10_UNLIKELY(recording())) {
    call.operands(operands, results);
  }
  launch(plan, *variant, call.device(), operands);
  if (C10_UNLIKELY(plan.result_size_depends_on_data || plan.returns_host_value)) {
    host_copy(plan.name, call.device(), runtime::Direction::to_host, 8, true);
  }
  return variant;
}

}  // namespace trn::aten
