// The short way: an operator's call without boxing, once its launch is known. One template for each C++ signature.
#pragma once

#include <ATen/core/IListRef.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/boxing/impl/boxing.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "aten/alias.h"
#include "aten/allocator.h"
#include "aten/below_autograd.h"
#include "aten/fallback.h"
#include "aten/generator.h"
#include "aten/indices.h"
#include "aten/launch_arguments.h"
#include "aten/launch_seam.h"
#include "aten/launching_thread.h"
#include "aten/numerics.h"
#include "aten/system.h"
#include "aten/unwinding.h"
#include "aten/values.h"

namespace trn::aten {

template <class T>
inline constexpr bool is_tensor_list = std::is_same_v<std::remove_cvref_t<T>, at::TensorList> ||
                                       std::is_same_v<std::remove_cvref_t<T>, at::ITensorListRef> ||
                                       std::is_same_v<std::remove_cvref_t<T>, OptionalTensors>;

// One call: key, device and aliases. Everything out of the ordinary declines, and the boxed way takes the call.
template <std::size_t N, bool has_lists>
class DirectCall {
 public:
  explicit DirectCall(const OperatorPlan& plan) : takes_exact_scalars_(plan.sized_by_scalars) {
    key_.push_back(key_of(plan) | 1);
  }
  ~DirectCall() {
    if constexpr (has_lists) {
      if (index_list_) {
        pool_.give_back(*index_list_);
      }
    }
    auto give_back = [&](at::Tensor& alias) {
      if (alias.defined()) {
        pool_.give_back(alias);
      }
    };
    std::ranges::for_each(aliases_, give_back);
    if constexpr (has_lists) {
      for (auto& list : alias_lists_) {
        std::ranges::for_each(list, give_back);
      }
    }
  }
  DirectCall(const DirectCall&) = delete;
  DirectCall& operator=(const DirectCall&) = delete;

  const KeyWords& key() const { return key_; }
  int device() const { return device_; }
  std::int64_t num_draws() const {
    std::int64_t draws = 0;
    for (const at::Tensor* tensor : originals_) {
      draws = std::max(draws, tensor ? tensor->numel() : 0);
    }
    return draws;
  }

