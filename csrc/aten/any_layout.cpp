#include "aten/any_layout.h"

#include <ATen/core/List.h>
#include <ATen/core/stack.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aten/alias.h"
#include "aten/allocator.h"
#include "aten/below_autograd.h"
#include "aten/fallback.h"
#include "aten/launch_seam.h"
#include "aten/numerics.h"
#include "aten/op_table.h"
#include "aten/operator_plan.h"
#include "aten/system.h"
#include "aten/unwinding.h"

namespace trn::aten {

namespace {

using c10::DispatchKey;
using c10::IValue;
using torch::jit::Stack;

constexpr std::string_view kMakesOtherLayout[] = {
    "aten::_embedding_bag_sparse_backward",
    "aten::_empty_affine_quantized",
    "aten::_empty_per_channel_affine_quantized",
    "aten::_make_per_channel_quantized_tensor",
    "aten::_make_per_tensor_quantized_tensor",
    "aten::_nested_from_padded",
    "aten::_nested_view_from_buffer",
    "aten::_to_sparse",
    "aten::_to_sparse.sparse_dim",
    "aten::_to_sparse_bsc",
    "aten::_to_sparse_bsr",
    "aten::_to_sparse_csc",
    "aten::_to_sparse_csr",
    "aten::quantize_per_channel",
    "aten::quantize_per_tensor",
    "aten::quantize_per_tensor.tensor_qparams",
    "aten::quantize_per_tensor.tensors",
    "aten::quantize_per_tensor_dynamic",
};

// The host learns the number of stored elements.
constexpr std::string_view kCountsOnHost[] = {"_coalesce",      "_sparse_sparse_matmul", "_to_sparse",
                                              "_to_sparse_bsc", "_to_sparse_bsr",        "_to_sparse_csc",
                                              "_to_sparse_csr"};
// Sparse times dense: a row of the dense factor per stored element.
constexpr std::string_view kProducts[] = {
    "_sparse_mm", "addmm", "addmv", "baddbmm", "bmm", "hspmm", "mm", "mv", "smm", "sparse_sampled_addmm", "sspaddmm"};

template <std::size_t N>
bool contains(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

template <class Visit>
void each_tensor(const IValue& value, Visit visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) {
      visit(value.toTensor());
    }
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorList()) {
      if (tensor.defined()) {
        visit(tensor);
      }
    }
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
      if (tensor && tensor->defined()) {
        visit(*tensor);
      }
    }
  }
}

template <class Change>
void change_tensors(IValue& value, Change change) {
  if (value.isTensor()) {
    value = IValue(change(value.toTensor()));
  } else if (value.isTensorList()) {
    c10::List<at::Tensor> changed;
    for (const at::Tensor& tensor : value.toTensorList()) {
      changed.push_back(change(tensor));
    }
    value = IValue(std::move(changed));
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> changed;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
      changed.push_back(tensor ? std::optional<at::Tensor>(change(*tensor)) : std::nullopt);
    }
    value = IValue(std::move(changed));
  }
}

bool is_nested(const at::Tensor& tensor) {
  return tensor.key_set().has(DispatchKey::NestedTensor);
}

std::vector<at::Tensor> members_of(c10::ArrayRef<IValue> values) {
  std::vector<at::Tensor> members;
  for (const auto& value : values) {
    each_tensor(value, [&](const at::Tensor& tensor) {
      for (const auto& member : aten::members_of(tensor)) {
        if (member.defined() && member.device().is_privateuseone()) {
          members.push_back(member);
        }
      }
    });
  }
  return members;
}

struct Devices {
  int launch = -1;   // the device of the tensors, or of the device argument
  int results = -1;  // where fresh results lie: a device argument's place comes first
  bool results_on_device = true;
};

