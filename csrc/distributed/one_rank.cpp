#include "distributed/one_rank.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <utility>

namespace trn::distributed {

namespace {

using c10d::OpType;
using c10d::ReduceOp;

// The reduction of `count` equal values; undefined where it is not known.
at::Tensor reduced(const at::Tensor& values, std::optional<ReduceOp::RedOpType> op, int count) {
  if (!values.defined() || !op) {
    return {};
  }
  switch (*op) {
    case ReduceOp::SUM:
      return values.scalar_type() == at::kBool ? values : values.mul(count);
    case ReduceOp::PRODUCT:
      return values.scalar_type() == at::kBool ? values : values.pow(count);
    case ReduceOp::BXOR:
      return count % 2 ? values : at::zeros_like(values);
    case ReduceOp::AVG:
    case ReduceOp::MIN:
    case ReduceOp::MAX:
    case ReduceOp::BAND:
    case ReduceOp::BOR:
      return values;
    default:
      return {};
  }
}

at::Tensor part_of(const at::Tensor& values, int rank, int size) {
  return values.defined() ? values.reshape({size, -1})[rank] : at::Tensor();
}

}  // namespace

at::Tensor Letters::find(const Address& address) {
  const auto found = letters_.find(address);
  if (found == letters_.end() || !found->second.defined()) {
    missed_.insert(address.from);
    return {};
  }
  return found->second;
}

std::size_t Letters::count() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(letters_, [](const auto& letter) { return letter.second.defined(); }));
}

Letters::Address OneRankBackend::next(int from, int to, int tag) const {
  const auto of_job = [&](int rank) { return rank < 0 ? -1 : global_ranks_[static_cast<std::size_t>(rank)]; };
  const auto sent = num_sent_.find({from, to, tag});
  return {agreement_.group(), of_job(from), of_job(to), tag, sent == num_sent_.end() ? 0 : sent->second};
}

int OneRankBackend::sender(int tag) const {
  int first = -1;
  std::uint64_t number = 0;
  for (int rank = 0; rank < size_; ++rank) {
    const Letters::Address address = next(rank, rank_, tag);
    if (letters_->has(address) && (first < 0 || address.number < number)) {
      first = rank;
      number = address.number;
    }
  }
  return first;
}

OneRankBackend::OneRankBackend(const DeviceSeam& seam, std::string name, std::string group, int rank, int size,
                               std::vector<int> global_ranks, std::chrono::milliseconds timeout, bool on_host,
                               std::shared_ptr<Letters> letters)
    : TrnBackend(seam, std::move(name), std::move(group), rank, size, std::move(global_ranks), timeout),
      on_host_(on_host),
      letters_(std::move(letters)),
      latest_unknown_(rank) {}

c10::intrusive_ptr<c10d::Backend> OneRankBackend::split(const c10::intrusive_ptr<c10d::Store>&,
                                                        const std::vector<int>& ranks,
                                                        const c10::intrusive_ptr<Options>& options) {
  const auto own = std::find(ranks.begin(), ranks.end(), rank_);
  if (own == ranks.end()) {
    return nullptr;
  }
  std::vector<int> global_ranks;
  for (const int rank : ranks) {
    global_ranks.push_back(global_ranks_[static_cast<std::size_t>(rank)]);
  }
  return c10::make_intrusive<OneRankBackend>(seam_, name_, options->group_name, static_cast<int>(own - ranks.begin()),
                                             static_cast<int>(ranks.size()), std::move(global_ranks), options->timeout,
                                             on_host_, letters_);
}

Place OneRankBackend::place(const char* name, const Tensors& a, const Tensors& b) {
  if (!on_host_) {
    return TrnBackend::place(name, a, b);
  }
  for (const auto* tensors : {&a, &b}) {
    for (const auto& tensor : *tensors) {
      TORCH_CHECK(tensor.device().is_cpu(), "[", name, "] takes CPU tensors in a group without a backend for ",
                  tensor.device(), ". Make a group with one.");
    }
  }
  return {};
}

c10::intrusive_ptr<CollectiveWork> OneRankBackend::done(const char* name, OpType type, Tensors inputs, Tensors outputs,
                                                        const Place& where, CollectiveWork::Body body) {
  const std::string title = name_ + ":" + name;
  auto work = c10::make_intrusive<CollectiveWork>(rank_, type, title.c_str(), num_calls_++, std::move(inputs),
                                                  std::move(outputs), where, seam_, queue_, std::move(body));
  queue_->push(work);
  queue_->drive(*work);
  return work;
}

TrnBackend::WorkPtr OneRankBackend::start(Request request, std::function<void(const Transfer&)>) {
  const Place where = place(request.call.name, request.inputs, request.outputs);
  runtime::Flight flight = issue(request, where);
  const bool is_part = request.type == OpType::GATHER || request.type == OpType::SCATTER;
  if (is_part && request.call.root != rank_) {
    flight.call.bytes *= size_;  // of which this rank has one part
  } else if (request.type == OpType::ALLTOALL || request.type == OpType::ALLTOALL_BASE) {
    flight.call.bytes = flight.call.moved_bytes;
  }
  Tensors inputs = request.inputs, outputs = request.outputs;
  const char* name = request.call.name;
  const OpType type = request.type;
  return collect(
      done(name, type, std::move(inputs), std::move(outputs), where, [=, this, request = std::move(request)]() {
        stand_for_peers(request);
        return finish(flight, where);
      }));
}

runtime::Moment OneRankBackend::finish(const runtime::Flight& flight, const Place& where) {
  return where.device < 0 ? runtime::Moment{}
                          : runtime::collectives().finish(seam_.system(), flight, flight.arrival.time);
}

