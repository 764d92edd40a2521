// THE operator table: family, engines, count rule of every operator, by its ATen base name.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "aten/launch_arguments.h"

namespace trn::aten {

struct OpRow {
  std::string_view name;     // base name without overload and without the in-place underscore: "add", "_foreach_add"
  std::string_view family;   // one of kernels::kFamilyNames, or "host": it runs on the host, and is costed as transfers
  std::string_view engines;  // "TensorE", "VectorE+ScalarE", ...
  CountRule rule;
  std::string_view no_program = {};  // why no program of it executes; empty: one does, if not of all arguments
};

// Of a row, or of its whole family.
std::string_view no_program(const OpRow& row);

std::span<const OpRow> op_table();  // sorted by name; duplicates fail the build

// The row of an operator (aten::add_.Tensor finds "add"), or the generic row where the table has none.
const OpRow& find_op(const c10::OperatorName& name);
const OpRow& find_op(std::string_view base_name);

// Views, metadata, allocation without a value.
bool launches_nothing(const c10::OperatorName& name);

// Where AWS's TorchNeuron runs an overload: on its device, on the host on purpose, or on the host because it registers
// nothing for it.
enum class NeuronStatus : std::uint8_t { native, host, absent };
NeuronStatus neuron_status(const c10::OperatorName& name);
std::string_view name(NeuronStatus status);

}  // namespace trn::aten
