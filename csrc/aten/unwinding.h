// What a kernel that raises has done to its operands already.
#pragma once

#include <utility>

namespace trn::aten {

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
    throw;
  }
}

}  // namespace trn::aten