// A message from any rank is the next that another role sent; where none is known, the others' in the order of their
// ranks, as `sourceRank()` then says, without values.
TrnBackend::WorkPtr OneRankBackend::message(const at::Tensor& tensor, bool is_send, int peer, int tag) {
  const char* name = is_send ? "send" : "recv";
  const Place where = place(name, {tensor}, {});
  if (peer < 0) {
    peer = sender(tag);
  }
  const runtime::Flight flight = where.device < 0 ? runtime::Flight{} : issue(tensor, is_send, peer, tag, where);
  auto work = done(name, is_send ? OpType::SEND : OpType::RECV, {tensor}, {tensor}, where, [=, this]() {
    if (peer < 0) {
      write(tensor, {});
      return finish(flight, where);
    }
    const int from = is_send ? rank_ : peer, to = is_send ? peer : rank_;
    const Letters::Address address = next(from, to, tag);
    advance(from, to, tag);
    if (is_send) {
      const at::Tensor values = held(tensor);
      letters_->put(address, values.defined() ? values.clone() : values);
    } else {
      write(tensor, letters_->find(address));
    }
    return finish(flight, where);
  });
  if (peer < 0) {
    do {
      latest_unknown_ = (latest_unknown_ + 1) % size_;
    } while (latest_unknown_ == rank_);
  }
  if (!is_send) {
    work->set_source(peer < 0 ? latest_unknown_ : peer);
  }
  return collect(work);
}

at::Tensor OneRankBackend::held(const at::Tensor& tensor) const {
  return tensor.device().is_cpu() ? tensor : seam_.held_values(tensor);
}

void OneRankBackend::write(const at::Tensor& output, const at::Tensor& values) const {
  const bool on_device = !output.device().is_cpu();
  if (!values.defined() || values.numel() != output.numel() || (on_device && !seam_.may_write_values(output))) {
    TORCH_CHECK(on_device,
                "[process group] one rank knows only its own values on the host; got a call that waits for "
                "another rank's. Name that rank in `roles`, before this one.");
    seam_.lose_values(output);
    return;
  }
  at::Tensor into = on_device ? seam_.held_values(output) : output;
  into.copy_(values.reshape(output.sizes()));
}

void OneRankBackend::stand_for_peers(const Request& request) {
  switch (request.type) {
    case OpType::BROADCAST:
      return broadcast_values(request);
    case OpType::ALLREDUCE:
    case OpType::ALLREDUCE_COALESCED:
    case OpType::REDUCE:
    case OpType::REDUCE_SCATTER:
    case OpType::_REDUCE_SCATTER_BASE:
    case OpType::REDUCE_SCATTER_TENSOR_COALESCED:
      return reduce_values(request);
    case OpType::BARRIER:
      return;
    case OpType::SCATTER:
    case OpType::ALLTOALL:
    case OpType::ALLTOALL_BASE:
      return exchange_values(request);
    default:
      return gather_values(request);
  }
}

void OneRankBackend::broadcast_values(const Request& request) {
  const int root = request.call.root;
  const at::Tensor& tensor = request.outputs[0];
  const Letters::Address address = next(root, -1, 0);
  advance(root, -1, 0);
  if (root == rank_) {
    if (const at::Tensor values = held(tensor); values.defined()) {
      letters_->put(address, values.clone());
    }
  } else if (const at::Tensor values = letters_->find(address); values.defined()) {
    write(tensor, values);
  }
}

void OneRankBackend::gather_values(const Request& request) {
  const auto &inputs = request.inputs, &outputs = request.outputs;
  const bool in_one = request.type == OpType::_ALLGATHER_BASE || request.type == OpType::COALESCED;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    at::Tensor values = held(inputs[i % inputs.size()]);
    if (in_one && values.defined()) {
      values = values.reshape({1, -1}).expand({size_, -1});
    }
    write(outputs[i], values);
  }
}

void OneRankBackend::reduce_values(const Request& request) {
  const auto &inputs = request.inputs, &outputs = request.outputs;
  if (request.type == OpType::REDUCE && request.call.root != rank_) {
    return;
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    at::Tensor values;
    if (request.type == OpType::REDUCE_SCATTER) {
      values = held(inputs[static_cast<std::size_t>(rank_)]);
    } else if (inputs[i].numel() == outputs[i].numel()) {
      values = held(inputs[i]);
    } else {
      values = part_of(held(inputs[i]), rank_, size_);
    }
    write(outputs[i], reduced(values, request.call.reduce, size_));
  }
}

void OneRankBackend::exchange_values(const Request& request) {
  const auto &inputs = request.inputs, &outputs = request.outputs;
  if (request.type == OpType::ALLTOALL_BASE) {
    const at::Tensor values = part_of(held(inputs[0]), rank_, size_);
    const bool is_even = inputs[0].numel() == outputs[0].numel() && inputs[0].numel() % size_ == 0 &&
                         std::ranges::all_of(request.call.send_bytes,
                                             [&](std::int64_t bytes) { return bytes == request.call.send_bytes[0]; });
    write(outputs[0], is_even && values.defined() ? values.reshape({1, -1}).expand({size_, -1}) : at::Tensor());
    return;
  }
  const bool sends = inputs.size() == static_cast<std::size_t>(size_);
  for (const at::Tensor& output : outputs) {
    write(output, sends ? held(inputs[static_cast<std::size_t>(rank_)]) : at::Tensor());
  }
}

}  // namespace trn::distributed
