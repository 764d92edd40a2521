// The switch between the CPU's values and those of the emulated NeuronCore.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "aten/operator_plan.h"
#include "emu/numerics.h"

namespace trn::aten {

// Of the whole process. Counts and simulated time are the same in both.
bool hardware_numerics() noexcept;
emu::Numerics departures();
void set_numerics(bool hardware, const emu::Numerics& departures);

// Operators that ran in reference numerics while hardware numerics were asked for, and how often.
std::map<std::string, std::int64_t> reference_launches();
void clear_reference_launches();

// One launch: the CPU computes it for the shapes of its results, then its program gives the values.
class HardwareRun {
 public:
  HardwareRun(const OperatorPlan& plan, c10::ArrayRef<c10::IValue> arguments);
  void finish(c10::ArrayRef<c10::IValue> results);

 private:
  struct Written {
    at::Tensor alias, before;
  };
  const OperatorPlan& plan_;
  bool may_execute_;
  std::vector<c10::IValue> arguments_;
  std::vector<Written> written_;
};

}  // namespace trn::aten
