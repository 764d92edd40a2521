#include "distributed/transfer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace trn::distributed {

namespace {

using c10d::ReduceOp;
constexpr int kTag = 0x7ffffff0;  // of `exchange`; messages of users have lower ones

bool transport_adds(at::ScalarType dtype) {
  switch (c10::isComplexType(dtype) ? c10::toRealValueType(dtype) : dtype) {
    case at::kFloat:
    case at::kDouble:
    case at::kHalf:
    case at::kBFloat16:
    case at::kChar:
    case at::kByte:
    case at::kBool:
    case at::kInt:
    case at::kLong:
      return true;
    default:
      return false;
  }
}

bool is_scaled(const Reduction& reduction) {
  return reduction.op == ReduceOp::PREMUL_SUM;
}

ReduceOp on_the_wire(const Reduction& reduction) {
  if (reduction.dtype == at::kBool && reduction.op == ReduceOp::SUM) {
    return ReduceOp::BOR;  // the transport would count, and 2 is no bool
  }
  return reduction.op == ReduceOp::AVG || is_scaled(reduction) ? ReduceOp::SUM : reduction.op;
}

// What is left to do to the sum of `num_ranks` values.
void finish_reduction(at::Tensor elements, const Reduction& reduction, int num_ranks) {
  if (reduction.op == ReduceOp::AVG) {
    elements.div_(num_ranks);
  }
}

const char* name_of(ReduceOp::RedOpType op) {
  constexpr const char* names[] = {"SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR", "PREMUL_SUM"};
  return names[op];
}

}  // namespace

Reduction check_reduction(const char* where, const ReduceOp& op, at::ScalarType dtype) {
  Reduction reduction{op.op_, dtype, 1};
  const bool is_float = c10::isFloatingType(dtype), is_complex = c10::isComplexType(dtype);
  const auto require = [&](bool fits, const char* types) {
    TORCH_CHECK_TYPE(fits, "[", where, "] ", name_of(op.op_), " takes ", types, "; got ",
                     c10::getDtypeNames(dtype).first, ". Use another ReduceOp or convert the tensor.");
  };
  switch (op.op_) {
    case ReduceOp::SUM:
      break;
    case ReduceOp::AVG:
      require(is_float || is_complex, "floating-point and complex types");
      break;
    case ReduceOp::PREMUL_SUM: {
      require(is_float, "floating-point types");
      const auto* supplement = static_cast<const c10d::PreMulSumSupplement*>(op.supplement_.get());
      TORCH_CHECK(supplement, "[", where, "] PREMUL_SUM needs its factor; got none. Make the op with its factor.");
      reduction.factor =
          supplement->tensor_factor.defined() ? supplement->tensor_factor.item<double>() : supplement->double_factor;
      break;
    }
    case ReduceOp::BAND:
    case ReduceOp::BOR:
    case ReduceOp::BXOR:
      require(c10::isIntegralType(dtype, true), "integer types and bool");
      break;
    default:
      require(!is_complex, "real types");
  }
  return reduction;
}

void Transfer::broadcast(const at::Tensor& bytes, int root) const {
  c10d::BroadcastOptions options;
  options.rootRank = root;
  options.timeout = timeout_;
  std::vector<at::Tensor> tensors{bytes};
  transport_->broadcast(tensors, options)->wait();
}

void Transfer::all_gather(const std::vector<at::Tensor>& outputs, const at::Tensor& input) const {
  const bool is_even =
      std::all_of(outputs.begin(), outputs.end(), [&](const auto& out) { return out.numel() == input.numel(); });
  if (!is_even) {
    exchange(std::vector<at::Tensor>(outputs.size(), input), outputs);
    return;
  }
  c10d::AllgatherOptions options;
  options.timeout = timeout_;
  std::vector<std::vector<at::Tensor>> lists{outputs};
  std::vector<at::Tensor> inputs{input};
  transport_->allgather(lists, inputs, options)->wait();
}

