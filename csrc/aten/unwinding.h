// What a kernel that raises has done to its operands already, and what it calls the device.
#pragma once

#include <c10/util/Exception.h>

#include <utility>

namespace trn::aten {

// Throws the error again, of the same type. Where its text says that the CPU does not support something, it names the
// device: its operators are CPU kernels on aliases.
[[noreturn]] void rethrow_of_device(const c10::Error& error);

// Runs `kernel`; where it raises, `follow` first hands on what it resized before. Its own error is the one that is
// seen.
template <class Kernel, class Follow>
decltype(auto) following_errors(Kernel kernel, Follow follow) {
  try {
    return kernel();
  } catch (...) {
    try {
      follow();
    } catch (...) {  // NOLINT: the kernel's error says more
    }
    try {
      throw;
    } catch (const c10::Error& error) {
      rethrow_of_device(error);
    }
  }
}

}  // namespace trn::aten
