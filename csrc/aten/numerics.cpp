#include "aten/numerics.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/equal.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>

#include "aten/alias.h"
#include "aten/below_autograd.h"
#include "aten/execution.h"
#include "aten/op_table.h"
#include "aten/system.h"
#include "aten/workers.h"
#include "emu/limits.h"

namespace trn::aten {

namespace {

std::atomic<bool> is_hardware{false};
std::mutex tally_mutex;
emu::Numerics current_departures;
std::map<std::string, std::int64_t>& tally() {
  static auto* instance = new std::map<std::string, std::int64_t>();
  return *instance;
}

struct Narrowing {
  std::map<std::string, std::map<std::string, std::int64_t>> launches;
  std::set<std::pair<std::string, std::string>> told;  // operators and dtypes, of the whole process
  NarrowingHandler handler;
};
Narrowing& narrowing() {
  static auto* instance = new Narrowing();
  return *instance;
}

void count_narrowing(const OperatorPlan& plan, const std::vector<BoundPart>& parts) {
  std::set<std::string> dtypes;
  for (const BoundPart& part : parts) {
    for (const kernels::Dtype dtype : part.narrows ? part.program->narrowed : std::vector<kernels::Dtype>()) {
      dtypes.emplace(target::name(dtype));
    }
  }
  for (const std::string& dtype : dtypes) {
    NarrowingHandler handler;
    {
      std::lock_guard lock(tally_mutex);
      Narrowing& state = narrowing();
      ++state.launches[plan.name][dtype];
      if (state.told.emplace(plan.name, dtype).second) {
        handler = state.handler;
      }
    }
    if (handler) {
      handler(plan.name, dtype);
    }
  }
}

void run(const OperatorPlan& plan, const std::vector<BoundPart>& parts) {
  count_narrowing(plan, parts);
  execute(plan.name, parts, departures());
}

// How a result of a known launch lies: an argument itself, or memory of its own; or the result itself, where it is an
// int or no tensor, the same for all launches of a key.
struct ResultLayout {
  int argument = -1;
  std::vector<std::int64_t> sizes, strides;
  at::ScalarType dtype = at::kFloat;
  bool is_constant = false;
  c10::IValue constant = {};
};

std::string text_of(const KeyWords& key) {
  return {reinterpret_cast<const char*>(key.data()), key.size() * sizeof(key[0])};
}

std::unordered_map<std::string, std::vector<ResultLayout>>& layouts() {
  thread_local std::unordered_map<std::string, std::vector<ResultLayout>> instance;
  return instance;
}

}  // namespace

bool hardware_numerics() noexcept {
  return is_hardware.load(std::memory_order_relaxed);
}

emu::Numerics departures() {
  std::lock_guard lock(tally_mutex);
  return current_departures;
}

void set_numerics(bool hardware, const emu::Numerics& departures, const kernels::Precision& precision) {
  TORCH_CHECK_VALUE(!precision.native_int64 || emu::generation(configured_target()->core) >= 3,
                    "[set_numerics] native_int64 exists from NeuronCore-v3 on; got ",
                    configured_target()->core.generation, ". Choose trn2 or trn3.");
  restart_launches();
  set_precision(precision);
  std::lock_guard lock(tally_mutex);
  current_departures = departures;
  is_hardware = hardware;
}

void list_reference_launch(const OperatorPlan& plan) {
  std::lock_guard lock(tally_mutex);
  ++tally()[plan.name];
}

std::map<std::string, std::int64_t> reference_launches() {
  std::lock_guard lock(tally_mutex);
  return tally();
}

void clear_reference_launches() {
  std::lock_guard lock(tally_mutex);
  tally().clear();
}

std::map<std::string, std::map<std::string, std::int64_t>> narrowed_launches() {
  std::lock_guard lock(tally_mutex);
  return narrowing().launches;
}

void clear_narrowed_launches() {
  std::lock_guard lock(tally_mutex);
  narrowing().launches.clear();
}

void set_narrowing_handler(NarrowingHandler handler) {
  std::lock_guard lock(tally_mutex);
  narrowing().handler = std::move(handler);
}

bool execute_or_list(const OperatorPlan& plan, c10::ArrayRef<c10::IValue> arguments,
                     c10::ArrayRef<c10::IValue> results) {
  if (const auto parts = bind(LaunchArguments(plan.op, arguments, results))) {
    run(plan, *parts);
    return true;
  }
  list_reference_launch(plan);
  return false;
}

HardwareRun::HardwareRun(const OperatorPlan& plan, c10::ArrayRef<c10::IValue> arguments)
    : plan_(plan), may_execute_(no_program(find_op(plan.op.operator_name())).empty()) {
  if (!may_execute_) {
    return;
  }
  arguments_ = arguments.vec();
  const BelowAutograd below_autograd;
  auto keep = [&](const at::Tensor& tensor) {
    if (tensor.defined() && is_plain(tensor)) {
      const at::Tensor alias = cpu_alias(tensor);
      written_.push_back({alias, alias.clone()});
    }
  };
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const c10::IValue& value = arguments_[i];
    if (plan.is_changed[i] && value.isTensor()) {
      keep(value.toTensor());
    } else if (plan.is_changed[i] && value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) {
        keep(tensor);
      }
    }
  }
}

