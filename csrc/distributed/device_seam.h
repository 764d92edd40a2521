// What the backend asks of the device's PyTorch seam; the bindings, which see both, fill it in.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "runtime/system.h"

namespace trn::distributed {

struct DeviceSeam {
  runtime::System& (*system)() = nullptr;
  int (*current_device)() = nullptr;  // -1 before any was used
  int (*current_stream)(int device) = nullptr;
  runtime::Site (*current_site)() = nullptr;
  // A dry run: the values of a device tensor as a CPU tensor over the same memory, undefined where it holds none; is
  // it about to be written with values, that is, will it hold them; it was written without.
  at::Tensor (*held_values)(const at::Tensor& tensor) = nullptr;
  bool (*may_write_values)(const at::Tensor& tensor) = nullptr;
  void (*lose_values)(const at::Tensor& tensor) = nullptr;
  // Runs what may block on other threads, Python's lock released if this thread holds it.
  void (*blocking)(const std::function<void()>& work) = nullptr;
};

}  // namespace trn::distributed
