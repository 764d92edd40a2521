#include "distributed/local_exchange.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/ivalue_inl.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>

#include "distributed/agreement.h"
#include "distributed/failure.h"
#include "distributed/ring_sum.h"
#include "distributed/work.h"

namespace trn::distributed {

namespace {

using Kind = LocalCall::Kind;
using Tensors = std::vector<at::Tensor>;

std::int64_t bytes_in(const at::Tensor& tensor) {
  return tensor.numel() * static_cast<std::int64_t>(tensor.itemsize());
}

// Elements in order, of their own memory where that has them so.
at::Tensor flat(const at::Tensor& tensor) {
  return tensor.resolve_conj().contiguous().view(-1);
}

void write(const at::Tensor& from, const at::Tensor& to) {
  if (to.is_contiguous() && from.is_contiguous()) {
    if (bytes_in(to) && from.const_data_ptr() != to.const_data_ptr()) {
      std::memmove(to.mutable_data_ptr(), from.const_data_ptr(), static_cast<std::size_t>(bytes_in(to)));
    }
    return;
  }
  at::Tensor target = to;
  target.copy_(from.contiguous().view(from.scalar_type()).view(to.sizes()));
}

void exchange(const std::vector<LocalCall>& calls) {
  for (std::size_t receiver = 0; receiver < calls.size(); ++receiver) {
    for (std::size_t sender = 0; sender < calls.size(); ++sender) {
      const Tensors none;
      const Tensors& to = calls[receiver].receives.empty() ? none : calls[receiver].receives[sender];
      const Tensors& from = calls[sender].sends.empty() ? none : calls[sender].sends[receiver];
      for (std::size_t i = 0; i < std::max(to.size(), from.size()); ++i) {
        const std::int64_t sent = i < from.size() ? bytes_in(from[i]) : 0;
        const std::int64_t wanted = i < to.size() ? bytes_in(to[i]) : 0;
        if (sent != wanted) {
          raise("[" + calls[sender].name + "] the ranks of a group must make calls that fit together; got " +
                std::to_string(sent) + " bytes from rank " + std::to_string(sender) + ", but rank " +
                std::to_string(receiver) + " takes " + std::to_string(wanted) +
                ". Make the same calls in the same order on every rank.");
        }
        if (sent) {
          write(from[i], to[i]);
        }
      }
    }
  }
}

at::ScalarType real_type(at::ScalarType dtype) {
  return c10::isComplexType(dtype) ? c10::toRealValueType(dtype) : dtype;
}

std::int64_t num_reals(const at::Tensor& tensor) {
  return tensor.numel() * (tensor.is_complex() ? 2 : 1);
}

void sum(Ring ring, const Tensors& inputs, const Tensors& outputs, const c10d::ReduceOp& op) {
  std::vector<const void*> from;
  std::vector<void*> to;
  for (const auto& input : inputs) {
    TORCH_CHECK(num_reals(input) == num_reals(inputs[0]) && input.scalar_type() == inputs[0].scalar_type(),
                "[reduction] the ranks must bring tensors alike; got ", num_reals(inputs[0]), " and ", num_reals(input),
                " elements. Make the same calls in the same order on every rank.");
    from.push_back(input.const_data_ptr());
  }
  for (const auto& output : outputs) {
    to.push_back(output.mutable_data_ptr());
  }
  ring_sum(ring, from, to, num_reals(inputs[0]), real_type(inputs[0].scalar_type()), op.op_);
  if (op.op_ == c10d::ReduceOp::AVG) {
    for (at::Tensor output : outputs) {
      output.div_(static_cast<std::int64_t>(inputs.size()));
    }
  }
}

Tensors flats(const std::vector<LocalCall>& calls, std::size_t i, const Tensors LocalCall::* list) {
  Tensors out;
  for (const auto& call : calls) {
    TORCH_CHECK((call.*list).size() > i, "[", call.name, "] the ranks must bring lists of one length. Make the same ",
                "calls in the same order on every rank.");
    out.push_back(flat((call.*list)[i]));
  }
  return out;
}

// A list is summed as one tensor, as gloo does.
void all_reduce(const std::vector<LocalCall>& calls) {
  Tensors whole;
  for (const auto& call : calls) {
    if (call.inputs.size() == 1) {
      whole.push_back(flat(call.inputs[0]));
      continue;
    }
    Tensors parts;
    for (const auto& input : call.inputs) {
      parts.push_back(flat(input));
    }
    whole.push_back(at::cat(parts));
  }
  sum(Ring::all_reduce, whole, whole, calls[0].op);
  for (std::size_t rank = 0; rank < calls.size(); ++rank) {
    std::int64_t start = 0;
    for (const auto& output : calls[rank].inputs) {
      write(whole[rank].narrow(0, start, output.numel()), output);
      start += output.numel();
    }
  }
}

void reduce(const std::vector<LocalCall>& calls) {
  const auto root = static_cast<std::size_t>(calls[0].root);
  const Tensors inputs = flats(calls, 0, &LocalCall::inputs);
  const at::Tensor total = at::empty_like(inputs[root]);
  sum(Ring::reduce, inputs, {total}, calls[0].op);
  write(total, calls[root].inputs[0]);
}

// gloo reduces everything everywhere, and each rank keeps its part.
void reduce_scatter(const std::vector<LocalCall>& calls) {
  for (std::size_t i = 0; i < calls[0].inputs.size(); ++i) {
    const Tensors inputs = flats(calls, i, &LocalCall::inputs);
    const at::Tensor total = at::empty_like(inputs[0]);
    sum(Ring::all_reduce, inputs, {total}, calls[0].op);
    const std::int64_t part = total.numel() / static_cast<std::int64_t>(calls.size());
    for (std::size_t rank = 0; rank < calls.size(); ++rank) {
      write(total.narrow(0, static_cast<std::int64_t>(rank) * part, part), calls[rank].outputs[i]);
    }
  }
}

void reduce_scatter_lists(const std::vector<LocalCall>& calls) {
  for (std::size_t rank = 0; rank < calls.size(); ++rank) {
    const Tensors inputs = flats(calls, rank, &LocalCall::inputs);
    const at::Tensor total = at::empty_like(inputs[0]);
    sum(Ring::all_reduce, inputs, {total}, calls[0].op);
    write(total, calls[rank].outputs[0]);
  }
}

void carry_out(const std::vector<LocalCall>& calls) {
  // Neither autograd nor a Python mode has a part in the transport's own tensors.
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const c10::impl::ExcludeDispatchKeyGuard below_modes(
      c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot}));
  const bool alike = std::all_of(calls.begin(), calls.end(), [&](const auto& call) {
    return call.kind == calls[0].kind && call.name == calls[0].name && call.root == calls[0].root &&
           call.op.op_ == calls[0].op.op_;
  });
  if (!alike) {
    std::string text;
    for (std::size_t rank = 0; rank < calls.size(); ++rank) {
      text += (rank ? "; rank " : "rank ") + std::to_string(rank) + ": " + calls[rank].name;
    }
    raise("[" + calls[0].name + "] the ranks of a group must make calls that fit together; got " + text +
          ". Make the same calls in the same order on every rank.");
  }
  switch (calls[0].kind) {
    case Kind::exchange:
      return exchange(calls);
    case Kind::all_reduce:
      return all_reduce(calls);
    case Kind::reduce:
      return reduce(calls);
    case Kind::reduce_scatter:
      return reduce_scatter(calls);
    case Kind::reduce_scatter_lists:
      return reduce_scatter_lists(calls);
  }
}

