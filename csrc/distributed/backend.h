// The c10d backend of the device: PyTorch's collectives over gloo, straight on the emulated HBM.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "distributed/agreement.h"
#include "distributed/device_seam.h"
#include "distributed/failure.h"
#include "distributed/transfer.h"
#include "distributed/work.h"
#include "runtime/collectives.h"

namespace trn::distributed {

// Of a group: its timeout, name and ranks, as c10d keeps them. Copied when a group is split.
struct TrnOptions final : c10d::Backend::Options {
  using Options::Options;
};

class TrnBackend : public c10d::Backend {
 public:
  using Tensors = std::vector<at::Tensor>;
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;

  // Two groups of the transport over the same ranks: one for data, one for what the ranks say about it.
  TrnBackend(const DeviceSeam& seam, std::string name, std::string group, c10::intrusive_ptr<c10d::Backend> payload,
             c10::intrusive_ptr<c10d::Backend> control, std::vector<int> global_ranks,
             std::chrono::milliseconds timeout);
  ~TrnBackend() override;

  const std::string getBackendName() const override { return name_; }
  c10::intrusive_ptr<Options> getBackendOptions() override { return options_; }
  void setTimeout(std::chrono::milliseconds timeout) override;
  bool supportsSplitting() const override { return true; }
  c10::intrusive_ptr<c10d::Backend> split(const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
                                          const c10::intrusive_ptr<Options>& options) override;
  void startCoalescing() override;
  WorkPtr endCoalescing() override;
  void setSequenceNumberForGroup() override {}  // every group counts from 0
  std::uint64_t getSequenceNumberForGroup() override { return agreement_.num_calls(); }
  void enableCollectivesTiming() override {}
  c10d::ErrorType getError() override;

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override;
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override;
  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override;
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override;
  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override;
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                              const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) override;
  WorkPtr gather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& options) override;
  WorkPtr scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) override;
  WorkPtr reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                         const c10d::ReduceScatterOptions& options) override;
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& options) override;
  WorkPtr reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::ReduceScatterOptions& options) override;
  WorkPtr alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override;
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<std::int64_t>& output_rows,
                        std::vector<std::int64_t>& input_rows, const c10d::AllToAllOptions& options) override;
  WorkPtr barrier(const c10d::BarrierOptions& options) override;
  void monitoredBarrier(const c10d::BarrierOptions& options, bool wait_all_ranks) override;
  WorkPtr send(Tensors& tensors, int destination, int tag) override;
  WorkPtr recv(Tensors& tensors, int source, int tag) override;
  WorkPtr recvAnysource(Tensors& tensors, int tag) override;

 protected:
  // No transport: a group whose other ranks are not there.
  TrnBackend(const DeviceSeam& seam, std::string name, std::string group, int rank, int size,
             std::vector<int> global_ranks, std::chrono::milliseconds timeout);

  struct Request {
    Call call;
    c10d::OpType type;
    Tensors inputs, outputs;
    std::chrono::milliseconds timeout;
    bool is_async;
  };
  // The ranks agree on the call, then `move` runs, in order with the group's other calls.
  virtual WorkPtr start(Request request, std::function<void(const Transfer&)> move);
  // From any rank where `peer` is -1.
  virtual WorkPtr message(const at::Tensor& tensor, bool is_send, int peer, int tag);
  // The one tensor of a message between this rank and another.
  const at::Tensor& one_of(const char* name, const Tensors& tensors, int peer) const;
  WorkPtr collect(WorkPtr work);
  // Also checks that the tensors lie on one device of this machine.
  virtual Place place(const char* name, const Tensors& a, const Tensors& b);
  // As the device and the profiles that are open see it.
  runtime::Collective collective(const char* op, std::optional<at::ScalarType> dtype, const Place& place) const;
  // This rank reaches a collective, or a message, now: on the simulated clock, and for the profiles that are open. A
  // collective's bytes are a guess, as the other ranks have not said theirs.
  runtime::Flight issue(const Request& request, const Place& place);
  runtime::Flight issue(const at::Tensor& tensor, bool is_send, int peer, int tag, const Place& place);
  std::chrono::milliseconds or_default(std::chrono::milliseconds timeout) const;
  std::vector<std::int64_t> everywhere(std::int64_t bytes) const;
  std::vector<std::int64_t> only(int rank, std::int64_t bytes) const;

  DeviceSeam seam_;
  std::string name_;
  std::vector<int> global_ranks_;
  std::uint32_t group_ = 0;  // among runtime::collectives()'s
  c10::intrusive_ptr<TrnOptions> options_;
  c10::intrusive_ptr<c10d::Backend> payload_, control_;
  Agreement agreement_;
  std::shared_ptr<Queue> queue_ = std::make_shared<Queue>();

  std::mutex start_mutex_;  // the order of agreements is the order of the queue
  int device_ = -1;
  runtime::OwnStream stream_;
  bool is_coalescing_ = false;
  std::vector<WorkPtr> coalesced_;
  std::uint64_t num_messages_ = 0;
  std::shared_ptr<Failure> failure_ = std::make_shared<Failure>();
};

}  // namespace trn::distributed
