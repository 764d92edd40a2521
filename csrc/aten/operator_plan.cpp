#include "aten/operator_plan.h"

#include <ATen/core/function_schema.h>

#include <array>
#include <mutex>
#include <string_view>
#include <unordered_map>

#include "aten/op_table.h"

namespace trn::aten {

namespace {

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  for (auto item : names) {
    if (item == name) {
      return true;
    }
  }
  return false;
}

constexpr std::array<std::string_view, 10> kDataDependent{"aten::_nested_tensor_from_mask",
                                                          "aten::nonzero",
                                                          "aten::masked_select",
                                                          "aten::_unique",
                                                          "aten::_unique2",
                                                          "aten::unique_dim",
                                                          "aten::unique_consecutive",
                                                          "aten::bincount",
                                                          "aten::repeat_interleave",
                                                          "aten::unique_dim_consecutive"};
constexpr std::array<std::string_view, 2> kSizedByScalars{"aten::arange", "aten::range"};
constexpr std::array<std::string_view, 4> kUpdatesStatistics{"aten::native_batch_norm", "aten::batch_norm_update_stats",
                                                             "aten::batch_norm_gather_stats",
                                                             "aten::batch_norm_gather_stats_with_counts"};
constexpr std::array<std::string_view, 1> kDrawsWithoutGenerator{"aten::native_dropout"};
constexpr std::array<std::string_view, 9> kTakesCpuTensors{"aten::_unsafe_index",
                                                           "aten::_ctc_loss",
                                                           "aten::_ctc_loss_backward",
                                                           "aten::index",
                                                           "aten::index_put",
                                                           "aten::index_put_",
                                                           "aten::_index_put_impl_",
                                                           "aten::_index_put_impl",
                                                           "aten::_pack_padded_sequence"};

c10::OperatorHandle compute_of(const c10::OperatorHandle& op) {
  const auto& name = op.operator_name();
  constexpr std::string_view kNamespace = "aten::";
  if (name.name.starts_with(kNamespace)) {
    const c10::OperatorName ours("trn::" + name.name.substr(kNamespace.size()), name.overload_name);
    if (auto found = c10::Dispatcher::singleton().findSchema(ours)) {
      return *found;
    }
  }
  return op;
}

}  // namespace

OperatorPlan::OperatorPlan(const c10::OperatorHandle& handle) : op(handle), compute(compute_of(handle)) {
  const auto& schema = op.schema();
  name = schema.name();
  if (name.starts_with("aten::")) {
    name.erase(0, 6);
  }
  if (!schema.overload_name().empty()) {
    name += "." + schema.overload_name();
  }
  num_arguments = schema.arguments().size();
  num_returns = schema.returns().size();
  is_foreach = schema.name().starts_with("aten::_foreach_");
  for (std::size_t i = 0; i < num_arguments; ++i) {
    const auto& argument = schema.arguments()[i];
    is_written.push_back(argument.alias_info() && argument.alias_info()->isWrite());
    writes_arguments |= is_written.back();
    is_changed.push_back(is_written.back() ||
                         (contains(kUpdatesStatistics, schema.name()) && argument.name().starts_with("running_")));
    may_be_on_host.push_back(contains(kTakesCpuTensors, schema.name()) &&
                             (argument.name() == "indices" || argument.name().ends_with("lengths")));
    is_on_host.push_back(is_foreach && argument.name() == "scalars" &&
                         argument.type()->kind() == c10::TypeKind::TensorType);
    may_be_on_host.back() = may_be_on_host.back() || is_on_host.back();
    is_index.push_back(argument.name() == "index" || argument.name() == "indices");
    auto type = argument.type();
    if (auto optional = type->cast<c10::OptionalType>()) {
      type = optional->getElementType();
    }
    if (argument.name() == "indices" && type->kind() == c10::TypeKind::ListType &&
        type->expectRef<c10::ListType>().getElementType()->kind() == c10::TypeKind::OptionalType) {
      indices_argument = static_cast<int>(i);
    }
    if (type->kind() == c10::TypeKind::GeneratorType) {
      generator_argument = static_cast<int>(i);
    }
  }
  if (num_returns == 1) {
    const auto kind = schema.returns()[0].type()->kind();
    returns_host_value = kind == c10::TypeKind::BoolType || kind == c10::TypeKind::IntType ||
                         kind == c10::TypeKind::FloatType || kind == c10::TypeKind::NumberType;
  }
  // The fused and foreach families mark their lists as written; batch norm's running statistics are not marked: the
  // alias writes them in place.
  draws_without_generator = contains(kDrawsWithoutGenerator, schema.name());
  is_untraced = schema.name() == "aten::convolution" && schema.overload_name().empty();
  result_size_depends_on_data = contains(kDataDependent, schema.name());
  sized_by_scalars = contains(kSizedByScalars, schema.name()) || schema.name().find("upsample") != std::string::npos;
  neuron_status = static_cast<int>(trn::aten::neuron_status(op.operator_name()));
}

namespace {

struct Plans {
  std::mutex mutex;
  std::unordered_map<c10::OperatorName, std::unique_ptr<OperatorPlan>> by_name;
};

Plans& plans() {
  static auto* instance = new Plans();  // leaked: operators run while statics are destroyed
  return *instance;
}

}  // namespace

const OperatorPlan& plan_of(const c10::OperatorHandle& op) {
  std::lock_guard lock(plans().mutex);
  auto& slot = plans().by_name[op.operator_name()];
  if (!slot) {
    slot = std::make_unique<OperatorPlan>(op);
  }
  return *slot;
}

void for_each_plan(const std::function<void(const OperatorPlan&)>& visit) {
  std::lock_guard lock(plans().mutex);
  for (const auto& [name, plan] : plans().by_name) {
    visit(*plan);
  }
}

}  // namespace trn::aten
