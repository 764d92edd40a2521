// What a launch computes is neither differentiated nor traced: the operator itself was.
#pragma once

#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace trn::aten {

class BelowAutograd {
  c10::impl::ExcludeDispatchKeyGuard guard_{c10::autograd_dispatch_keyset_with_ADInplaceOrView |
                                            c10::DispatchKeySet(c10::DispatchKey::Tracer)};
};

// Whether torch.jit.trace records what operators are called.
inline bool is_tracing() {
  return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::Tracer);
}

}  // namespace trn::aten
