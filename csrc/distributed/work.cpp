#include "distributed/work.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/ivalue_inl.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "distributed/turns.h"

namespace trn::distributed {

namespace {

c10::Stream stream_of(int device, int stream) {
  return c10::Stream(c10::Stream::UNSAFE,
                     c10::Device(c10::DeviceType::PrivateUse1, static_cast<c10::DeviceIndex>(device)), stream);
}

}  // namespace

c10::intrusive_ptr<c10::ivalue::Future> tensor_future(int device) {
  std::vector<c10::Device> devices;
  if (device >= 0) {
    devices.emplace_back(c10::DeviceType::PrivateUse1, static_cast<c10::DeviceIndex>(device));
  }
  return c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()), devices);
}

CollectiveWork::CollectiveWork(int rank, c10d::OpType type, const char* title, std::uint64_t number,
                               std::vector<at::Tensor> inputs, std::vector<at::Tensor> outputs, Place place,
                               const DeviceSeam& seam, std::shared_ptr<Queue> queue, Body body)
    : Work(rank, type, title, inputs.empty() ? std::nullopt : std::make_optional(inputs)),
      number_(number),
      outputs_(std::move(outputs)),
      place_(place),
      seam_(seam),
      queue_(std::move(queue)),
      body_(std::move(body)),
      future_(tensor_future(place.device)) {}

void CollectiveWork::run() {
  // Neither autograd nor a Python mode has a part in the transport's own tensors.
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const c10::impl::ExcludeDispatchKeyGuard below_modes(
      c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot}));
  std::exception_ptr error;
  try {
    end_ = body_();
    if (place_.device >= 0) {
      seam_.system().device(place_.device).clock.wait(place_.stream, end_);
    }
  } catch (...) {
    error = std::current_exception();
  }
  body_ = nullptr;
  finish(error);
}

void CollectiveWork::publish() {
  if (const auto error = exception()) {
    future_->setErrorIfNeeded(error);
  } else if (place_.device < 0) {
    future_->markCompleted(c10::IValue(outputs_));
  } else {
    const c10::StreamGuard on_own_stream(stream_of(place_.device, place_.stream));
    future_->markCompleted(c10::IValue(outputs_));
  }
}

bool CollectiveWork::wait(std::chrono::milliseconds timeout) {
  const auto finish_it = [&] {
    if (timeout == kNoTimeout) {
      queue_->drive(*this);
    } else {
      queue_->start();
    }
    Work::wait(timeout);
  };
  if (Work::isCompleted()) {
    Work::wait(timeout);  // rethrows
  } else {
    wait_in([this] { return description_; }, finish_it);
  }
  synchronize();
  return true;
}

bool CollectiveWork::isCompleted() {
  if (!Work::isCompleted()) {
    wait_in([this] { return description_; }, [] {});  // who asks in a loop lets other ranks come
  }
  return Work::isCompleted();
}

c10::intrusive_ptr<c10::ivalue::Future> CollectiveWork::getFuture() {
  // Of the ranks of one process: who waits for a future, or hangs a callback on it, has no other rank's turn. So the
  // future is done when it is given away; on the simulated clock nobody has waited.
  if (has_turn()) {
    wait_in([this] { return description_; },
            [this] {
              queue_->start();
              {
                std::unique_lock lock(mutex_);
                cv_.wait(lock, [this] { return completed_; });
              }
              while (!future_->completed()) {
                std::this_thread::yield();
              }
            });
  }
  return future_;
}

void CollectiveWork::synchronize() {
  if (place_.device >= 0) {
    seam_.system().device(place_.device).clock.wait(seam_.current_stream(place_.device), end_);
  }
}

void Queue::push(c10::intrusive_ptr<CollectiveWork> work) {
  std::lock_guard lock(mutex_);
  works_.push_back(std::move(work));
}

void Queue::start() {
  std::lock_guard lock(mutex_);
  add_thread_if_none_is_idle();
  wake_.notify_one();
}

void Queue::add_thread_if_none_is_idle() {
  if (num_idle_ == 0 && !closing_) {
    ++num_idle_;
    threads_.emplace_back([self = shared_from_this()] { self->serve(); });
  }
}

void Queue::serve() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closing_ || !works_.empty(); });
      --num_idle_;
      if (works_.empty()) {
        return;
      }
    }
    if (const auto work = run_next()) {
      {
        std::lock_guard lock(mutex_);
        add_thread_if_none_is_idle();
      }
      work->publish();
    }
    std::lock_guard lock(mutex_);
    ++num_idle_;
  }
}

c10::intrusive_ptr<CollectiveWork> Queue::run_next() {
  std::lock_guard running(running_mutex_);
  c10::intrusive_ptr<CollectiveWork> work;
  {
    std::lock_guard lock(mutex_);
    if (works_.empty()) {
      return {};
    }
    work = std::move(works_.front());
    works_.pop_front();
  }
  work->run();
  return work;
}

void Queue::drive(CollectiveWork& work) {
  while (!work.isCompleted()) {
    const auto done = run_next();
    if (!done) {
      return;  // a thread of the queue has it
    }
    done->publish();
  }
}

void Queue::close() {
  std::vector<std::thread> threads;
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    threads.swap(threads_);
  }
  wake_.notify_all();
  for (auto& thread : threads) {
    if (thread.get_id() == std::this_thread::get_id()) {
      thread.detach();  // the last owner was a callback
    } else {
      thread.join();
    }
  }
  while (const auto work = run_next()) {
    work->publish();
  }
}

bool WorkList::wait(std::chrono::milliseconds timeout) {
  for (const auto& work : works_) {
    work->wait(timeout);
  }
  finish();
  return true;
}

bool WorkList::isCompleted() {
  for (const auto& work : works_) {
    if (!work->isCompleted()) {
      return false;
    }
  }
  return true;
}

bool WorkList::isSuccess() const {
  for (const auto& work : works_) {
    if (!work->isSuccess()) {
      return false;
    }
  }
  return true;
}

void WorkList::synchronize() {
  for (const auto& work : works_) {
    work->synchronize();
  }
}

c10::intrusive_ptr<c10::ivalue::Future> WorkList::getFuture() {
  TORCH_CHECK(!works_.empty(), "[coalescing] a future needs at least one call; got none.");
  return works_.back()->getFuture();  // works of a group end in order
}

std::vector<at::Tensor> WorkList::result() {
  std::vector<at::Tensor> all;
  for (const auto& work : works_) {
    const auto each = work->result();
    all.insert(all.end(), each.begin(), each.end());
  }
  return all;
}

}  // namespace trn::distributed
