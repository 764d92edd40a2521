// The switch between the CPU's values and those of the emulated NeuronCore.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "aten/launch_seam.h"
#include "aten/operator_plan.h"
#include "emu/numerics.h"

namespace trn::aten {

// Of the whole process. Counts and simulated time are the same in both.
bool hardware_numerics() noexcept;
emu::Numerics departures();
void set_numerics(bool hardware, const emu::Numerics& departures, const kernels::Precision& precision = {});

// Operators that ran in reference numerics while hardware numerics were asked for, and how often.
void list_reference_launch(const OperatorPlan& plan);
std::map<std::string, std::int64_t> reference_launches();
void clear_reference_launches();

// Launches whose programs held 64-bit elements in 32 bits, by operator and dtype.
std::map<std::string, std::map<std::string, std::int64_t>> narrowed_launches();
void clear_narrowed_launches();
// Called once per operator and dtype, before the first such launch writes anything; it may throw.
using NarrowingHandler = std::function<void(const std::string& op, const std::string& dtype)>;
void set_narrowing_handler(NarrowingHandler handler);

// For an operator of its own path: its program gives the results, or it is listed and nothing is written.
bool execute_or_list(const OperatorPlan& plan, c10::ArrayRef<c10::IValue> arguments,
                     c10::ArrayRef<c10::IValue> results);

// A launch seen for the first time: the CPU computes it for the layout of its results, then its program gives the
// values.
class HardwareRun {
 public:
  HardwareRun(const OperatorPlan& plan, c10::ArrayRef<c10::IValue> arguments);
  // index_select where an index out of bounds is no error: the CPU's kernel gets one that it takes.
  void bound_index(c10::IValue* aliases);
  void finish(const KeyWords& key, c10::ArrayRef<c10::IValue> results);

  // A launch whose results' layout is known runs its program alone: results take the arguments' place on the stack.
  // False where it is not known, or the program cannot run.
  static bool repeat(const OperatorPlan& plan, const KeyWords& key, int device, torch::jit::Stack& stack,
                     Operands& operands);

 private:
  struct Written {
    at::Tensor alias, before;
  };
  void remember(const KeyWords& key, c10::ArrayRef<c10::IValue> results) const;

  const OperatorPlan& plan_;
  bool may_execute_, is_out_of_bounds_ = false;
  std::vector<c10::IValue> arguments_;
  std::vector<Written> written_;
};

}  // namespace trn::aten