std::exception_ptr error_of(const std::string& message) {
  try {
    raise(message);
  } catch (...) {
    return std::current_exception();
  }
}

void deliver(const LocalExchange::Message& sent, const LocalExchange::Message& wanted) {
  std::exception_ptr error;
  try {
    if (bytes_in(sent.tensor) != bytes_in(wanted.tensor)) {
      raise("[recv] both ends must name the same size; got " + std::to_string(bytes_in(sent.tensor)) +
            " bytes from rank " + std::to_string(sent.source) + " and " + std::to_string(bytes_in(wanted.tensor)) +
            " on rank " + std::to_string(wanted.destination) + ". Make the tensors alike.");
    }
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    write(sent.tensor, wanted.tensor);
  } catch (...) {
    error = std::current_exception();
  }
  wanted.work->set_source(sent.source);
  sent.work->complete(error);
  wanted.work->complete(error);
}

}  // namespace

LocalWork::LocalWork(int rank, c10d::OpType type, std::string what, std::vector<at::Tensor> outputs,
                     std::chrono::milliseconds timeout, std::shared_ptr<Turns> turns)
    : Work(rank, type),
      what_(std::move(what)),
      outputs_(std::move(outputs)),
      timeout_(timeout),
      turns_(std::move(turns)),
      future_(tensor_future(-1)) {}