  bool describe(std::size_t slot, const at::Tensor& tensor) {
    append_key(key_, tensor);
    if (!tensor.defined()) {
      return true;
    }
    const c10::Device device = tensor.device();
    if (C10_UNLIKELY(!device.is_privateuseone())) {
      return device.is_cpu() && tensor.dim() == 0;
    }
    originals_[slot] = &tensor;
    if (device_ < 0) {
      device_ = device.index();
    }
    return device.index() == device_;
  }
  bool describe(std::size_t slot, const std::optional<at::Tensor>& tensor) {
    if (tensor) {
      return describe(slot, *tensor);
    }
    key_.push_back(0);
    return true;
  }
  bool describe(std::size_t slot, at::TensorList tensors) {
    key_.push_back(static_cast<std::int64_t>(tensors.size()));
    lists_[slot] = tensors;
    for (const at::Tensor& tensor : tensors) {
      append_key(key_, tensor);
      if (!tensor.defined() || !tensor.device().is_privateuseone() || !tensor.has_storage()) {
        return false;
      }
      if (device_ < 0) {
        device_ = tensor.device().index();
      }
      if (tensor.device().index() != device_) {
        return false;
      }
    }
    return true;
  }
  bool describe(std::size_t slot, const at::ITensorListRef& tensors) {
    return tensors.isUnboxed() && describe(slot, tensors.toUnboxed());
  }
  // Indices: masks, those that are left out, and the host's go the boxed way.
  bool describe(std::size_t slot, const OptionalTensors& tensors) {
    for (const std::optional<at::Tensor>& tensor : tensors) {
      if (tensor && is_mask(*tensor)) {
        return false;
      }
      indices_.push_back(tensor.value_or(at::Tensor()));
    }
    return describe(slot, at::TensorList(indices_));
  }
  bool describe(std::size_t, const std::optional<at::Generator>&) { return true; }
  bool describe(std::size_t, at::ArrayRef<double> values) {
    key_.push_back(static_cast<std::int64_t>(values.size()));
    return std::ranges::all_of(values, [&](double value) { return describe(0, value); });
  }
  bool describe(std::size_t, at::ArrayRef<at::Scalar> scalars) {
    key_.push_back(static_cast<std::int64_t>(scalars.size()));
    return std::ranges::all_of(scalars, [&](const at::Scalar& scalar) { return describe(0, scalar); });
  }
  bool describe(std::size_t, const at::Scalar& scalar) {
    const bool real = !scalar.isComplex() && !scalar.isSymbolic();
    key_.push_back(static_cast<std::int64_t>(scalar.type()) << 8 |
                   (real ? static_cast<std::int64_t>(scalar_class(scalar.toDouble())) : 0));
    return real;
  }
  bool describe(std::size_t, double value) {
    key_.push_back(takes_exact_scalars_ ? std::bit_cast<std::int64_t>(value)
                                        : static_cast<std::int64_t>(scalar_class(value)));
    return true;
  }
  bool describe(std::size_t, std::int64_t value) {
    key_.push_back(value);
    return true;
  }
  bool describe(std::size_t, bool value) {
    key_.push_back(value);
    return true;
  }
  bool describe(std::size_t, at::ScalarType value) {
    key_.push_back(static_cast<std::int64_t>(value));
    return true;
  }
  bool describe(std::size_t, const c10::SymInt& value) {
    key_.push_back(value.is_heap_allocated() ? 0 : value.as_int_unchecked());
    return !value.is_heap_allocated();
  }
  bool describe(std::size_t, c10::string_view value) {
    key_.push_back(static_cast<std::int64_t>(std::hash<std::string_view>{}(value)));
    return true;
  }
  bool describe(std::size_t, at::IntArrayRef values) {
    key_.push_back(static_cast<std::int64_t>(values.size()));
    key_.append(values.begin(), values.end());
    return true;
  }
  bool describe(std::size_t slot, at::OptionalIntArrayRef values) {
    return describe(slot, values.has_value() ? *values : at::IntArrayRef()) &&
           (key_.push_back(values.has_value()), true);
  }
  bool describe(std::size_t slot, c10::SymIntArrayRef values) {
    const auto ints = c10::asIntArrayRefSlowOpt(values);
    return ints && describe(slot, *ints);
  }
  bool describe(std::size_t slot, const at::OptionalSymIntArrayRef& values) {
    key_.push_back(values.has_value());
    return !values.has_value() || describe(slot, *values);
  }
  template <std::size_t M>
  bool describe(std::size_t, const std::array<bool, M>& values) {
    std::int64_t bits = 0;
    for (const bool value : values) {
      bits = bits << 1 | static_cast<std::int64_t>(value);
    }
    key_.push_back(bits);
    return true;
  }
  template <class T>
    requires(!std::is_same_v<T, at::Tensor>)
  bool describe(std::size_t slot, const std::optional<T>& value) {
    key_.push_back(value.has_value());
    return !value || describe(slot, *value);
  }

  void alias(const OperatorPlan& plan) {
    for (std::size_t i = 0; i < N; ++i) {
      if constexpr (has_lists) {
        if (!lists_[i].empty()) {
          alias_list(plan, i);
        }
      }
      if (originals_[i]) {
        if (plan.is_written[i] && originals_[i]->has_storage()) {
          originals_[i]->storage().unsafeGetStorageImpl()->mutable_data_ptr();
        }
        aliases_[i] = known_alias(i);
      }
    }
  }

  // An argument as the CPU kernel takes it.
  template <class T>
  decltype(auto) pass(std::size_t slot, T& value) {
    using Plain = std::remove_cvref_t<T>;
    if constexpr (std::is_same_v<Plain, OptionalTensors>) {
      return static_cast<const OptionalTensors&>(index_list_.emplace(pool_.borrow_list(alias_lists_[slot])));
    } else if constexpr (is_tensor_list<Plain>) {
      return Plain(at::TensorList(alias_lists_[slot]));
    } else if constexpr (std::is_same_v<Plain, std::optional<at::Generator>>) {
      return std::optional<at::Generator>(
          cpu_generator_for(value, static_cast<c10::DeviceIndex>(device_), num_draws()));
    } else if constexpr (std::is_same_v<Plain, at::Tensor>) {
      return originals_[slot] ? static_cast<T&>(aliases_[slot]) : value;
    } else if constexpr (std::is_same_v<Plain, std::optional<at::Tensor>>) {
      return originals_[slot] ? std::optional<at::Tensor>(aliases_[slot]) : std::optional<at::Tensor>(value);
    } else {
      return static_cast<T&>(value);
    }
  }