Devices devices_of(const OperatorPlan& plan, c10::ArrayRef<IValue> arguments) {
  Devices found;
  bool nested = plan.name.starts_with("_nested");
  bool may_be_on_host = true;
  std::optional<c10::Device> elsewhere;
  for (const auto& value : arguments) {
    each_tensor(value, [&](const at::Tensor& tensor) {
      nested = nested || is_nested(tensor);
      const c10::Device device = tensor.device();
      if (!device.is_privateuseone()) {
        may_be_on_host = may_be_on_host && is_plain(tensor) && device.is_cpu();
        if (!is_plain(tensor) || tensor.dim() != 0 || !device.is_cpu()) {
          elsewhere = device;
        }
        return;
      }
      TORCH_CHECK(found.launch < 0 || found.launch == device.index(),
                  "Expected all tensors to be on the same device, but found at least two devices, ",
                  aten::device(found.launch), " and ", device, "! (when running ", plan.name, ")");
      found.launch = device.index();
    });
    if (value.isDevice()) {
      found.results_on_device = value.toDevice().is_privateuseone();
      if (found.results_on_device) {
        found.results = resolve(value.toDevice());
      }
    }
  }
  if (found.launch < 0) {
    found.launch = found.results >= 0 ? found.results : current_device();
  }
  if (found.results < 0) {
    found.results = found.launch;
  }
  // A nested tensor's sizes lie on the host; empty_quantized reads the quantizer of its argument, and no element.
  TORCH_CHECK(!elsewhere || (nested && may_be_on_host) || plan.name == "empty_quantized",
              "Expected all tensors to be on the same device, but found at least two devices, ",
              aten::device(found.launch), " and ", elsewhere.value_or(c10::Device(c10::kCPU)), "! (when running ",
              plan.name, ")");
  return found;
}

void append_to_key(KeyWords& key, const IValue& value) {
  if (!value.isTensor() && !value.isTensorList() && !value.isOptionalTensorList()) {
    if (!value.isDevice() && !value.isObject()) {
      append_key(key, value);
    }
    return;
  }
  each_tensor(value, [&](const at::Tensor& tensor) {
    key.push_back(static_cast<std::int64_t>(tensor.layout()) << 1 | static_cast<std::int64_t>(is_nested(tensor)));
    if (is_nested(tensor)) {
      key.push_back(tensor.numel() << 8 | static_cast<std::int64_t>(tensor.scalar_type()));
      return;
    }
    if (is_sparse(tensor)) {
      const auto sizes = tensor.sizes();
      key.append(sizes.begin(), sizes.end());
    }
    for (const auto& member : aten::members_of(tensor)) {
      append_key(key, member);
    }
  });
}

std::vector<kernels::Access> accesses(const std::vector<at::Tensor>& members) {
  std::vector<kernels::Access> out;
  for (const auto& member : members) {
    if (member.numel() > 0) {
      out.push_back(access_of(member));
    }
  }
  return out;
}

// Of the dense factor, how many elements meet each stored element of the sparse one; 0 where both are sparse, as then
// the values of the indices decide.
std::int64_t row_of_product(const std::vector<at::Tensor>& factors) {
  for (std::size_t i = 0; i < factors.size(); ++i) {
    if (!is_plain(factors[i])) {
      continue;
    }
    const bool is_second = i > 0;
    const std::int64_t dim = factors[i].dim();
    return dim == 1 ? 1 : factors[i].size(is_second ? dim - 1 : dim - 2);
  }
  return 0;
}

// Per stored element: a row of the dense factor is picked, and added to a row of the result. A sampled product picks a
// row of either dense factor.
void append_product(kernels::Spec& spec, const OperatorPlan& plan, c10::ArrayRef<IValue> inputs,
                    c10::ArrayRef<IValue> outputs) {
  std::vector<at::Tensor> factors;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].isTensor() && inputs[i].toTensor().defined() && !plan.is_written[i]) {
      factors.push_back(inputs[i].toTensor());
    }
  }
  if (factors.size() < 2 || outputs.empty() || !outputs[0].isTensor()) {
    return;
  }
  const at::Tensor sampled = factors.front(), out = outputs[0].toTensor();
  factors.erase(factors.begin(), factors.size() > 2 ? factors.end() - 2 : factors.begin());
  const auto is_stored = std::ranges::find_if(factors, is_sparse);
  const bool is_sampled = is_stored == factors.end() && is_sparse(sampled);
  if (is_stored == factors.end() && !is_sampled) {
    return;  // nested
  }
  kernels::IndexShape row;
  row.dtype = dtype_of(out.scalar_type());
  row.row_elements = is_sampled ? factors[0].size(-1) : row_of_product(factors);
  const at::Tensor& stored = is_sampled ? sampled : *is_stored;
  row.num_rows = row.num_indices = aten::members_of(stored).back().numel();
  if (row.num_rows > 0 && row.row_elements > 0) {
    row.kind = kernels::IndexKind::gather;
    spec.emplace_back(row);
    row.kind = is_sampled ? kernels::IndexKind::gather : kernels::IndexKind::scatter_add;
    row.scales = true;
    spec.emplace_back(row);
  }
}

