// What the backend asks of the device's PyTorch seam; the bindings, which see both, fill it in.
#pragma once

#include <functional>

#include "runtime/system.h"

namespace trn::distributed {

struct DeviceSeam {
  runtime::System& (*system)() = nullptr;
  int (*current_device)() = nullptr;  // -1 before any was used
  int (*current_stream)(int device) = nullptr;
  runtime::Site (*current_site)() = nullptr;
  // Runs what may block on other threads, Python's lock released if this thread holds it.
  void (*blocking)(const std::function<void()>& work) = nullptr;
};

}  // namespace trn::distributed