  // A result of the CPU's becomes the device's: an argument itself, a view of one, or fresh memory.
  template <class T>
  void give(T&, const OperatorPlan&) const {}
  void give(at::Tensor& result, const OperatorPlan& plan) const {
    if (!result.defined() || result.device().is_privateuseone()) {
      return;
    }
    const c10::Storage& storage = result.unsafeGetTensorImpl()->unsafe_storage();
    const bool may_view = storage && !(storage.use_count() == 1 && is_fresh(*storage.unsafeGetStorageImpl()));
    for (std::size_t i = 0; i < N && (may_view || plan.writes_arguments); ++i) {
      if (originals_[i]) {
        if (aliases_[i].is_same(result)) {
          result = *originals_[i];
          return;
        }
        if (may_view && aliases_[i].storage().is_alias_of(result.storage()) && result.storage().nbytes()) {
          result = device_view(result, *originals_[i]);
          return;
        }
      }
    }
    adopt(result, device_);
  }

  void follow_written(const OperatorPlan& plan) const {
    for (std::size_t i = 0; i < N && plan.writes_arguments; ++i) {
      if constexpr (has_lists) {
        for (std::size_t j = 0; plan.is_written[i] && j < lists_[i].size(); ++j) {
          follow_metadata(lists_[i][j], alias_lists_[i][j]);
        }
      }
      if (originals_[i] && plan.is_written[i]) {
        follow_metadata(*originals_[i], aliases_[i]);
      }
    }
  }

  void operands(const OperatorPlan& plan, Operands& out) const {
    for (std::size_t i = 0; i < N; ++i) {
      if constexpr (has_lists) {
        for (const at::Tensor& tensor : lists_[i]) {
          out.read(tensor);
          if (plan.is_written[i]) {
            out.write(tensor);
          }
        }
      }
      if (originals_[i] && originals_[i]->has_storage()) {
        out.read(*originals_[i]);
        if (plan.is_written[i]) {
          out.write(*originals_[i]);
        }
      }
    }
  }

 private:
  void alias_list(const OperatorPlan& plan, std::size_t slot) {
    auto& aliases = alias_lists_[slot];
    aliases.reserve(lists_[slot].size());
    for (std::size_t j = 0; j < lists_[slot].size(); ++j) {
      const at::Tensor& tensor = lists_[slot][j];
      if (plan.is_written[slot]) {
        tensor.storage().unsafeGetStorageImpl()->mutable_data_ptr();
      }
      std::size_t same = 0;
      while (same < slot && !(j < lists_[same].size() && lists_[same][j].is_same(tensor))) {
        ++same;
      }
      aliases.push_back(same < slot ? alias_lists_[same][j] : pool_.borrow(tensor));
    }
  }

  // One tensor passed twice is one alias: kernels tell "the same tensor" by identity.
  at::Tensor known_alias(std::size_t slot) {
    for (std::size_t i = 0; i < slot; ++i) {
      if (originals_[i] && originals_[i]->is_same(*originals_[slot])) {
        return aliases_[i];
      }
    }
    return pool_.borrow(*originals_[slot]);
  }

  const bool takes_exact_scalars_;
  AliasPool& pool_ = LaunchingThread::current().aliases;
  KeyWords key_;
  int device_ = -1;
  std::array<const at::Tensor*, N> originals_{};
  std::array<at::Tensor, N> aliases_;
  // Most operators take no list, and need not make and destroy the room for them.
  static constexpr std::size_t kNumLists = has_lists ? N : 0;
  std::array<at::TensorList, kNumLists> lists_{};
  std::array<c10::SmallVector<at::Tensor, 4>, kNumLists> alias_lists_;
  c10::SmallVector<at::Tensor, has_lists ? 4 : 0> indices_;
  std::optional<OptionalTensors> index_list_;
};

template <class Signature>
class DirectKernel;

// The kernel of an operator; all operators of one signature share its code.
template <class Result, class... Args>
class DirectKernel<Result(Args...)> {
 public:
  explicit DirectKernel(const c10::OperatorHandle& op) : op_(op) {}

  Result operator()(Args... args) { return run(target(), std::index_sequence_for<Args...>(), args...); }

 private:
  struct Target {
    const OperatorPlan& plan;
    c10::TypedOperatorHandle<Result(Args...)> compute;
  };
  static constexpr c10::DispatchKeySet kCpu{c10::DispatchKey::CPU};

  // Made by the first call: while operators are registered, those of our own CPU kernels may not be there yet.
  const Target& target() {
    const std::atomic_ref<const Target*> known(target_);
    const Target* target = known.load(std::memory_order_acquire);
    if (C10_UNLIKELY(!target)) {
      const OperatorPlan& plan = plan_of(op_);
      target = new Target{plan, plan.compute.template typed<Result(Args...)>()};
      known.store(target, std::memory_order_release);
    }
    return *target;
  }

