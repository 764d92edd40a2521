// Collectives under way: each group runs its own in order, on a thread of its own or on the one that waits.
#pragma once

#include <torch/csrc/distributed/c10d/Work.hpp>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "distributed/device_seam.h"

namespace trn::distributed {

class Queue;

// Where results live and on whose clock they appear.
struct Place {
  int device = -1;         // -1: no device takes part
  int compute_stream = 0;  // of the caller
  int stream = 0;          // the group's own
};

class CollectiveWork final : public c10d::Work {
 public:
  // What to do, then when it was done on the simulated clock.
  using Body = std::function<runtime::Moment()>;

  CollectiveWork(int rank, c10d::OpType type, const char* title, std::uint64_t number, std::vector<at::Tensor> inputs,
                 std::vector<at::Tensor> outputs, Place place, const DeviceSeam& seam, std::shared_ptr<Queue> queue,
                 Body body);

  bool wait(std::chrono::milliseconds timeout) override;
  bool isCompleted() override;
  void synchronize() override;
  std::vector<at::Tensor> result() override { return outputs_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  std::uint64_t getSequencenumber() const override { return number_; }
  int sourceRank() const override { return source_ < 0 ? Work::sourceRank() : source_; }
  // Of a message that was received; a rank of the group.
  void set_source(int rank) { source_ = rank; }
  // Names the call in messages.
  void set_description(std::string text) { description_ = std::move(text); }

 private:
  friend class Queue;
  void run();
  void publish();  // completes the future

  std::uint64_t number_;
  int source_ = -1;
  std::string description_;
  std::vector<at::Tensor> outputs_;
  Place place_;
  DeviceSeam seam_;
  std::shared_ptr<Queue> queue_;
  Body body_;
  runtime::Moment end_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

// First in, first out; one at a time. What follows a work (callbacks of its future, which may wait for a later work)
// runs beside the next one.
class Queue : public std::enable_shared_from_this<Queue> {
 public:
  void push(c10::intrusive_ptr<CollectiveWork> work);
  // Nobody may come to wait: a thread of the queue runs what is queued.
  void start();
  // Runs what is queued, in order, until `work` is done.
  void drive(CollectiveWork& work);
  // Ends the threads; what is still queued runs first.
  void close();

 private:
  c10::intrusive_ptr<CollectiveWork> run_next();
  void serve();
  void add_thread_if_none_is_idle();  // under mutex_

  std::mutex mutex_;          // of the members below
  std::mutex running_mutex_;  // held while a work runs: taken before `mutex_`
  std::condition_variable wake_;
  std::deque<c10::intrusive_ptr<CollectiveWork>> works_;
  bool closing_ = false;
  int num_idle_ = 0;
  std::vector<std::thread> threads_;
};

// Several works as one, as coalescing returns them.
class WorkList final : public c10d::Work {
 public:
  explicit WorkList(std::vector<c10::intrusive_ptr<c10d::Work>> works) : works_(std::move(works)) {}

  bool wait(std::chrono::milliseconds timeout) override;
  bool isCompleted() override;
  bool isSuccess() const override;
  void synchronize() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  std::vector<at::Tensor> result() override;

 private:
  std::vector<c10::intrusive_ptr<c10d::Work>> works_;
};

// A future of tensors on `device`, -1 for none.
c10::intrusive_ptr<c10::ivalue::Future> tensor_future(int device);

}  // namespace trn::distributed
