#include "distributed/point_to_point.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/ivalue_inl.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <thread>

#include "distributed/agreement.h"
#include "distributed/turns.h"

namespace trn::distributed {

namespace {

constexpr int kLastTag = 0x7fff0000;  // tags above are the collectives'

// The tag on the wire carries what must be equal at both ends.
int payload_tag(int tag, std::int64_t bytes, at::ScalarType dtype) {
  std::uint64_t h = static_cast<std::uint64_t>(tag) * 0x9E3779B97F4A7C15ull;
  for (const auto word : {static_cast<std::uint64_t>(bytes), static_cast<std::uint64_t>(dtype)}) {
    h = (h ^ (h >> 29) ^ word) * 0xBF58476D1CE4E5B9ull;
  }
  return static_cast<int>((h >> 32) % kLastTag);
}

// Headers that go with a send and those that go with a receive travel apart: between two ranks each kind is in order.
int header_tag(int tag, bool from_sender) {
  return static_cast<int>((static_cast<std::int64_t>(tag) * 2 + (from_sender ? 1 : 0)) % kLastTag);
}

std::string peer_text(int peer) {
  return peer < 0 ? "any rank" : "rank " + std::to_string(peer);
}

std::string text(bool is_send, std::int64_t bytes, at::ScalarType dtype) {
  return std::string(is_send ? "send" : "recv") + "(" + std::string(c10::getDtypeNames(dtype).first) + ", " +
         std::to_string(bytes) + " bytes)";
}

}  // namespace

MessageWork::MessageWork(c10::intrusive_ptr<c10d::Backend> control, c10::intrusive_ptr<c10d::Backend> payload,
                         Message message, const at::Tensor& tensor, std::uint64_t number, Place place,
                         const DeviceSeam& seam, std::shared_ptr<Failure> failure, Done done)
    : Work(payload->getRank(), message.is_send ? c10d::OpType::SEND : c10d::OpType::RECV,
           message.is_send ? "trn:send" : "trn:recv", std::vector<at::Tensor>{tensor}),
      control_(std::move(control)),
      payload_(std::move(payload)),
      message_(std::move(message)),
      from_any_(message_.peer < 0),
      tensor_(tensor),
      view_(message_.is_send ? HostView::read(tensor) : HostView::write(tensor)),
      number_(number),
      place_(place),
      seam_(seam),
      failure_(std::move(failure)),
      done_(std::move(done)),
      future_(tensor_future(place.device)) {}

void MessageWork::post() {
  const int tag = payload_tag(message_.tag, bytes_of(tensor_), tensor_.scalar_type());
  std::vector<at::Tensor> bytes{view_.bytes()};
  if (bytes[0].numel() == 0) {
    bytes[0] = at::zeros({1}, at::kByte);  // who sent nothing is still a question
  }
  try {
    if (!from_any_) {
      post_header();
    }
    transfer_ = message_.is_send ? payload_->send(bytes, message_.peer, tag)
                : from_any_      ? payload_->recvAnysource(bytes, tag)
                                 : payload_->recv(bytes, message_.peer, tag);
  } catch (const std::exception& error) {
    raise("[" + std::string(message_.is_send ? "send" : "recv") +
          "] the other rank must be there; got a lost connection to " + peer_text(message_.peer) +
          ". See that rank's own output. The transport said: " + error.what());
  }
  if (from_any_) {
    start_thread();  // the sender waits for this end's header, which needs the sender's rank
  }
}

void MessageWork::post_header() {
  own_header_ = at::tensor(
      {std::int64_t{1}, bytes_of(tensor_), static_cast<std::int64_t>(tensor_.scalar_type()), message_.arrival});
  peer_header_ = at::zeros({4}, at::kLong);
  std::vector<at::Tensor> from{own_header_}, into{peer_header_};
  header_receive_ = control_->recv(into, message_.peer, header_tag(message_.tag, !message_.is_send));
  header_send_ = control_->send(from, message_.peer, header_tag(message_.tag, message_.is_send));
}

void MessageWork::check_header(std::chrono::milliseconds timeout) {
  const std::string own = text(message_.is_send, bytes_of(tensor_), tensor_.scalar_type());
  const std::string where = message_.is_send ? "[send] " : "[recv] ", peer = peer_text(message_.peer);
  try {
    header_receive_->wait(timeout);
    header_send_->wait(timeout);
  } catch (const std::exception& error) {
    if (!is_timeout(error.what())) {
      raise(where + "the other rank must be there; got a lost connection to " + peer + " in " + own +
            ". See that rank's own output. The transport said: " + error.what());
    }
    raise(where + "both ends must take part within the timeout; got no " + (message_.is_send ? "recv" : "send") +
          " from " + peer + ", limit " + text_of(timeout) + ". Missing is the other end of " + own + ", tag " +
          std::to_string(message_.tag) + ", group " + message_.group +
          "; see what that rank does instead, or raise the timeout of init_process_group.");
  }
  const auto* header = peer_header_.const_data_ptr<std::int64_t>();
  if (header[1] != bytes_of(tensor_) || header[2] != static_cast<std::int64_t>(tensor_.scalar_type())) {
    raise(where + "both ends must name the same type and size; got " + own + " here and " +
          text(!message_.is_send, header[1], static_cast<at::ScalarType>(header[2])) + " on " + peer +
          ". Make the tensors alike.");
  }
}

void MessageWork::complete(std::chrono::milliseconds timeout) {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const c10::impl::ExcludeDispatchKeyGuard below_modes(
      c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot}));
  if (!from_any_) {
    check_header(timeout);
  }
  try {
    transfer_->wait(timeout);
    if (from_any_) {
      message_.peer = transfer_->sourceRank();
      post_header();
    }
  } catch (const std::exception& error) {
    raise(std::string(message_.is_send ? "[send]" : "[recv]") + " the message must arrive within the timeout; got " +
          (is_timeout(error.what()) ? "none, limit " + text_of(timeout) : std::string("a lost connection")) +
          ". Missing is " + peer_text(message_.peer) + " in " +
          text(message_.is_send, bytes_of(tensor_), tensor_.scalar_type()) + ", tag " + std::to_string(message_.tag) +
          ", group " + message_.group + "; see that rank's own output. The transport said: " + error.what());
  }
  if (from_any_) {
    check_header(timeout);
  }
  view_.finish();
  end_ = done_(message_.peer, std::max(message_.arrival, peer_header_.const_data_ptr<std::int64_t>()[3]));
}

