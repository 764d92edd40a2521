// Operators on sparse, quantized and nested tensors: the CPU's kernel for that layout runs on aliases of the members.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <functional>
#include <string_view>

namespace trn::aten {

// Takes dense tensors and makes sparse, quantized or nested ones.
bool makes_other_layout(std::string_view full_name);

// Registers on `m`'s key every operator of `name_space` that the CPU computes for `cpu_key`, but for those in `skip`.
void take_layout(torch::Library& m, std::string_view name_space, c10::DispatchKey cpu_key,
                 const std::function<bool(std::string_view)>& skip);

}  // namespace trn::aten
