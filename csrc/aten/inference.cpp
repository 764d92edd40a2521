#include "aten/inference.h"

#include <ATen/core/List.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <initializer_list>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "aten/allocator.h"
#include "aten/generator.h"
#include "aten/shape_tracing.h"
#include "aten/system.h"
#include "aten/values.h"

namespace trn::aten {

namespace {

using c10::IValue;
using torch::jit::Stack;

constexpr std::int64_t kMostComputedElements = 64;

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Gradients are taken to be finite: what counts those that are not stays as it was.
bool keeps_values(const OperatorPlan& plan, std::size_t position) {
  return plan.name == "_amp_foreach_non_finite_check_and_unscale_" && position == 1;
}

// Integers and bools in and out: positions, masks, lengths.
bool only_counts(const std::vector<FlatTensor>& tensors, const Traced& traced) {
  const auto counts = [](at::ScalarType dtype) { return c10::isIntegralType(dtype, /*includeBool=*/true); };
  return std::all_of(
             tensors.begin(), tensors.end(),
             [&](const FlatTensor& each) { return !each.tensor.defined() || counts(each.tensor.scalar_type()); }) &&
         std::all_of(traced.results.begin(), traced.results.end(), [&](const TracedResult& result) {
           return std::all_of(result.layouts.begin(), result.layouts.end(),
                              [&](const TensorLayout& layout) { return counts(layout.dtype); });
         });
}

// Are all values known, and few? Fills are short however long they are.
bool is_computed(const OperatorPlan& plan, const std::vector<FlatTensor>& tensors, const Traced& traced) {
  std::int64_t elements = traced.num_fresh_elements;
  std::size_t bytes = std::accumulate(traced.fresh_bytes.begin(), traced.fresh_bytes.end(), std::size_t{0});
  std::size_t most_bytes = 0;
  for (const FlatTensor& each : tensors) {
    if (!each.tensor.defined()) {
      continue;
    }
    if (!holds_values(each.tensor)) {
      return false;
    }
    elements += each.tensor.numel();
    bytes += each.tensor.nbytes();
    most_bytes = std::max(most_bytes, each.tensor.has_storage() ? each.tensor.storage().nbytes() : 0);
  }
  if (is_one_of(plan.name, {"fill_.Scalar", "fill_.Tensor", "zero_"})) {
    return most_bytes <= most_held_bytes();
  }
  return elements <= kMostComputedElements || (bytes <= most_held_bytes() && only_counts(tensors, traced));
}

// A fill of a whole tensor gives its memory values again.
void let_fills_write(const OperatorPlan& plan, const std::vector<FlatTensor>& tensors) {
  if (is_one_of(plan.name, {"fill_.Scalar", "fill_.Tensor", "zero_"})) {
    may_write_values(tensors.front().tensor);
  }
}

at::Tensor view_of(const c10::Storage& storage, const TensorLayout& layout, std::int64_t base_offset) {
  c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  at::Tensor made =
      at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), keys, c10::scalarTypeToTypeMeta(layout.dtype));
  made.unsafeGetTensorImpl()->set_sizes_and_strides(layout.sizes, layout.strides, base_offset + layout.offset);
  if (layout.is_conj) {
    made._set_conj(true);
  }
  if (layout.is_neg) {
    made._set_neg(true);
  }
  return made;
}

// Results on the device, as the launch leaves them.
class Results {
 public:
  Results(const Traced& traced, const std::vector<FlatTensor>& tensors, int device) : tensors_(tensors) {
    const c10::DeviceGuard guard(aten::device(device));
    for (const std::size_t bytes : traced.fresh_bytes) {
      c10::Storage storage(c10::Storage::use_byte_size_t(), static_cast<std::int64_t>(bytes), device_allocator(), true);
      if (runtime::Block* block = block_of(*storage.unsafeGetStorageImpl())) {
        block->holds_values = false;
      }
      fresh_.push_back(std::move(storage));
    }
  }

  at::Tensor make(const TensorLayout& layout) const {
    if (layout.argument >= 0) {
      return tensors_[static_cast<std::size_t>(layout.argument)].tensor;
    }
    if (layout.base >= 0) {
      const at::Tensor& base = tensors_[static_cast<std::size_t>(layout.base)].tensor;
      return view_of(base.storage(), layout, base.storage_offset());
    }
    return view_of(fresh_[static_cast<std::size_t>(layout.fresh)], layout, 0);
  }

  IValue make(const TracedResult& result) const {
    if (!result.is_list) {
      return result.layouts.empty() ? result.constant : IValue(make(result.layouts.front()));
    }
    c10::List<at::Tensor> list;
    for (const TensorLayout& layout : result.layouts) {
      list.push_back(make(layout));
    }
    return IValue(std::move(list));
  }

