#include "distributed/backend.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <numeric>

#include "distributed/point_to_point.h"
#include "distributed/turns.h"
#include "runtime/collectives.h"

namespace trn::distributed {

namespace {

// What a rank sends to others, at the least: a reduced byte goes round twice, as all_reduce is reduce_scatter, then
// all_gather; a broadcast one leaves once.
std::int64_t moved_bytes(const Call& call, int rank) {
  if (call.send_bytes.empty()) {
    return 0;
  }
  const auto num_ranks = static_cast<std::int64_t>(call.send_bytes.size());
  const std::int64_t own = call.send_bytes[static_cast<std::size_t>(rank)];
  if (call.is_all_reduce()) {
    return 2 * own * (num_ranks - 1) / num_ranks;
  }
  if (call.is_broadcast()) {
    return num_ranks > 1 ? own : 0;
  }
  return std::accumulate(call.send_bytes.begin(), call.send_bytes.end(), std::int64_t{0}) - own;
}

}  // namespace

TrnBackend::TrnBackend(const DeviceSeam& seam, std::string name, std::string group,
                       c10::intrusive_ptr<c10d::Backend> payload, c10::intrusive_ptr<c10d::Backend> control,
                       std::vector<int> global_ranks, std::chrono::milliseconds timeout)
    : Backend(payload->getRank(), payload->getSize()),
      seam_(seam),
      name_(std::move(name)),
      global_ranks_(std::move(global_ranks)),
      options_(c10::make_intrusive<TrnOptions>(name_, timeout)),
      payload_(std::move(payload)),
      control_(control),
      agreement_(std::move(control), std::move(group)) {
  TORCH_CHECK(control_->getSize() == size_ && control_->getRank() == rank_,
              "[process group] data and control must have the same ranks; got ", size_, " and ", control_->getSize(),
              ". Make both from one group.");
  options_->group_name = agreement_.group();
  options_->global_ranks_in_group.assign(global_ranks_.begin(), global_ranks_.end());
}

TrnBackend::~TrnBackend() {
  wait_in([this] { return "the end of group " + agreement_.group(); },
          [this] {
            seam_.blocking([this] {
              queue_->close();
              queue_.reset();
            });
          });
}

void TrnBackend::setTimeout(std::chrono::milliseconds timeout) {
  options_->timeout = timeout;
  payload_->setTimeout(timeout);
  control_->setTimeout(timeout);
}

c10::intrusive_ptr<c10d::Backend> TrnBackend::split(const c10::intrusive_ptr<c10d::Store>& store,
                                                    const std::vector<int>& ranks,
                                                    const c10::intrusive_ptr<Options>& options) {
  auto payload =
      payload_->split(c10::make_intrusive<c10d::PrefixStore>("data/", store), ranks, payload_->getBackendOptions());
  if (!payload) {
    return nullptr;
  }
  auto control =
      control_->split(c10::make_intrusive<c10d::PrefixStore>("control/", store), ranks, control_->getBackendOptions());
  std::vector<int> global_ranks;
  for (const int rank : ranks) {
    global_ranks.push_back(global_ranks_[static_cast<std::size_t>(rank)]);
  }
  return c10::make_intrusive<TrnBackend>(seam_, name_, options->group_name, std::move(payload), std::move(control),
                                         std::move(global_ranks), options->timeout);
}

void TrnBackend::startCoalescing() {
  is_coalescing_ = true;
  coalesced_.clear();
}

TrnBackend::WorkPtr TrnBackend::endCoalescing() {
  is_coalescing_ = false;
  return c10::make_intrusive<WorkList>(std::exchange(coalesced_, {}));
}

TrnBackend::WorkPtr TrnBackend::collect(WorkPtr work) {
  if (is_coalescing_) {
    coalesced_.push_back(work);
  }
  return work;
}

c10d::ErrorType TrnBackend::getError() {
  const std::string why = failure_->why();
  if (why.empty()) {
    return c10d::ErrorType::SUCCESS;
  }
  return why.find("within the timeout") != std::string::npos ? c10d::ErrorType::TIMEOUT : c10d::ErrorType::COMM_ERROR;
}

std::chrono::milliseconds TrnBackend::or_default(std::chrono::milliseconds timeout) const {
  return timeout == c10d::kUnsetTimeout ? options_->timeout : timeout;
}

std::vector<std::int64_t> TrnBackend::everywhere(std::int64_t bytes) const {
  return std::vector<std::int64_t>(static_cast<std::size_t>(size_), bytes);
}

std::vector<std::int64_t> TrnBackend::only(int rank, std::int64_t bytes) const {
  std::vector<std::int64_t> out(static_cast<std::size_t>(size_), 0);
  out.at(static_cast<std::size_t>(rank)) = bytes;
  return out;
}

Place TrnBackend::place(const char* name, const Tensors& a, const Tensors& b) {
  int device = -1;
  for (const auto* tensors : {&a, &b}) {
    for (const auto& tensor : *tensors) {
      TORCH_CHECK(tensor.device().is_privateuseone() && tensor.layout() == at::kStrided, "[", name,
                  "] takes dense tensors on ", name_, " devices; got one on ", tensor.device(), ", layout ",
                  tensor.layout(), ". Move it, or make a group with a backend for that device.");
      TORCH_CHECK(device < 0 || device == tensor.device().index(), "[", name,
                  "] one call takes tensors of one device; got devices ", device, " and ",
                  static_cast<int>(tensor.device().index()), ". Move them to one.");
      device = tensor.device().index();
    }
  }
  if (device < 0) {
    return {};
  }
  if (device_ != device) {
    device_ = device;
    stream_ = seam_.system().device(device).clock.new_stream();
  }
  return {device, seam_.current_stream(device), stream_};
}

void TrnBackend::record(const char* op, std::optional<at::ScalarType> dtype, const Place& place,
                        std::int64_t input_bytes, std::int64_t output_bytes, std::int64_t moved_bytes) {
  runtime::Collective collective;
  collective.op = op;
  collective.dtype = dtype ? std::string(c10::getDtypeNames(*dtype).first) : "mixed";
  collective.group = agreement_.group();
  collective.ranks = global_ranks_;
  collective.input_bytes = input_bytes;
  collective.output_bytes = output_bytes;
  collective.moved_bytes = moved_bytes;
  collective.site = seam_.current_site();
  collective.device = place.device;
  collective.stream = place.stream;
  runtime::collective_log().add(collective);
}

TrnBackend::WorkPtr TrnBackend::start(Request request, std::function<void(const Transfer&)> move) {
  const char* name = request.call.name;
  failure_->check(name);
  std::lock_guard lock(start_mutex_);
  const Place where = place(name, request.inputs, request.outputs);
  runtime::Picoseconds arrival = 0;
  if (where.device >= 0) {
    auto& clock = seam_.system().device(where.device).clock;
    arrival = std::max(clock.host(), clock.ready(where.compute_stream));
  }
  if (where.device >= 0 && seam_.system().recorder().active()) {
    const auto sum = [](const Tensors& tensors) {
      std::int64_t bytes = 0;
      for (const auto& tensor : tensors) {
        bytes += bytes_of(tensor);
      }
      return bytes;
    };
    record(name, request.call.dtype, where, sum(request.inputs), sum(request.outputs),
           moved_bytes(request.call, rank_));
  }
  const std::string title = name_ + ":" + name;
  Agreement::Round round;
  try {
    round = agreement_.begin(std::move(request.call), arrival);
  } catch (const c10::Error& error) {
    failure_->set(error.what_without_backtrace());
    throw;
  }
  const std::uint64_t number = round.number;
  const std::string description = has_turn() ? agreement_.describe(round) : "";
  auto body = [this, round = std::move(round), move = std::move(move), timeout = request.timeout, where,
               name]() mutable -> runtime::Picoseconds {
    failure_->check(name);
    try {
      const runtime::Picoseconds latest = agreement_.finish(round, timeout);
      try {
        move(Transfer(payload_, timeout));
      } catch (const std::exception& error) {
        const std::vector<int> missing = agreement_.roll_call();
        raise("[" + std::string(name) + "] the data must arrive within the timeout; got " +
              (missing.empty() ? "an error of the transport" : "nothing from " + text_of(missing)) + ", limit " +
              text_of(timeout) + ", in " + agreement_.describe(round) +
              ". See that rank's own output. The transport said: " + error.what());
      }
      if (where.device < 0) {
        return 0;
      }
      return std::max(latest, seam_.system().device(where.device).clock.ready(where.stream));
    } catch (const c10::Error& error) {
      failure_->set(error.what_without_backtrace());
      throw;
    }
  };
  auto work = c10::make_intrusive<CollectiveWork>(rank_, request.type, title.c_str(), number, std::move(request.inputs),
                                                  std::move(request.outputs), where, seam_, queue_, std::move(body));
  work->set_description(description);
  queue_->push(work);
  if (request.is_async || is_coalescing_) {
    queue_->start();
  }
  return collect(work);
}

TrnBackend::WorkPtr TrnBackend::message(const at::Tensor& tensor, bool is_send, int peer, int tag) {
  const char* name = is_send ? "send" : "recv";
  failure_->check(name);
  TORCH_CHECK_VALUE(peer < size_ && peer != rank_, "[", name, "] takes another rank of the group; got ", peer,
                    ", limit ", size_ - 1, ", own rank ", rank_, ".");
  std::lock_guard lock(start_mutex_);
  const Place where = place(name, {tensor}, {});
  auto& clock = seam_.system().device(where.device).clock;
  const runtime::Picoseconds arrival = std::max(clock.host(), clock.ready(where.compute_stream));
  if (seam_.system().recorder().active()) {
    const std::int64_t bytes = bytes_of(tensor);
    record(name, tensor.scalar_type(), where, is_send ? bytes : 0, is_send ? 0 : bytes, is_send ? bytes : 0);
  }
  MessageWork::Message message{is_send, peer, tag, agreement_.group(), options_->timeout};
  auto work = c10::make_intrusive<MessageWork>(control_, payload_, std::move(message), tensor, num_messages_++, where,
                                               seam_, failure_, [arrival](int) { return arrival; });
  work->post();
  return collect(work);
}

TrnBackend::WorkPtr TrnBackend::send(Tensors& tensors, int destination, int tag) {
  TORCH_CHECK_VALUE(tensors.size() == 1, "[send] takes one tensor; got ", tensors.size(), ".");
  return message(tensors[0], true, destination, tag);
}

TrnBackend::WorkPtr TrnBackend::recv(Tensors& tensors, int source, int tag) {
  TORCH_CHECK_VALUE(tensors.size() == 1, "[recv] takes one tensor; got ", tensors.size(), ".");
  return message(tensors[0], false, source, tag);
}

TrnBackend::WorkPtr TrnBackend::recvAnysource(Tensors& tensors, int tag) {
  TORCH_CHECK_VALUE(tensors.size() == 1, "[recv] takes one tensor; got ", tensors.size(), ".");
  return message(tensors[0], false, -1, tag);
}

}  // namespace trn::distributed