kernels::Spec spec_of(const OperatorPlan& plan, c10::ArrayRef<IValue> inputs, c10::ArrayRef<IValue> outputs) {
  bool fits_the_rule = true;
  auto check = [&](const at::Tensor& tensor) {
    fits_the_rule = fits_the_rule && !is_sparse(tensor) && !is_nested(tensor);
  };
  for (const auto& value : inputs) {
    each_tensor(value, check);
  }
  if (!plan.name.starts_with("_to_sparse")) {
    for (const auto& value : outputs) {
      each_tensor(value, check);
    }
  }
  if (fits_the_rule) {
    const LaunchArguments arguments(plan.op, inputs, outputs);
    return spec_of(arguments);
  }
  kernels::GenericShape shape{accesses(members_of(inputs)), accesses(members_of(outputs))};
  if (shape.inputs.empty() && shape.outputs.empty()) {
    return {};
  }
  kernels::Spec spec{std::move(shape)};
  if (contains(kProducts, base_name(plan.op.operator_name().name))) {
    append_product(spec, plan, inputs, outputs);
  }
  return spec;
}

bool shares_memory(const at::Tensor& tensor, const std::vector<at::Tensor>& others) {
  const c10::StorageImpl* storage = tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
  return storage->nbytes() == 0 || std::any_of(others.begin(), others.end(), [&](const at::Tensor& other) {
           return other.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl() == storage;
         });
}

// Looks at metadata only: what comes back lies where the arguments lie, or is a number that the host knows.
bool is_metadata_only(const OperatorPlan& plan, const std::vector<at::Tensor>& inputs,
                      const std::vector<at::Tensor>& outputs) {
  if (launches_nothing(plan.op.operator_name()) || plan.name.starts_with("empty")) {
    return true;
  }
  if (std::find(plan.is_written.begin(), plan.is_written.end(), true) != plan.is_written.end() ||
      plan.name == "equal") {
    return plan.name == "_coalesced_";
  }
  return std::all_of(outputs.begin(), outputs.end(),
                     [&](const at::Tensor& output) { return shares_memory(output, inputs); });
}

void charge(const OperatorPlan& plan, int device, c10::ArrayRef<IValue> inputs, c10::ArrayRef<IValue> outputs) {
  const auto read = members_of(inputs), written = members_of(outputs);
  if (is_metadata_only(plan, read, written)) {
    return;
  }
  KeyWords key;
  key.push_back(key_of(plan));
  for (const auto values : {inputs, outputs}) {
    for (const auto& value : values) {
      append_to_key(key, value);
    }
  }
  const runtime::LaunchVariant* variant = system().launches().find(key);
  if (!variant) {
    try {
      variant = system().launches().insert(key, plan.name, spec_of(plan, inputs, outputs));
    } catch (const trn::Error& error) {
      rethrow(error);
    }
  }
  Operands operands;
  if (recording()) {
    for (const auto& member : read) {
      if (member.unsafeGetTensorImpl()->has_storage()) {
        operands.read(member);
      }
    }
    for (const auto& member : written) {
      if (member.unsafeGetTensorImpl()->has_storage()) {
        operands.write(member);
      }
    }
  }
  launch(plan, *variant, device, operands);
  if (hardware_numerics()) {
    list_reference_launch(plan);
  }
  if (contains(kCountsOnHost, base_name(plan.op.operator_name().name)) || plan.returns_host_value) {
    host_copy(plan.name, device, runtime::Direction::to_host, 8, true);
  }
}

