// What ranks of one process want of each other: the last to come to a collective carries it out for all.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "distributed/turns.h"

namespace trn::distributed {

class LocalWork final : public c10d::Work {
 public:
  LocalWork(int rank, c10d::OpType type, std::string what, std::vector<at::Tensor> outputs,
            std::chrono::milliseconds timeout, std::shared_ptr<Turns> turns);

  bool wait(std::chrono::milliseconds timeout) override;
  bool isCompleted() override;
  int sourceRank() const override { return source_; }
  std::vector<at::Tensor> result() override { return outputs_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

  // Once; also the future.
  void complete(const std::exception_ptr& error = nullptr);
  void set_source(int rank) { source_ = rank; }
  const std::string& what() const { return what_; }

 private:
  const std::string what_;
  std::vector<at::Tensor> outputs_;
  std::chrono::milliseconds timeout_;
  std::shared_ptr<Turns> turns_;
  int source_ = -1;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

// One rank's part of a collective.
struct LocalCall {
  enum class Kind : std::uint8_t { exchange, all_reduce, reduce, reduce_scatter, reduce_scatter_lists };
  Kind kind = Kind::exchange;
  std::string name;  // as in torch.distributed, with what must be equal on all ranks
  std::vector<std::vector<at::Tensor>> sends, receives;  // of an exchange: by peer, empty for none
  std::vector<at::Tensor> inputs, outputs;               // of a reduction
  c10d::ReduceOp op;
  int root = 0;
};

class LocalExchange : public std::enable_shared_from_this<LocalExchange> {
 public:
  using WorkPtr = c10::intrusive_ptr<LocalWork>;
  struct Message {
    int source = -1, destination = -1, tag = 0;  // source -1: from anyone
    at::Tensor tensor;
    WorkPtr work;
  };

  static std::shared_ptr<LocalExchange> make(int num_ranks, std::shared_ptr<Turns> turns);
  ~LocalExchange();

  void join(int rank, std::uint64_t number, LocalCall call, const WorkPtr& work);
  void send(Message message) { post(std::move(message), true); }
  void receive(Message message) { post(std::move(message), false); }

  const std::shared_ptr<Turns>& turns() const { return turns_; }
  int num_ranks() const { return num_ranks_; }

 private:
  struct Round {
    std::vector<LocalCall> calls;  // by rank
    std::vector<WorkPtr> works;
    int num_joined = 0;
  };
  using Key = std::array<int, 3>;  // destination, tag, source
  using Messages = std::map<Key, std::deque<Message>>;
  LocalExchange(int num_ranks, std::shared_ptr<Turns> turns) : num_ranks_(num_ranks), turns_(std::move(turns)) {}
  void post(Message message, bool is_send);
  static std::optional<Message> take(Messages& messages, const Message& other, bool is_send);
  void end();

  const int num_ranks_;
  const std::shared_ptr<Turns> turns_;
  std::uint64_t waker_ = 0;
  std::mutex mutex_;
  std::map<std::uint64_t, Round> rounds_;
  Messages sent_, wanted_;
};

}  // namespace trn::distributed
