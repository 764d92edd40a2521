#include "distributed/backend.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <numeric>

#include "distributed/point_to_point.h"
#include "distributed/turns.h"

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
  group_ = runtime::collectives().add_group(agreement_.group(), global_ranks_);
}

TrnBackend::TrnBackend(const DeviceSeam& seam, std::string name, std::string group, int rank, int size,
                       std::vector<int> global_ranks, std::chrono::milliseconds timeout)
    : Backend(rank, size),
      seam_(seam),
      name_(std::move(name)),
      global_ranks_(std::move(global_ranks)),
      options_(c10::make_intrusive<TrnOptions>(name_, timeout)),
      agreement_(c10::intrusive_ptr<c10d::Backend>(), std::move(group)) {
  options_->group_name = agreement_.group();
  options_->global_ranks_in_group.assign(global_ranks_.begin(), global_ranks_.end());
  group_ = runtime::collectives().add_group(agreement_.group(), global_ranks_);
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
  for (const auto& transport : {payload_, control_}) {
    if (transport) {
      transport->setTimeout(timeout);
    }
  }
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
  if (device < 0) {  // a barrier
    device = device_ < 0 ? seam_.current_device() : device_;
  }
  if (device < 0) {
    return {};
  }
  if (device_ != device) {
    device_ = device;
    stream_ = runtime::OwnStream(seam_.system().device(device).clock);
  }
  return {device, seam_.current_stream(device), stream_.id()};
}

runtime::Collective TrnBackend::collective(const char* op, std::optional<at::ScalarType> dtype,
                                           const Place& place) const {
  runtime::Collective collective;
  collective.op = op;
  collective.dtype = dtype ? std::string(c10::getDtypeNames(*dtype).first) : "mixed";
  collective.group = group_;
  collective.position = rank_;
  if (seam_.system().recorder().active()) {
    collective.site = seam_.current_site();
  }
  collective.device = place.device;
  collective.stream = place.stream;
  return collective;
}

runtime::Flight TrnBackend::issue(const Request& request, const Place& place) {
  if (place.device < 0) {
    return {};
  }
  const auto sum = [](const Tensors& tensors) {
    std::int64_t bytes = 0;
    for (const auto& tensor : tensors) {
      bytes += bytes_of(tensor);
    }
    return bytes;
  };
  runtime::Collective call = collective(request.call.name, request.call.dtype, place);
  call.root = request.call.root;
  call.input_bytes = sum(request.inputs);
  call.output_bytes = sum(request.outputs);
  call.bytes = std::max(call.input_bytes, call.output_bytes);
  call.moved_bytes = moved_bytes(request.call, rank_);
  return runtime::collectives().issue(seam_.system(), std::move(call), place.compute_stream);
}

runtime::Flight TrnBackend::issue(const at::Tensor& tensor, bool is_send, int peer, int tag, const Place& place) {
  runtime::Collective call = collective(is_send ? "send" : "recv", tensor.scalar_type(), place);
  call.root = peer;
  call.bytes = bytes_of(tensor);
  (is_send ? call.input_bytes : call.output_bytes) = call.bytes;
  call.moved_bytes = is_send ? call.bytes : 0;
  return runtime::collectives().issue(seam_.system(), std::move(call), place.compute_stream, tag);
}

TrnBackend::WorkPtr TrnBackend::start(Request request, std::function<void(const Transfer&)> move) {
  const char* name = request.call.name;
  failure_->check(name);
  std::lock_guard lock(start_mutex_);
  const Place where = place(name, request.inputs, request.outputs);
  runtime::Flight flight = issue(request, where);
  const std::string title = name_ + ":" + name;
  Agreement::Round round;
  try {
    round = agreement_.begin(std::move(request.call), flight.arrival.time);
  } catch (const c10::Error& error) {
    failure_->set(error.what_without_backtrace());
    throw;
  }
  const std::uint64_t number = round.number;
  const std::string description = has_turn() ? agreement_.describe(round) : "";
  auto body = [this, round = std::move(round), flight = std::move(flight), move = std::move(move),
               timeout = request.timeout, where, name]() mutable -> runtime::Moment {
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
        return {};
      }
      flight.call.bytes = agreement_.bytes(round);
      return runtime::collectives().finish(seam_.system(), flight, latest);
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
  std::lock_guard lock(start_mutex_);
  const Place where = place(name, {tensor}, {});
  runtime::Flight flight = issue(tensor, is_send, peer, tag, where);
  MessageWork::Message message{is_send, peer, tag, agreement_.group(), options_->timeout, flight.arrival.time};
  auto done = [seam = seam_, flight = std::move(flight)](int other, runtime::Picoseconds latest) mutable {
    flight.call.root = other;
    return runtime::collectives().finish(seam.system(), flight, latest);
  };
  auto work = c10::make_intrusive<MessageWork>(control_, payload_, std::move(message), tensor, num_messages_++, where,
                                               seam_, failure_, std::move(done));
  work->post();
  return collect(work);
}

TrnBackend::WorkPtr TrnBackend::send(Tensors& tensors, int destination, int tag) {
  return message(one_of("send", tensors, destination), true, destination, tag);
}

TrnBackend::WorkPtr TrnBackend::recv(Tensors& tensors, int source, int tag) {
  return message(one_of("recv", tensors, source), false, source, tag);
}

TrnBackend::WorkPtr TrnBackend::recvAnysource(Tensors& tensors, int tag) {
  return message(one_of("recv", tensors, (rank_ + 1) % size_), false, -1, tag);
}

const at::Tensor& TrnBackend::one_of(const char* name, const Tensors& tensors, int peer) const {
  TORCH_CHECK_VALUE(tensors.size() == 1, "[", name, "] takes one tensor; got ", tensors.size(), ".");
  TORCH_CHECK_VALUE(peer >= 0 && peer < size_ && peer != rank_, "[", name, "] takes another rank of the group; got ",
                    peer, ", limit ", size_ - 1, ", own rank ", rank_, ".");
  return tensors[0];
}

}  // namespace trn::distributed
