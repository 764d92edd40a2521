// From an operator call to a launch: its key, its variant, its entry on the clock and in the ledger.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/util/SmallVector.h>

#include <cstdint>

#include "aten/launch_arguments.h"
#include "aten/operator_plan.h"
#include "kernels/shapes.h"
#include "runtime/system.h"

namespace trn::aten {

using KeyWords = c10::SmallVector<std::int64_t, 64>;

// What the compiler's options make of every launch from now on. Kept with each launch, and part of its key.
void set_precision(const kernels::Precision& precision);
kernels::Precision precision();
// The first word of a launch's key: its operator and the precision.
std::int64_t key_of(const OperatorPlan& plan);
// The table's rule for a launch, in the precision in force.
kernels::Spec spec_of(const LaunchArguments& arguments);

void append_key(KeyWords& key, const at::Tensor& tensor);
void append_key(KeyWords& key, const c10::IValue& value);  // what is no tensor

// The variant of the key, made from the op table's rule on first sight. `inputs` and `outputs` are device tensors.
const runtime::LaunchVariant* make_variant(const OperatorPlan& plan, const KeyWords& key,
                                           c10::ArrayRef<c10::IValue> inputs, c10::ArrayRef<c10::IValue> outputs);

struct Operands {
  c10::SmallVector<runtime::BlockUse, 8> reads, writes;
  void read(const at::Tensor& tensor);
  void write(const at::Tensor& tensor);
};

bool recording();
void launch(const OperatorPlan& plan, const runtime::LaunchVariant& variant, int device, const Operands& operands);
// A value of `bytes` crosses to or from the host because of `op_name`.
void host_copy(std::string_view op_name, int device, runtime::Direction direction, std::int64_t bytes, bool blocking);

// What becomes of an operator that makes the host wait for the device; as torch.cuda numbers it.
enum class SyncDebugMode { off, warn, error };
void set_sync_debug_mode(SyncDebugMode mode);
SyncDebugMode sync_debug_mode();

// Strict mode: operators that TorchNeuron would run on the host raise.
void set_strict_fallback(bool strict);
// What every call of an operator begins with: it is counted, and checked in strict mode.
void begin_call(const OperatorPlan& plan);

}  // namespace trn::aten
