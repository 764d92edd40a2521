// Registers the seam: every operator that the CPU computes natively, and a fallback that names what it cannot run.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <array>
#include <string>
#include <string_view>

#include "aten/any_layout.h"
#include "aten/direct_ops.h"
#include "aten/fallback.h"
#include "aten/launch_seam.h"

namespace trn::aten {

namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::OperatorHandle;
using torch::jit::Stack;

// Have a kernel of their own in this folder, or only change metadata through PyTorch's device-independent one.
constexpr std::array<std::string_view, 25> kOwnKernel{"aten::empty.memory_format",
                                                      "aten::empty_strided",
                                                      "aten::_efficientzerotensor",
                                                      "aten::_embedding_bag_backward",
                                                      "aten::resize_",
                                                      "aten::set_.source_Storage_storage_offset",
                                                      "aten::set_.source_Storage",
                                                      "aten::set_.source_Tensor",
                                                      "aten::set_",
                                                      "aten::record_stream",
                                                      "aten::view",
                                                      "aten::_reshape_alias",
                                                      "aten::as_strided",
                                                      "aten::unfold",
                                                      "aten::view_as_real",
                                                      "aten::view_as_complex",
                                                      "aten::_has_compatible_shallow_copy_type",
                                                      "aten::_copy_from",
                                                      "aten::_copy_from_and_resize",
                                                      "aten::_local_scalar_dense",
                                                      "aten::_fused_sdp_choice",
                                                      "aten::is_set_to",
                                                      "aten::_pin_memory",
                                                      "aten::is_pinned",
                                                      "aten::resize_as_"};

// Decompose on the device unless they are taken whole: one launch, as the hardware's own kernel would be.
// (mode and conj_physical_ look for the names of the devices that they know.)
constexpr std::array<std::string_view, 5> kTakenWhole{"aten::convolution", "aten::convolution_backward",
                                                      "aten::kaiser_window", "aten::mode", "aten::conj_physical_"};

// No CPU kernel in PyTorch, or one that launches others; ours is in cpu_kernels/, under the same name in the namespace
// `trn`.
constexpr std::array<std::string_view, 15> kOwnCpuKernel{"_scaled_dot_product_fused_attention_overrideable",
                                                         "_scaled_dot_product_fused_attention_overrideable_backward",
                                                         "_grouped_mm",
                                                         "_fused_rms_norm",
                                                         "_fused_rms_norm_backward",
                                                         "_thnn_fused_lstm_cell",
                                                         "_thnn_fused_lstm_cell_backward_impl",
                                                         "_thnn_fused_gru_cell",
                                                         "_thnn_fused_gru_cell_backward",
                                                         "batch_norm_stats",
                                                         "batch_norm_gather_stats",
                                                         "batch_norm_gather_stats_with_counts",
                                                         "batch_norm_elemt",
                                                         "batch_norm_backward_reduce",
                                                         "batch_norm_backward_elemt"};

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& names, const std::string& name) {
  for (auto item : names) {
    if (item == name) {
      return true;
    }
  }
  return false;
}

struct Kernel final : c10::OperatorKernel {
  explicit Kernel(c10::OperatorName operator_name) : name(std::move(operator_name)) {}
  void operator()(const OperatorHandle& op, DispatchKeySet, Stack* stack) {
    const OperatorPlan& known = plan(op);
    begin_call(known);
    run_on_device(known, stack);
  }
  c10::OperatorName name;
  LazyPlan plan;
};

std::string full_name(const c10::OperatorName& name) {
  return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

// Operators registered after us (a user's own, a vision library's): with a CPU kernel they run, without one they say
// so.
void unregistered(const OperatorHandle& op, Stack* stack) {
  TORCH_CHECK_NOT_IMPLEMENTED(op.hasKernelForDispatchKey(DispatchKey::CPU) ||
                                  op.hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutograd),
                              "Could not run '", full_name(op.operator_name()),
                              "' with arguments from the 'trn' backend: it has neither a trn nor a CPU kernel. "
                              "Register one with torch.library, "
                              "or run this part of the model on the CPU.");
  const OperatorPlan& plan = plan_of(op);
  begin_call(plan);
  run_on_device(plan, stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&unregistered>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  auto take = [&](const c10::OperatorName& name) {
    m.impl(full_name(name).c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Kernel>(name)));
  };
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (!name.name.starts_with("aten::") || contains(kOwnKernel, full_name(name)) ||
        makes_other_layout(full_name(name))) {
      continue;
    }
    const auto op = dispatcher.findSchema(name);
    if (!op) {
      continue;
    }
    const std::string base = name.name.substr(6);
    const bool foreach = base.starts_with("_foreach_") && name.overload_name.find("out") == std::string::npos;
    if (op->hasKernelForDispatchKey(DispatchKey::CPU) || foreach || contains(kTakenWhole, name.name) ||
        (contains(kOwnCpuKernel, base) && name.overload_name.empty())) {
      if (!take_directly(m, *op)) {
        take(name);
      }
    }
  }
}

}  // namespace

}  // namespace trn::aten
