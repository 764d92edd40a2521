#include "distributed/local_backend.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>

namespace trn::distributed {

namespace {

using c10d::OpType;
using Kind = LocalCall::Kind;

// Exchanges on their way from the group's first rank to the others.
class Meeting {
 public:
  std::string offer(std::shared_ptr<LocalExchange> exchange) {
    std::lock_guard lock(mutex_);
    const std::string key = std::to_string(++last_);
    open_[key] = {exchange, exchange->num_ranks() - 1};
    return key;
  }
  // Also, whether nobody is to come any more.
  std::pair<std::shared_ptr<LocalExchange>, bool> take(const std::string& key) {
    std::lock_guard lock(mutex_);
    auto& [exchange, num_missing] = open_.at(key);
    const auto found = exchange;
    const bool is_last = --num_missing == 0;
    if (is_last) {
      open_.erase(key);
    }
    return {found, is_last};
  }

 private:
  std::mutex mutex_;
  std::uint64_t last_ = 0;
  std::unordered_map<std::string, std::pair<std::shared_ptr<LocalExchange>, int>> open_;
};

Meeting& meeting() {
  static auto* instance = new Meeting();  // leaked: threads may outlive static destruction
  return *instance;
}

std::shared_ptr<LocalExchange> meet(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size) {
  if (rank != 0) {
    const auto [exchange, is_last] = meeting().take(store->get_to_str("exchange"));
    if (is_last) {
      store->deleteKey("exchange");  // a group made later may have the same name
    }
    return exchange;
  }
  const auto turns = current_turns();
  TORCH_CHECK(turns,
              "[process group] ranks in one process need a simulation that runs them; got none. "
              "Call torch_trn.simulate.");
  auto exchange = LocalExchange::make(size, turns);
  if (size > 1) {
    store->set("exchange", meeting().offer(exchange));
  }
  return exchange;
}

std::string text(const char* name, const LocalBackend::Tensors& tensors, bool sizes_agree) {
  std::string out = name;
  if (!tensors.empty()) {
    out += "(" + std::string(c10::getDtypeNames(tensors[0].scalar_type()).first);
    for (const auto& tensor : tensors) {
      out += sizes_agree ? ", " + std::to_string(tensor.numel()) : "";
    }
    out += ")";
  }
  return out;
}

// A tensor for each rank, as lists of one.
LocalBackend::Lists one_each(const LocalBackend::Tensors& tensors) {
  LocalBackend::Lists lists;
  for (const auto& tensor : tensors) {
    lists.push_back({tensor});
  }
  return lists;
}

}  // namespace

LocalBackend::LocalBackend(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                           std::chrono::milliseconds timeout)
    : Backend(rank, size),
      options_(c10::make_intrusive<LocalOptions>("gloo", timeout)),
      exchange_(meet(store, rank, size)) {}

c10::intrusive_ptr<c10d::Backend> LocalBackend::split(const c10::intrusive_ptr<c10d::Store>& store,
                                                      const std::vector<int>& ranks,
                                                      const c10::intrusive_ptr<Options>& options) {
  const auto found = std::find(ranks.begin(), ranks.end(), rank_);
  if (found == ranks.end()) {
    return nullptr;
  }
  return c10::make_intrusive<LocalBackend>(store, static_cast<int>(found - ranks.begin()),
                                           static_cast<int>(ranks.size()), options->timeout);
}

LocalBackend::WorkPtr LocalBackend::join(const char* name, OpType type, LocalCall call, Tensors outputs,
                                         std::chrono::milliseconds timeout) {
  const bool is_reduction = call.kind != Kind::exchange;
  call.name = text(name, call.inputs, is_reduction && call.kind != Kind::reduce_scatter_lists);
  auto work = c10::make_intrusive<LocalWork>(
      rank_, type, "call " + std::to_string(num_calls_) + " of group " + options_->group_name + ": " + call.name,
      std::move(outputs), timeout == c10d::kUnsetTimeout ? options_->timeout : timeout, exchange_->turns());
  exchange_->join(rank_, num_calls_++, std::move(call), work);
  return work;
}

LocalBackend::WorkPtr LocalBackend::broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) {
  LocalCall call;
  call.root = static_cast<int>(options.rootRank);
  call.receives = by_rank();
  if (rank_ == call.root) {
    call.sends = to_all(tensors);
  }
  call.receives[static_cast<std::size_t>(call.root)] = tensors;
  return join("broadcast", OpType::BROADCAST, std::move(call), tensors, options.timeout);
}