void Transfer::all_gather_into(const at::Tensor& output, const at::Tensor& input) const {
  c10d::AllgatherOptions options;
  options.timeout = timeout_;
  at::Tensor to = output, from = input;
  transport_->_allgather_base(to, from, options)->wait();
}

void Transfer::exchange(const std::vector<at::Tensor>& sends, const std::vector<at::Tensor>& receives) const {
  const int num_ranks = transport_->getSize(), self = transport_->getRank();
  std::vector<c10::intrusive_ptr<c10d::Work>> works;
  const auto at_rank = [](const std::vector<at::Tensor>& parts, int rank) {
    return parts.empty() ? at::Tensor() : parts[static_cast<std::size_t>(rank)];
  };
  for (int step = 1; step < num_ranks; ++step) {
    const int peer = (self + num_ranks - step) % num_ranks;
    if (const at::Tensor into = at_rank(receives, peer); into.defined() && into.numel()) {
      std::vector<at::Tensor> tensors{into};
      works.push_back(transport_->recv(tensors, peer, kTag));
    }
  }
  for (int step = 1; step < num_ranks; ++step) {
    const int peer = (self + step) % num_ranks;
    if (const at::Tensor from = at_rank(sends, peer); from.defined() && from.numel()) {
      std::vector<at::Tensor> tensors{from};
      works.push_back(transport_->send(tensors, peer, kTag));
    }
  }
  if (at::Tensor own = at_rank(receives, self); own.defined() && own.numel()) {
    own.copy_(at_rank(sends, self));
  }
  for (const auto& work : works) {
    work->wait(timeout_);
  }
}

std::vector<at::Tensor> Transfer::gather_parts(const at::Tensor& bytes) const {
  std::vector<at::Tensor> parts;
  for (int rank = 0; rank < transport_->getSize(); ++rank) {
    parts.push_back(at::empty_like(bytes));
  }
  all_gather(parts, bytes);
  return parts;
}

void Transfer::reduce_here(const HostView& output, const std::vector<at::Tensor>& parts,
                           const Reduction& reduction) const {
  const bool is_narrow_float = c10::isFloatingType(reduction.dtype) && c10::elementSize(reduction.dtype) < 4;
  const at::ScalarType wide = is_narrow_float ? at::kFloat : reduction.dtype;
  at::Tensor total;
  for (const auto& part : parts) {
    at::Tensor values = part.view(reduction.dtype).to(wide);
    if (is_scaled(reduction)) {
      values = values.mul(reduction.factor);
    }
    if (!total.defined()) {
      total = values.clone();
      continue;
    }
    switch (on_the_wire(reduction).op_) {
      case ReduceOp::SUM:
        total.add_(values);
        break;
      case ReduceOp::PRODUCT:
        total.mul_(values);
        break;
      case ReduceOp::MIN:
        total = at::minimum(total, values);
        break;
      case ReduceOp::MAX:
        total = at::maximum(total, values);
        break;
      case ReduceOp::BAND:
        total.bitwise_and_(values);
        break;
      case ReduceOp::BOR:
        total.bitwise_or_(values);
        break;
      default:
        total.bitwise_xor_(values);
    }
  }
  finish_reduction(total, reduction, transport_->getSize());
  output.values().copy_(total);
}

void Transfer::all_reduce(const HostView& data, const Reduction& reduction) const {
  if (!transport_adds(reduction.dtype)) {
    reduce_here(data, gather_parts(data.bytes()), reduction);
    return;
  }
  std::vector<at::Tensor> tensors{data.elements()};
  if (is_scaled(reduction)) {
    tensors[0].mul_(reduction.factor);
  }
  c10d::AllreduceOptions options;
  options.reduceOp = on_the_wire(reduction);
  options.timeout = timeout_;
  transport_->allreduce(tensors, options)->wait();
  finish_reduction(tensors[0], reduction, transport_->getSize());
}