void run(const OperatorPlan& plan, DispatchKey cpu_key, Stack* stack) {
  begin_call(plan);
  const std::size_t begin = stack->size() - plan.num_arguments;
  const std::vector<IValue> originals(stack->begin() + static_cast<std::ptrdiff_t>(begin), stack->end());
  const Devices devices = devices_of(plan, originals);
  // This kernel keeps what its backward needs only for arguments that require a gradient.
  const bool asks_for_gradients = plan.name == "_sparse_mm_reduce_impl";
  Aliases aliases(devices.results);
  for (std::size_t i = 0; i < plan.num_arguments; ++i) {
    IValue& value = (*stack)[begin + i];
    if (value.isDevice() && value.toDevice().is_privateuseone()) {
      value = IValue(c10::Device(c10::kCPU));
    } else {
      change_tensors(value, [&](const at::Tensor& tensor) {
        at::Tensor alias = aliases.to_cpu(tensor, plan.is_written[i]);
        if (asks_for_gradients && tensor.requires_grad()) {
          alias.unsafeGetTensorImpl()->set_requires_grad(true);
        }
        return alias;
      });
    }
  }
  {
    BelowAutograd below_autograd;
    std::optional<DeviceScope> scope;
    if (devices.results_on_device) {
      scope.emplace(devices.results);
    }
    following_errors([&] { plan.op.redispatchBoxed(c10::DispatchKeySet(cpu_key), stack); },
                     [&] { aliases.follow_written(); });
  }
  const std::size_t first_result = stack->size() - plan.num_returns;
  if (devices.results_on_device) {
    for (std::size_t i = first_result; i < stack->size(); ++i) {
      change_tensors((*stack)[i], [&](const at::Tensor& tensor) { return aliases.to_device(tensor); });
    }
  }
  aliases.follow_written();
  charge(plan, devices.launch, originals, c10::ArrayRef<IValue>(*stack).slice(first_result));
}

// embedding_bag's backward with sparse=False: plain tensors in and out, as any operator's.
bool stays_plain(const OperatorPlan& plan, const Stack& stack) {
  const auto sparse = plan.op.schema().argumentIndexWithName("sparse");
  return sparse && plan.name == "_embedding_bag_backward" &&
         !stack[stack.size() - plan.num_arguments + static_cast<std::size_t>(*sparse)].toBool();
}

struct Kernel final : c10::OperatorKernel {
  explicit Kernel(DispatchKey key) : cpu_key(key) {}
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    const OperatorPlan& known = plan(op);
    if (stays_plain(known, *stack)) {
      run_on_device(known, stack);
    } else {
      run(known, cpu_key, stack);
    }
  }
  DispatchKey cpu_key;
  LazyPlan plan;
};

std::string full_name(const c10::OperatorName& name) {
  return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  take_layout(m, "aten", DispatchKey::CPU, [](std::string_view name) { return !makes_other_layout(name); });
}

}  // namespace

bool makes_other_layout(std::string_view name) {
  return contains(kMakesOtherLayout, name);
}

void take_layout(torch::Library& m, std::string_view name_space, DispatchKey cpu_key,
                 const std::function<bool(std::string_view)>& skip) {
  auto& dispatcher = c10::Dispatcher::singleton();
  const std::string prefix = std::string(name_space) + "::";
  for (const auto& name : dispatcher.getAllOpNames()) {
    const std::string full = full_name(name);
    if (!full.starts_with(prefix) || skip(full) || name.name == "aten::_pin_memory") {  // only host memory is pinned
      continue;
    }
    const auto op = dispatcher.findSchema(name);
    if (op && op->hasKernelForDispatchKey(cpu_key)) {
      m.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Kernel>(cpu_key)));
    }
  }
}

}  // namespace trn::aten