bool LocalWork::wait(std::chrono::milliseconds timeout) {
  const auto limit = timeout == kNoTimeout ? timeout_ : timeout;
  bool in_time = true;
  if (!Work::isCompleted()) {
    wait_in([this] { return what_; },
            [&] {
              std::unique_lock lock(mutex_);
              in_time = cv_.wait_for(lock, limit, [this] { return completed_; });
            });
  }
  if (!in_time) {
    raise("[" + what_ + "] Timed out waiting " + std::to_string(limit.count()) + "ms for the other ranks.");
  }
  return Work::wait(kNoTimeout);  // rethrows
}

bool LocalWork::isCompleted() {
  if (!Work::isCompleted()) {
    wait_in([this] { return what_; }, [] {});  // who asks in a loop lets others come
  }
  return Work::isCompleted();
}

c10::intrusive_ptr<c10::ivalue::Future> LocalWork::getFuture() {
  // What is attached to the future runs on this rank's thread: only a future that is done runs it there.
  wait_in([this] { return what_; },
          [this] {
            std::unique_lock lock(mutex_);
            cv_.wait(lock, [this] { return completed_; });
          });
  return future_;
}

void LocalWork::complete(const std::exception_ptr& error) {
  turns_->count_event();
  if (error) {
    future_->setErrorIfNeeded(error);
  } else {
    future_->markCompleted(c10::IValue(outputs_));
  }
  finish(error);
}

std::shared_ptr<LocalExchange> LocalExchange::make(int num_ranks, std::shared_ptr<Turns> turns) {
  const std::shared_ptr<LocalExchange> made(new LocalExchange(num_ranks, std::move(turns)));
  made->waker_ = made->turns_->on_end([exchange = std::weak_ptr<LocalExchange>(made)] {
    if (const auto alive = exchange.lock()) {
      alive->end();
    }
  });
  return made;
}

LocalExchange::~LocalExchange() {
  turns_->forget(waker_);
}

void LocalExchange::join(int rank, std::uint64_t number, LocalCall call, const WorkPtr& work) {
  turns_->raise_if_ended(work->what().c_str());
  Round complete;
  {
    std::lock_guard lock(mutex_);
    Round& round = rounds_[number];
    round.calls.resize(static_cast<std::size_t>(num_ranks_));
    round.works.resize(static_cast<std::size_t>(num_ranks_));
    round.calls[static_cast<std::size_t>(rank)] = std::move(call);
    round.works[static_cast<std::size_t>(rank)] = work;
    turns_->count_event();
    if (++round.num_joined < num_ranks_) {
      return;
    }
    complete = std::move(round);
    rounds_.erase(number);
  }
  std::exception_ptr error;
  try {
    carry_out(complete.calls);
  } catch (...) {
    error = std::current_exception();
  }
  for (const auto& each : complete.works) {
    each->complete(error);
  }
}

std::optional<LocalExchange::Message> LocalExchange::take(Messages& messages, const Message& other, bool is_send) {
  auto found = messages.find({other.destination, other.tag, other.source});
  if (found == messages.end() && is_send) {
    found = messages.find({other.destination, other.tag, -1});  // who takes a message from anyone
  } else if (found == messages.end() && other.source < 0) {
    found = messages.lower_bound({other.destination, other.tag, 0});
    if (found != messages.end() && (found->first[0] != other.destination || found->first[1] != other.tag)) {
      found = messages.end();
    }
  }
  if (found == messages.end()) {
    return std::nullopt;
  }
  Message message = std::move(found->second.front());
  found->second.pop_front();
  if (found->second.empty()) {
    messages.erase(found);
  }
  return message;
}

void LocalExchange::post(Message message, bool is_send) {
  turns_->raise_if_ended(message.work->what().c_str());
  turns_->count_event();
  Message other;
  {
    std::lock_guard lock(mutex_);
    auto found = take(is_send ? wanted_ : sent_, message, is_send);
    if (!found) {
      const Key key{message.destination, message.tag, message.source};
      (is_send ? sent_ : wanted_)[key].push_back(std::move(message));
      return;
    }
    other = std::move(*found);
  }
  is_send ? deliver(message, other) : deliver(other, message);
}

void LocalExchange::end() {
  std::vector<WorkPtr> waiting;
  {
    std::lock_guard lock(mutex_);
    for (auto& [number, round] : rounds_) {
      for (auto& work : round.works) {
        if (work) {
          waiting.push_back(std::move(work));
        }
      }
    }
    rounds_.clear();
    for (auto* messages : {&sent_, &wanted_}) {
      for (auto& [key, queued] : *messages) {
        for (auto& message : queued) {
          waiting.push_back(std::move(message.work));
        }
      }
      messages->clear();
    }
  }
  for (const auto& work : waiting) {
    work->complete(error_of("[" + work->what() + "] every rank must be there; got: " + turns_->why_ended()));
  }
}

}  // namespace trn::distributed
