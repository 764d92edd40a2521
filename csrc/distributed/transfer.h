// Moves and reductions of flat host tensors over the transport; each call blocks until its data is there.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <chrono>
#include <cstdint>
#include <vector>

#include "distributed/host_view.h"

namespace trn::distributed {

struct Reduction {
  c10d::ReduceOp::RedOpType op = c10d::ReduceOp::SUM;
  at::ScalarType dtype = at::kFloat;
  double factor = 1;  // of PREMUL_SUM
};

// Raises, in the caller's name, when `op` has no meaning for the type.
Reduction check_reduction(const char* where, const c10d::ReduceOp& op, at::ScalarType dtype);

class Transfer {
 public:
  Transfer(c10::intrusive_ptr<c10d::Backend> transport, std::chrono::milliseconds timeout)
      : transport_(std::move(transport)), timeout_(timeout) {}

  void broadcast(const at::Tensor& bytes, int root) const;
  void all_gather(const std::vector<at::Tensor>& outputs, const at::Tensor& input) const;
  void all_gather_into(const at::Tensor& output, const at::Tensor& input) const;
  // To every rank its part, from every rank its own; straight between the tensors. Parts may differ in size.
  void exchange(const std::vector<at::Tensor>& sends, const std::vector<at::Tensor>& receives) const;

  void all_reduce(const HostView& data, const Reduction& reduction) const;
  void all_reduce_coalesced(const std::vector<HostView>& data, const Reduction& reduction) const;
  // The other ranks' data stays as it is.
  void reduce(const HostView& data, const Reduction& reduction, int root) const;
  void reduce_scatter(const HostView& output, const HostView& input, const Reduction& reduction) const;
  void reduce_scatter(const HostView& output, const std::vector<HostView>& inputs, const Reduction& reduction) const;

 private:
  // What the transport cannot add: every rank's part is gathered and reduced here, in rank order.
  void reduce_here(const HostView& output, const std::vector<at::Tensor>& parts, const Reduction& reduction) const;
  std::vector<at::Tensor> gather_parts(const at::Tensor& bytes) const;

  c10::intrusive_ptr<c10d::Backend> transport_;
  std::chrono::milliseconds timeout_;
};

}  // namespace trn::distributed