void MessageWork::complete_once(std::chrono::milliseconds timeout) noexcept {
  std::lock_guard lock(completing_);
  if (Work::isCompleted()) {
    return;
  }
  try {
    complete(timeout);
  } catch (const std::exception& error) {
    const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
    failure_->set(torch_error ? torch_error->what_without_backtrace() : error.what());
    finish(std::current_exception());
    future_->setErrorIfNeeded(std::current_exception());
    return;
  }
  seam_.system().device(place_.device).clock.wait(place_.stream, end_);
  const c10::Device device(c10::DeviceType::PrivateUse1, static_cast<c10::DeviceIndex>(place_.device));
  const c10::StreamGuard on_own_stream(c10::Stream(c10::Stream::UNSAFE, device, place_.stream));
  finish();
  future_->markCompleted(c10::IValue(std::vector<at::Tensor>{tensor_}));
}

void MessageWork::start_thread() {
  std::call_once(thread_started_, [this] {
    auto self = c10::intrusive_ptr<MessageWork>::unsafe_reclaim_from_nonowning(this);
    std::thread([self = std::move(self)] { self->complete_once(self->message_.timeout); }).detach();
  });
}

std::string MessageWork::describe() const {
  return text(message_.is_send, bytes_of(tensor_), tensor_.scalar_type()) + (message_.is_send ? " to " : " from ") +
         peer_text(message_.peer) + " of group " + message_.group;
}

bool MessageWork::wait(std::chrono::milliseconds timeout) {
  wait_in([this] { return describe(); }, [&] { complete_once(timeout == kNoTimeout ? message_.timeout : timeout); });
  Work::wait(kNoTimeout);  // rethrows
  synchronize();
  return true;
}

bool MessageWork::isCompleted() {
  start_thread();
  if (!Work::isCompleted()) {
    wait_in([this] { return describe(); }, [] {});  // who asks in a loop lets other ranks come
  }
  return Work::isCompleted();
}

c10::intrusive_ptr<c10::ivalue::Future> MessageWork::getFuture() {
  if (has_turn()) {
    wait_in([this] { return describe(); }, [this] { complete_once(message_.timeout); });
  } else {
    start_thread();
  }
  return future_;
}

void MessageWork::synchronize() {
  if (place_.device >= 0) {
    seam_.system().device(place_.device).clock.wait(seam_.current_stream(place_.device), end_);
  }
}

}  // namespace trn::distributed
