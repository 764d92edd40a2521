// The first error of a group, after which its connections are of no use.
#pragma once

#include <mutex>
#include <string>

namespace trn::distributed {

class Failure {
 public:
  // Raises when the group has failed, in the name of the call that wants to use it.
  void check(const char* name) const;
  void set(const std::string& why);
  std::string why() const;

 private:
  mutable std::mutex mutex_;
  std::string why_;
};

// Raises as torch.distributed.DistBackendError.
[[noreturn]] void raise(const std::string& message);

}  // namespace trn::distributed