  template <std::size_t... I>
  static Result run(const Target& target, std::index_sequence<I...>, Args&... args) {
    const OperatorPlan& plan = target.plan;
    begin_call(plan);
    DirectCall<sizeof...(Args), (is_tensor_list<Args> || ...)> call(plan);
    const bool ordinary = !plan.result_size_depends_on_data && !(plan.is_untraced && is_tracing()) &&
                          (call.describe(I, args) && ...) && call.device() >= 0 && !hardware_numerics() && !dry_run();
    const runtime::LaunchVariant* variant = ordinary ? system().launches().find(call.key()) : nullptr;
    if (C10_UNLIKELY(!variant)) {
      torch::jit::Stack stack;
      (stack.emplace_back(args), ...);
      variant = run_on_device(plan, &stack);
      if (ordinary) {
        system().launches().put(call.key(), variant);
      }
      return unbox(stack, args...);
    }
    call.alias(plan);
    auto compute = [&]() -> Result {
      BelowAutograd below_autograd;
      DeviceScope scope(call.device());
      return following_errors(
          [&]() -> Result {
            if (C10_UNLIKELY(plan.draws_without_generator)) {
              const LaunchGenerator generator(static_cast<c10::DeviceIndex>(call.device()), call.num_draws());
              return target.compute.redispatch(kCpu, call.pass(I, args)...);
            }
            return target.compute.redispatch(kCpu, call.pass(I, args)...);
          },
          [&] { call.follow_written(plan); });
    };
    if constexpr (std::is_reference_v<Result> || std::is_void_v<Result>) {
      compute();
      call.follow_written(plan);
      finish(plan, *variant, call);
      return written(args...);
    } else {
      Result result = compute();
      call.follow_written(plan);
      if constexpr (std::is_same_v<Result, at::Tensor>) {
        call.give(result, plan);
        finish(plan, *variant, call, result);
      } else if constexpr (std::is_same_v<Result, std::vector<at::Tensor>>) {
        for (at::Tensor& item : result) {
          call.give(item, plan);
        }
        finish(plan, *variant, call, result);
      } else {
        std::apply([&](auto&... item) { (call.give(item, plan), ...); }, result);
        std::apply([&](auto&... item) { finish(plan, *variant, call, item...); }, result);
      }
      return result;
    }
  }

  template <class Call, class... Results>
  static void finish(const OperatorPlan& plan, const runtime::LaunchVariant& variant, const Call& call,
                     const Results&... results) {
    Operands operands;
    if (C10_UNLIKELY(recording())) {
      call.operands(plan, operands);
      (write(operands, results), ...);
    }
    launch(plan, variant, call.device(), operands);
  }
  static void write(Operands& operands, const at::Tensor& result) {
    if (result.defined()) {
      operands.write(result);
    }
  }
  static void write(Operands& operands, const std::vector<at::Tensor>& results) {
    std::ranges::for_each(results, [&](const at::Tensor& result) { write(operands, result); });
  }
  static void write(Operands&, const c10::SymInt&) {}

  // The argument that an in-place or out= operator writes and returns.
  template <class First, class... Rest>
  static Result written(First& first, Rest&... rest) {
    if constexpr (std::is_void_v<Result>) {
      return;
    } else if constexpr (std::is_same_v<First, at::Tensor>) {
      return first;
    } else {
      return written(rest...);
    }
  }

  static Result unbox(torch::jit::Stack& stack, Args&... args) {
    if constexpr (std::is_reference_v<Result> || std::is_void_v<Result>) {
      return written(args...);
    } else if constexpr (std::is_same_v<Result, std::vector<at::Tensor>>) {
      return std::move(stack.back()).toTensorVector();
    } else if constexpr (std::is_same_v<Result, at::Tensor>) {
      return std::move(stack.back()).toTensor();
    } else {
      return unbox_tuple(stack, std::make_index_sequence<std::tuple_size_v<Result>>());
    }
  }
  template <std::size_t... I>
  static Result unbox_tuple(torch::jit::Stack& stack, std::index_sequence<I...>) {
    return {std::move(stack[I]).template to<std::tuple_element_t<I, Result>>()...};
  }

  c10::OperatorHandle op_;
  const Target* target_ = nullptr;
};

}  // namespace trn::aten
