// What a thread that launches has of its own, made by its first launch.
#pragma once

#include "aten/alias.h"

namespace trn::aten {

struct LaunchingThread {
  // Backward of device work runs on the calling thread, as on the CPU: an engine thread per device would bring an
  // OpenMP team of its own that competes with the caller's for the same cores.
  LaunchingThread();
  static LaunchingThread& current();

  AliasPool aliases;
};

// An alias for one scope.
class BorrowedAlias {
 public:
  explicit BorrowedAlias(const at::Tensor& tensor)
      : pool_(LaunchingThread::current().aliases), alias_(pool_.borrow(tensor)) {}
  ~BorrowedAlias() { pool_.give_back(alias_); }
  BorrowedAlias(const BorrowedAlias&) = delete;
  BorrowedAlias& operator=(const BorrowedAlias&) = delete;

  const at::Tensor& operator*() const { return alias_; }

 private:
  AliasPool& pool_;
  at::Tensor alias_;
};

}  // namespace trn::aten