 private:
  const std::vector<FlatTensor>& tensors_;
  std::vector<c10::Storage> fresh_;
};

bool is_in_place(const OperatorPlan& plan) {
  return plan.name.substr(0, plan.name.find('.')).ends_with('_');
}

// out= arguments take the result's size, and more memory where they need it; what is changed in place does not.
void follow_resized(const OperatorPlan& plan, const Traced& traced, const std::vector<FlatTensor>& tensors) {
  for (const Resized& resized : traced.resized) {
    const FlatTensor& each = tensors[static_cast<std::size_t>(resized.argument)];
    c10::TensorImpl* impl = each.tensor.unsafeGetTensorImpl();
    TORCH_CHECK(each.position > 0 || !is_in_place(plan) || each.tensor.sizes() == at::IntArrayRef(resized.layout.sizes),
                "output with shape ", each.tensor.sizes(), " doesn't match the broadcast shape ",
                at::IntArrayRef(resized.layout.sizes));
    c10::StorageImpl* storage = impl->unsafe_storage().unsafeGetStorageImpl();
    if (resized.storage_bytes > storage->nbytes()) {
      resize_storage(*storage, resized.storage_bytes);
    }
    impl->set_sizes_and_strides(resized.layout.sizes, resized.layout.strides,
                                impl->storage_offset() + resized.layout.offset);
  }
}

std::unordered_map<std::string, Traced>& known() {
  thread_local std::unordered_map<std::string, Traced> instance;
  return instance;
}

void draw(const OperatorPlan& plan, const Stack& stack, std::size_t begin, int device, std::int64_t num_draws) {
  std::optional<at::Generator> generator;
  if (plan.generator_argument >= 0) {
    const IValue& value = stack[begin + static_cast<std::size_t>(plan.generator_argument)];
    if (!value.isNone()) {
      generator = value.toGenerator();
    }
  }
  skip_draws(generator, static_cast<c10::DeviceIndex>(device), num_draws);
}

}  // namespace

bool infer(const OperatorPlan& plan, const KeyWords& key, int device, std::int64_t num_draws, Stack& stack) {
  const std::size_t begin = stack.size() - plan.num_arguments;
  const c10::ArrayRef<IValue> arguments = c10::ArrayRef<IValue>(stack).slice(begin);
  const std::vector<FlatTensor> tensors = flatten(plan, arguments);
  const bool needs_values = depends_on_values(plan, arguments);
  if (needs_values &&
      std::all_of(tensors.begin(), tensors.end(), [](const FlatTensor& each) { return holds_values(each.tensor); })) {
    return false;
  }
  if (plan.returns_host_value) {
    const at::Tensor value = supplied_values(plan.name, at::empty({}, at::TensorOptions(at::kBool).device(at::kMeta)));
    stack.resize(begin);
    stack.emplace_back(value.item().toBool());
    return true;
  }
  Traced once;
  const Traced* traced = nullptr;
  if (needs_values) {
    once = trace(plan, arguments, tensors);
    traced = &once;
  } else {
    std::string text(reinterpret_cast<const char*>(key.data()), key.size() * sizeof(key[0]));
    for (const FlatTensor& each : tensors) {
      // Programs are alike whatever the stride of a dimension of one element; results follow it.
      if (each.tensor.defined() &&
          each.tensor.strides() != at::IntArrayRef(c10::contiguous_strides(each.tensor.sizes()))) {
        const auto strides = each.tensor.strides();
        text.append(reinterpret_cast<const char*>(strides.data()), strides.size() * sizeof(strides[0]));
      }
    }
    auto found = known().find(text);
    if (found == known().end()) {
      found = known().emplace(text, trace(plan, arguments, tensors)).first;
    }
    traced = &found->second;
    let_fills_write(plan, tensors);
    if (is_computed(plan, tensors, *traced)) {
      return false;
    }
  }
  if (plan.draws()) {
    draw(plan, stack, begin, device, num_draws);
  }
  follow_resized(plan, *traced, tensors);
  const Results results(*traced, tensors, device);
  std::vector<IValue> made;
  for (const TracedResult& result : traced->results) {
    made.push_back(results.make(result));
  }
  for (const FlatTensor& each : tensors) {
    if (plan.is_changed[each.position] && !keeps_values(plan, each.position)) {
      lose_values(each.tensor);
    }
  }
  stack.resize(begin);
  stack.insert(stack.end(), made.begin(), made.end());
  return true;
}

}  // namespace trn::aten
