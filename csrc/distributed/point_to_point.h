// Sends and receives: posted at once; both ends tell each other type and size, so that a wrong pair is an error.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <memory>
#include <mutex>
#include <string>

#include "distributed/failure.h"
#include "distributed/host_view.h"
#include "distributed/work.h"

namespace trn::distributed {

// One message of a group. The transport ends the process when a message does not fit its receiver, so only messages of
// equal type and size ever meet: both are part of the tag on the wire.
class MessageWork final : public c10d::Work {
 public:
  struct Message {
    bool is_send = false;
    int peer = -1;  // -1: receive from whoever sends first
    int tag = 0;
    std::string group;
    std::chrono::milliseconds timeout{0};
    runtime::Picoseconds arrival = 0;  // of this end
  };
  // When the message is there, both ends having come by `latest`.
  using Done = std::function<runtime::Moment(int peer, runtime::Picoseconds latest)>;

  MessageWork(c10::intrusive_ptr<c10d::Backend> control, c10::intrusive_ptr<c10d::Backend> payload, Message message,
              const at::Tensor& tensor, std::uint64_t number, Place place, const DeviceSeam& seam,
              std::shared_ptr<Failure> failure, Done done);
  void post();  // once, right after construction

  bool wait(std::chrono::milliseconds timeout) override;
  bool isCompleted() override;
  void synchronize() override;
  int sourceRank() const override { return message_.peer; }
  std::vector<at::Tensor> result() override { return {tensor_}; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  std::uint64_t getSequencenumber() const override { return number_; }

 private:
  void post_header();
  void check_header(std::chrono::milliseconds timeout);
  void complete(std::chrono::milliseconds timeout);
  void complete_once(std::chrono::milliseconds timeout) noexcept;
  void start_thread();  // completes it without anyone waiting
  std::string describe() const;

  c10::intrusive_ptr<c10d::Backend> control_, payload_;
  Message message_;
  bool from_any_;
  at::Tensor tensor_;
  HostView view_;
  std::uint64_t number_;
  Place place_;
  DeviceSeam seam_;
  std::shared_ptr<Failure> failure_;
  Done done_;
  at::Tensor own_header_, peer_header_;
  c10::intrusive_ptr<c10d::Work> header_send_, header_receive_, transfer_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
  runtime::Moment end_;
  std::mutex completing_;
  std::once_flag thread_started_;
};

}  // namespace trn::distributed
