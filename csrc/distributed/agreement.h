// Before data moves, the ranks of a group tell each other what they are about to do, so that a wrong call is an error.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trn::distributed {

// One rank's collective, as far as the others must agree with it.
struct Call {
  const char* name = "";  // as in torch.distributed
  std::optional<at::ScalarType> dtype;
  std::optional<c10d::ReduceOp::RedOpType> reduce;
  int root = -1;
  std::uint64_t layout = 0;                             // what else must be equal: the lengths in a coalesced list
  std::vector<std::int64_t> send_bytes, receive_bytes;  // by rank; empty: none

  bool is_all_reduce() const { return std::string_view(name).starts_with("all_reduce"); }
  bool is_broadcast() const { return std::string_view(name) == "broadcast"; }
};

class Agreement {
 public:
  using Milliseconds = std::chrono::milliseconds;
  // `control` carries the messages and nothing else.
  Agreement(c10::intrusive_ptr<c10d::Backend> control, std::string group);

  struct Round {
    Call call;
    std::uint64_t number = 0;
    std::int64_t arrival = 0;
    at::Tensor sent;                                              // int64 [words]
    at::Tensor received;                                          // int64 [ranks, words]
    std::vector<c10::intrusive_ptr<c10d::Work>> sends, receives;  // by rank, null for this one
  };
  // Tells the others; does not block. `arrival` is this rank's simulated time.
  Round begin(Call call, std::int64_t arrival);
  // Waits for the others and raises, on every rank alike, when the calls do not fit together. The latest arrival.
  std::int64_t finish(Round& round, Milliseconds timeout);

  // What the call's cost depends on (runtime::CollectiveShape), the same on every rank; after finish().
  std::int64_t bytes(const Round& round) const;

  // Tells the others, in place of this rank's next call, that the group is of no use: `missing` did not take part, -1
  // if that is not known yet.
  void announce_failure(int missing);
  // After an error that names nobody: announces it, asks who is there, announces and returns who is not.
  std::vector<int> roll_call();

  // What a round calls itself in messages: "call 3 of group 0: all_reduce(Float, sends 40 bytes, ...)".
  std::string describe(const Round& round) const;
  const std::string& group() const { return group_; }
  std::uint64_t num_calls() const { return number_; }

 private:
  std::string text(const std::int64_t* row) const;
  // Sent to, or received from, `rank` as a row says.
  std::int64_t sent(const std::int64_t* row, int rank) const;
  std::int64_t received(const std::int64_t* row, int rank) const;
  // What a peer that announced its failure found out, or -1.
  int verdict_of(int peer);
  struct Answer {
    int peer = -1;
    at::Tensor row;
    c10::intrusive_ptr<c10d::Work> receive;  // null: it is gone
  };
  Answer ask(int peer);
  // Who the peer says is missing, or -1; nothing where it says nothing until then, or is gone.
  using Deadline = std::chrono::steady_clock::time_point;
  std::optional<int> read(Answer& answer, Deadline deadline);

  c10::intrusive_ptr<c10d::Backend> control_;
  std::string group_;
  std::uint64_t number_ = 0;
  std::vector<c10::intrusive_ptr<c10d::Work>> announcements_;
};

std::string text_of(const std::vector<int>& ranks);  // "rank 1", "ranks 1, 2"
std::string text_of(std::chrono::milliseconds time);
// Is this the transport's word for a wait that took too long?
bool is_timeout(const std::string& message);

}  // namespace trn::distributed
