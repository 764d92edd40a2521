#include "aten/numerics.h"

#include <ATen/core/LegacyTypeDispatch.h>

#include <atomic>
#include <mutex>

#include "aten/alias.h"
#include "aten/execution.h"
#include "aten/op_table.h"

namespace trn::aten {

namespace {

std::atomic<bool> is_hardware{false};
std::mutex mutex;
emu::Numerics current_departures;
std::map<std::string, std::int64_t>& tally() {
  static auto* instance = new std::map<std::string, std::int64_t>();
  return *instance;
}

bool family_executes(const OperatorPlan& plan) {
  const std::string_view family = find_op(plan.op.operator_name()).family;
  return family == "pointwise" || family == "matmul";
}

}  // namespace

bool hardware_numerics() noexcept {
  return is_hardware.load(std::memory_order_relaxed);
}

emu::Numerics departures() {
  std::lock_guard lock(mutex);
  return current_departures;
}

void set_numerics(bool hardware, const emu::Numerics& departures) {
  std::lock_guard lock(mutex);
  current_departures = departures;
  is_hardware = hardware;
}

std::map<std::string, std::int64_t> reference_launches() {
  std::lock_guard lock(mutex);
  return tally();
}

void clear_reference_launches() {
  std::lock_guard lock(mutex);
  tally().clear();
}

HardwareRun::HardwareRun(const OperatorPlan& plan, c10::ArrayRef<c10::IValue> arguments)
    : plan_(plan), may_execute_(family_executes(plan)) {
  if (!may_execute_) {
    return;
  }
  arguments_ = arguments.vec();
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const c10::IValue& value = arguments_[i];
    if (plan.is_written[i] && value.isTensor() && value.toTensor().defined() && is_plain(value.toTensor())) {
      const at::Tensor alias = cpu_alias(value.toTensor());
      written_.push_back({alias, alias.clone()});
    }
  }
}

void HardwareRun::finish(c10::ArrayRef<c10::IValue> results) {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  if (may_execute_) {
    // What the operator overwrote are its program's operands too.
    std::vector<at::Tensor> after;
    for (const Written& one : written_) {
      const bool keeps_shape = one.alias.sizes() == one.before.sizes();
      after.push_back(keeps_shape ? one.alias.clone() : at::Tensor());
      if (keeps_shape) {
        one.alias.copy_(one.before);
      }
    }
    if (const auto parts = bind(LaunchArguments(plan_.op, arguments_, results))) {
      execute(*parts, departures());
      return;
    }
    for (std::size_t i = 0; i < written_.size(); ++i) {
      if (after[i].defined()) {
        written_[i].alias.copy_(after[i]);
      }
    }
  }
  std::lock_guard lock(mutex);
  ++tally()[plan_.name];
}

}  // namespace trn::aten
