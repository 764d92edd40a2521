#include "distributed/failure.h"

#include <c10/util/Exception.h>

namespace trn::distributed {

void raise(const std::string& message) {
  C10_THROW_ERROR(DistBackendError, message);
}

void Failure::check(const char* name) const {
  if (const std::string first = why(); !first.empty()) {
    raise("[" + std::string(name) + "] a group that failed cannot be used again; got the error: " + first);
  }
}

void Failure::set(const std::string& why) {
  std::lock_guard lock(mutex_);
  if (why_.empty()) {
    why_ = why;
  }
}

std::string Failure::why() const {
  std::lock_guard lock(mutex_);
  return why_;
}

}  // namespace trn::distributed
