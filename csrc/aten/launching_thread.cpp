#include "aten/launching_thread.h"

#include <c10/core/AutogradState.h>

namespace trn::aten {

LaunchingThread::LaunchingThread() {
  c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
}

LaunchingThread& LaunchingThread::current() {
  thread_local LaunchingThread thread;
  return thread;
}

}  // namespace trn::aten
