// Which operators go the short way: those of a signature that direct_ops.cpp lists.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace trn::aten {

// Registers the operator's direct kernel on `m`; false where its signature has none.
bool take_directly(torch::Library& m, const c10::OperatorHandle& op);

}  // namespace trn::aten
