// The operators that go the short way, by ATen's names for them in ATen/ops/*_ops.h.
#pragma once

#include <string_view>

namespace trn::aten {

// Their kernels are registered in direct_ops.cpp.
bool has_direct_kernel(std::string_view full_name);

}  // namespace trn::aten