void Transfer::all_reduce_coalesced(const std::vector<HostView>& data, const Reduction& reduction) const {
  if (!transport_adds(reduction.dtype) || is_scaled(reduction)) {
    for (const auto& each : data) {
      all_reduce(each, reduction);
    }
    return;
  }
  std::vector<at::Tensor> tensors;
  for (const auto& each : data) {
    tensors.push_back(each.elements());
  }
  c10d::AllreduceCoalescedOptions options;
  options.reduceOp = on_the_wire(reduction);
  options.timeout = timeout_;
  transport_->allreduce_coalesced(tensors, options)->wait();
  for (const auto& each : tensors) {
    finish_reduction(each, reduction, transport_->getSize());
  }
}

void Transfer::reduce(const HostView& data, const Reduction& reduction, int root) const {
  const bool is_root = transport_->getRank() == root;
  if (!transport_adds(reduction.dtype)) {
    const auto num_ranks = static_cast<std::size_t>(transport_->getSize());
    std::vector<at::Tensor> sends(num_ranks), parts;
    sends[static_cast<std::size_t>(root)] = data.bytes();
    if (is_root) {
      for (std::size_t rank = 0; rank < num_ranks; ++rank) {
        parts.push_back(at::empty_like(data.bytes()));
      }
    }
    exchange(sends, parts);
    if (is_root) {
      reduce_here(data, parts, reduction);
    }
    return;
  }
  // The transport uses every rank's tensor as scratch.
  std::vector<at::Tensor> tensors{is_root ? data.elements() : data.elements().clone()};
  if (is_scaled(reduction)) {
    tensors[0].mul_(reduction.factor);
  }
  c10d::ReduceOptions options;
  options.reduceOp = on_the_wire(reduction);
  options.rootRank = root;
  options.timeout = timeout_;
  transport_->reduce(tensors, options)->wait();
  if (is_root) {
    finish_reduction(tensors[0], reduction, transport_->getSize());
  }
}

void Transfer::reduce_scatter(const HostView& output, const HostView& input, const Reduction& reduction) const {
  if (!transport_adds(reduction.dtype)) {
    const std::int64_t size = output.bytes().numel();
    std::vector<at::Tensor> sends, parts;
    for (int rank = 0; rank < transport_->getSize(); ++rank) {
      sends.push_back(slice(input.bytes(), rank * size, size));
      parts.push_back(at::empty_like(output.bytes()));
    }
    exchange(sends, parts);
    reduce_here(output, parts, reduction);
    return;
  }
  at::Tensor to = output.elements();
  at::Tensor from = is_scaled(reduction) ? input.elements().mul(reduction.factor) : input.elements();
  c10d::ReduceScatterOptions options;
  options.reduceOp = on_the_wire(reduction);
  options.timeout = timeout_;
  transport_->_reduce_scatter_base(to, from, options)->wait();
  finish_reduction(to, reduction, transport_->getSize());
}

void Transfer::reduce_scatter(const HostView& output, const std::vector<HostView>& inputs,
                              const Reduction& reduction) const {
  const std::int64_t size = output.bytes().numel();
  const bool is_even =
      std::all_of(inputs.begin(), inputs.end(), [&](const auto& input) { return input.bytes().numel() == size; });
  if (!transport_adds(reduction.dtype) || !is_even) {
    std::vector<at::Tensor> sends, parts;
    for (const auto& input : inputs) {
      sends.push_back(input.bytes());
      parts.push_back(at::empty_like(output.bytes()));
    }
    exchange(sends, parts);
    reduce_here(output, parts, reduction);
    return;
  }
  std::vector<at::Tensor> outputs{output.elements()};
  std::vector<std::vector<at::Tensor>> lists(1);
  for (const auto& input : inputs) {
    lists[0].push_back(is_scaled(reduction) ? input.elements().mul(reduction.factor) : input.elements());
  }
  c10d::ReduceScatterOptions options;
  options.reduceOp = on_the_wire(reduction);
  options.timeout = timeout_;
  transport_->reduce_scatter(outputs, lists, options)->wait();
  finish_reduction(outputs[0], reduction, transport_->getSize());
}

}  // namespace trn::distributed