LocalBackend::WorkPtr LocalBackend::allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) {
  LocalCall call;
  call.kind = Kind::all_reduce;
  call.inputs = tensors;
  call.op = options.reduceOp;
  return join("all_reduce", OpType::ALLREDUCE, std::move(call), tensors, options.timeout);
}

LocalBackend::WorkPtr LocalBackend::allreduce_coalesced(Tensors& tensors,
                                                        const c10d::AllreduceCoalescedOptions& options) {
  LocalCall call;
  call.kind = Kind::all_reduce;
  call.inputs = tensors;
  call.op = options.reduceOp;
  return join("all_reduce_coalesced", OpType::ALLREDUCE_COALESCED, std::move(call), tensors, options.timeout);
}

LocalBackend::WorkPtr LocalBackend::reduce(Tensors& tensors, const c10d::ReduceOptions& options) {
  LocalCall call;
  call.kind = Kind::reduce;
  call.inputs = tensors;
  call.op = options.reduceOp;
  call.root = static_cast<int>(options.rootRank);
  return join("reduce", OpType::REDUCE, std::move(call), tensors, options.timeout);
}

LocalBackend::WorkPtr LocalBackend::allgather(Lists& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) {
  LocalCall call;
  call.sends = to_all(inputs);
  call.receives = one_each(outputs.at(0));
  return join("all_gather", OpType::ALLGATHER, std::move(call), outputs[0], options.timeout);
}

LocalBackend::WorkPtr LocalBackend::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                    const c10d::AllgatherOptions& options) {
  Tensors outputs{output}, inputs{input};
  return allgather_into_tensor_coalesced(outputs, inputs, options);
}

LocalBackend::WorkPtr LocalBackend::allgather_coalesced(Lists& outputs, Tensors& inputs,
                                                        const c10d::AllgatherOptions& options) {
  LocalCall call;
  call.sends = to_all(inputs);
  call.receives = outputs;
  Tensors flat;
  for (const auto& list : outputs) {
    flat.insert(flat.end(), list.begin(), list.end());
  }
  return join("all_gather_coalesced", OpType::ALLGATHER_COALESCED, std::move(call), std::move(flat), options.timeout);
}

LocalBackend::WorkPtr LocalBackend::allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                    const c10d::AllgatherOptions& options) {
  LocalCall call;
  call.sends = to_all(inputs);
  call.receives = by_rank();
  for (const auto& output : outputs) {
    const Lists each = parts(output.contiguous().view(-1), {});
    TORCH_CHECK(output.is_contiguous(), "[all_gather_into_tensor] takes a contiguous output. Call contiguous() first.");
    for (std::size_t rank = 0; rank < each.size(); ++rank) {
      call.receives[rank].push_back(each[rank][0]);
    }
  }
  return join("all_gather_into_tensor", OpType::_ALLGATHER_BASE, std::move(call), outputs, options.timeout);
}

LocalBackend::WorkPtr LocalBackend::gather(Lists& outputs, Tensors& inputs, const c10d::GatherOptions& options) {
  LocalCall call;
  call.root = static_cast<int>(options.rootRank);
  call.sends = by_rank();
  call.sends[static_cast<std::size_t>(call.root)] = inputs;
  Tensors all;
  if (rank_ == call.root) {
    all = outputs.at(0);
    call.receives = one_each(all);
  }
  return join("gather", OpType::GATHER, std::move(call), all, options.timeout);
}

LocalBackend::WorkPtr LocalBackend::scatter(Tensors& outputs, Lists& inputs, const c10d::ScatterOptions& options) {
  LocalCall call;
  call.root = static_cast<int>(options.rootRank);
  if (rank_ == call.root) {
    call.sends = one_each(inputs.at(0));
  }
  call.receives = by_rank();
  call.receives[static_cast<std::size_t>(call.root)] = outputs;
  return join("scatter", OpType::SCATTER, std::move(call), outputs, options.timeout);
}

