// Pinned host memory: page-aligned host blocks that transfers to the device can be told apart by.
#pragma once

#include <ATen/core/CachingHostAllocator.h>

namespace trn::aten {

at::HostAllocator* host_allocator();
bool is_pinned(const void* ptr);

}  // namespace trn::aten
