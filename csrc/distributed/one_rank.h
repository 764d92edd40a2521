// One rank that stands for its peers: a group whose collectives are checked, counted and timed, and move nothing.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "distributed/backend.h"

namespace trn::distributed {

// What one rank sent and another, run apart from it, receives: messages and broadcasts of one simulation, undefined
// without values. Ranks are of the whole job; `to` is -1 for all of the group.
class Letters {
 public:
  struct Address {
    std::string group;
    int from = 0, to = -1, tag = 0;
    std::uint64_t number = 0;
    auto operator<=>(const Address&) const = default;
  };
  void put(const Address& address, at::Tensor values) { letters_[address] = std::move(values); }
  // Undefined where nobody has sent it with values yet, which is remembered.
  at::Tensor find(const Address& address);
  bool has(const Address& address) const { return letters_.contains(address); }
  // With values.
  std::size_t count() const;
  // Ranks whose letters were looked for in vain since the last call.
  std::set<int> missed() { return std::exchange(missed_, {}); }

 private:
  std::map<Address, at::Tensor> letters_;
  std::set<int> missed_;
};

// The peers hold what this rank holds and arrive with it. Values, where a tensor holds any, follow: a sum is this
// rank's value times the number of ranks. On the host every tensor holds values, and nothing is counted.
class OneRankBackend final : public TrnBackend {
 public:
  OneRankBackend(const DeviceSeam& seam, std::string name, std::string group, int rank, int size,
                 std::vector<int> global_ranks, std::chrono::milliseconds timeout, bool on_host,
                 std::shared_ptr<Letters> letters);

  c10::intrusive_ptr<c10d::Backend> split(const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
                                          const c10::intrusive_ptr<Options>& options) override;
  std::uint64_t getSequenceNumberForGroup() override { return num_calls_; }

 protected:
  WorkPtr start(Request request, std::function<void(const Transfer&)> move) override;
  WorkPtr message(const at::Tensor& tensor, bool is_send, int peer, int tag) override;
  Place place(const char* name, const Tensors& a, const Tensors& b) override;

 private:
  c10::intrusive_ptr<CollectiveWork> done(const char* name, c10d::OpType type, Tensors inputs, Tensors outputs,
                                          const Place& where, CollectiveWork::Body body);
  // The peers arrive with this rank.
  runtime::Moment finish(const runtime::Flight& flight, const Place& where);
  // The next message of this kind; peers are ranks of the group, -1 for all.
  Letters::Address next(int from, int to, int tag) const;
  // The next message of this kind is there now.
  void advance(int from, int to, int tag) { ++num_sent_[{from, to, tag}]; }
  // Whose message a receive from any rank takes next, of those that sent one; -1 where nobody is known to have.
  int sender(int tag) const;
  at::Tensor held(const at::Tensor& tensor) const;
  void write(const at::Tensor& output, const at::Tensor& values) const;
  // Outputs as they are when every rank's inputs are this one's.
  void stand_for_peers(const Request& request);
  void broadcast_values(const Request& request);
  void gather_values(const Request& request);
  void reduce_values(const Request& request);
  void exchange_values(const Request& request);

  bool on_host_;
  std::shared_ptr<Letters> letters_;
  std::uint64_t num_calls_ = 0;
  std::map<std::tuple<int, int, int>, std::uint64_t> num_sent_;  // (from, to, tag) -> messages so far
  int latest_unknown_;                                           // who stood for a sender that is not known
};

}  // namespace trn::distributed