LocalBackend::WorkPtr LocalBackend::reduce_scatter(Tensors& outputs, Lists& inputs,
                                                   const c10d::ReduceScatterOptions& options) {
  LocalCall call;
  call.kind = Kind::reduce_scatter_lists;
  call.inputs = inputs.at(0);
  call.outputs = outputs;
  call.op = options.reduceOp;
  return join("reduce_scatter", OpType::REDUCE_SCATTER, std::move(call), outputs, options.timeout);
}

LocalBackend::WorkPtr LocalBackend::_reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                                         const c10d::ReduceScatterOptions& options) {
  Tensors outputs{output}, inputs{input};
  return reduce_scatter_tensor_coalesced(outputs, inputs, options);
}

LocalBackend::WorkPtr LocalBackend::reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                    const c10d::ReduceScatterOptions& options) {
  LocalCall call;
  call.kind = Kind::reduce_scatter;
  call.inputs = inputs;
  call.outputs = outputs;
  call.op = options.reduceOp;
  return join("reduce_scatter_tensor", OpType::_REDUCE_SCATTER_BASE, std::move(call), outputs, options.timeout);
}

LocalBackend::WorkPtr LocalBackend::alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) {
  LocalCall call;
  call.sends = one_each(inputs);
  call.receives = one_each(outputs);
  return join("all_to_all", OpType::ALLTOALL, std::move(call), outputs, options.timeout);
}

LocalBackend::Lists LocalBackend::parts(const at::Tensor& whole, const std::vector<std::int64_t>& rows) const {
  Lists out;
  std::int64_t start = 0;
  for (int rank = 0; rank < size_; ++rank) {
    const std::int64_t length = rows.empty() ? whole.size(0) / size_ : rows.at(static_cast<std::size_t>(rank));
    out.push_back({whole.narrow(0, start, length)});
    start += length;
  }
  TORCH_CHECK_VALUE(start == whole.size(0), "[collective] the parts of all ranks add up to the tensor; got ", start,
                    " rows, limit ", whole.size(0), ". Give every rank its part.");
  return out;
}

LocalBackend::WorkPtr LocalBackend::alltoall_base(at::Tensor& output, at::Tensor& input,
                                                  std::vector<std::int64_t>& output_rows,
                                                  std::vector<std::int64_t>& input_rows,
                                                  const c10d::AllToAllOptions& options) {
  LocalCall call;
  call.sends = parts(input, input_rows);
  call.receives = parts(output, output_rows);
  return join("all_to_all_single", OpType::ALLTOALL_BASE, std::move(call), {output}, options.timeout);
}

LocalBackend::WorkPtr LocalBackend::barrier(const c10d::BarrierOptions& options) {
  return join("barrier", OpType::BARRIER, {}, {}, options.timeout);
}

void LocalBackend::monitoredBarrier(const c10d::BarrierOptions& options, bool) {
  join("monitored_barrier", OpType::BARRIER, {}, {}, options.timeout)->wait();
}

LocalBackend::WorkPtr LocalBackend::message(const at::Tensor& tensor, bool is_send, int peer, int tag) {
  const std::string what = std::string(is_send ? "send to " : "recv from ") +
                           (peer < 0 ? "any rank" : "rank " + std::to_string(peer)) + " of group " +
                           options_->group_name + ", tag " + std::to_string(tag);
  auto work = c10::make_intrusive<LocalWork>(rank_, is_send ? OpType::SEND : OpType::RECV, what, Tensors{tensor},
                                             options_->timeout, exchange_->turns());
  if (is_send) {
    exchange_->send({rank_, peer, tag, tensor, work});
  } else {
    exchange_->receive({peer, rank_, tag, tensor, work});
  }
  return work;
}

LocalBackend::WorkPtr LocalBackend::send(Tensors& tensors, int destination, int tag) {
  return message(tensors.at(0), true, destination, tag);
}

LocalBackend::WorkPtr LocalBackend::recv(Tensors& tensors, int source, int tag) {
  return message(tensors.at(0), false, source, tag);
}

LocalBackend::WorkPtr LocalBackend::recvAnysource(Tensors& tensors, int tag) {
  return message(tensors.at(0), false, -1, tag);
}

}  // namespace trn::distributed