void HardwareRun::bound_index(c10::IValue* aliases) {
  if (!may_execute_ || plan_.name != "index_select" || !departures().out_of_bounds_is_nan) {
    return;
  }
  const BelowAutograd below_autograd;
  const at::Tensor &self = aliases[0].toTensor(), &index = aliases[2].toTensor();
  const std::int64_t dim = aliases[1].toInt();
  const std::int64_t size = self.dim() == 0 ? 1 : self.size(dim);
  const at::Tensor bounded = index.clamp(0, std::max<std::int64_t>(size - 1, 0));
  is_out_of_bounds_ = !bounded.equal(index);
  aliases[2] = bounded;
}

void HardwareRun::remember(const KeyWords& key, c10::ArrayRef<c10::IValue> results) const {
  if (plan_.draws()) {
    return;  // the CPU's generator draws for each launch
  }
  for (const Written& one : written_) {
    if (one.alias.sizes() != one.before.sizes() || one.alias.strides() != one.before.strides()) {
      return;  // resized on the way
    }
  }
  std::vector<ResultLayout> result_layouts;
  for (const c10::IValue& value : results) {
    const bool is_undefined = value.isTensor() && !value.toTensor().defined();
    if (is_undefined || (value.isInt() && !plan_.returns_host_value)) {
      ResultLayout& constant = result_layouts.emplace_back();
      constant.is_constant = true;
      constant.constant = value;
      continue;
    }
    if (!value.isTensor() || !value.toTensor().defined() || !is_plain(value.toTensor())) {
      return;
    }
    const at::Tensor& tensor = value.toTensor();
    ResultLayout layout{
        .sizes = tensor.sizes().vec(), .strides = tensor.strides().vec(), .dtype = tensor.scalar_type()};
    for (std::size_t i = 0; i < arguments_.size(); ++i) {
      if (arguments_[i].isTensor() && arguments_[i].toTensor().is_same(tensor)) {
        layout.argument = static_cast<int>(i);
      }
    }
    if (layout.argument < 0 && (tensor.storage().use_count() > 1 || tensor.is_conj() || tensor.is_neg())) {
      return;  // a view
    }
    result_layouts.push_back(std::move(layout));
  }
  layouts()[text_of(key)] = std::move(result_layouts);
}

bool HardwareRun::repeat(const OperatorPlan& plan, const KeyWords& key, int device, torch::jit::Stack& stack,
                         Operands& operands) {
  const auto known = layouts().find(text_of(key));
  if (known == layouts().end()) {
    return false;
  }
  const BelowAutograd below_autograd;
  const std::size_t begin = stack.size() - plan.num_arguments;
  const std::vector<c10::IValue> arguments(stack.begin() + static_cast<std::ptrdiff_t>(begin), stack.end());
  // A result that was passed in another size is resized by the CPU's kernel alone.
  const auto is_resized = [&](const ResultLayout& layout) {
    return layout.argument >= 0 &&
           arguments[static_cast<std::size_t>(layout.argument)].toTensor().sizes() != layout.sizes;
  };
  if (std::ranges::any_of(known->second, is_resized)) {
    layouts().erase(known);
    return false;
  }
  std::vector<c10::IValue> results;
  for (const ResultLayout& layout : known->second) {
    if (layout.is_constant) {
      results.push_back(layout.constant);
      continue;
    }
    results.emplace_back(layout.argument >= 0
                             ? arguments[static_cast<std::size_t>(layout.argument)].toTensor()
                             : at::empty_strided(layout.sizes, layout.strides,
                                                 at::TensorOptions(aten::device(device)).dtype(layout.dtype)));
  }
  const LaunchArguments launch(plan.op, arguments, results);
  const auto parts = bind(launch);
  if (!parts) {
    layouts().erase(known);
    return false;
  }
  run(plan, *parts);
  for (const at::Tensor& input : launch.input_tensors()) {
    operands.read(input);
  }
  for (const at::Tensor& output : launch.output_tensors()) {
    operands.write(output);
  }
  stack.resize(begin);
  stack.insert(stack.end(), results.begin(), results.end());
  return true;
}

void HardwareRun::finish(const KeyWords& key, c10::ArrayRef<c10::IValue> results) {
  const BelowAutograd below_autograd;
  if (may_execute_) {
    // What the operator overwrote are its program's operands too.
    std::vector<at::Tensor> after;
    for (const Written& one : written_) {
      const bool keeps_shape = one.alias.sizes() == one.before.sizes();
      after.push_back(keeps_shape ? one.alias.clone() : at::Tensor());
      if (keeps_shape && !plan_.draws()) {  // what was drawn is all that a program takes of it
        one.alias.copy_(one.before);
      }
    }
    if (const auto parts = bind(LaunchArguments(plan_.op, arguments_, results))) {
      run(plan_, *parts);
      remember(key, results);
      return;
    }
    TORCH_CHECK_INDEX(!is_out_of_bounds_, "[", plan_.name,
                      "] only a program gives NaN for an index out of bounds; got arguments without one. Check the "
                      "indices.");
    for (std::size_t i = 0; i < written_.size(); ++i) {
      if (after[i].defined()) {
        written_[i].alias.copy_(after[i]);
      }
    }
  }
  list_reference_launch(plan_);
}

}  // namespace trn::aten
