#include "distributed/agreement.h"

#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <stop_token>
#include <thread>

#include "distributed/failure.h"
#include "runtime/collective_cost.h"

namespace trn::distributed {

namespace {

// A row: [number + 1, name, dtype, reduce, root, layout, arrival] then bytes sent and received, by rank.
enum Word : std::int64_t { kNumber, kName, kDtype, kReduce, kRoot, kLayout, kArrival, kNumWords };
constexpr std::int64_t kFailed = -1;  // in place of a number; the root is who is missing
constexpr std::chrono::milliseconds kRollCall{3000};
constexpr int kTag = 0x7ffffff0;

constexpr std::array kNames = {"all_reduce",
                               "all_reduce_coalesced",
                               "all_gather",
                               "all_gather_into_tensor",
                               "all_gather_into_tensor_coalesced",
                               "all_gather_coalesced",
                               "reduce_scatter",
                               "reduce_scatter_tensor",
                               "reduce_scatter_tensor_coalesced",
                               "broadcast",
                               "reduce",
                               "gather",
                               "scatter",
                               "all_to_all",
                               "all_to_all_single",
                               "barrier",
                               "monitored_barrier",
                               "send",
                               "recv"};

std::int64_t index_of(std::string_view name) {
  const auto* found = std::find(kNames.begin(), kNames.end(), name);
  TORCH_INTERNAL_ASSERT(found != kNames.end(), "no such collective: ", name);
  return found - kNames.begin();
}

const char* reduce_name(std::int64_t op) {
  constexpr std::array names = {"SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR", "PREMUL_SUM"};
  return op >= 0 && op < static_cast<std::int64_t>(names.size()) ? names[static_cast<std::size_t>(op)] : "?";
}

// False: nothing came until then. A timeout of the transport's would close the connections to all ranks.
bool arrives(c10d::Work& receive, std::chrono::steady_clock::time_point deadline) {
  constexpr std::chrono::seconds kNever{3600};
  const std::jthread watchdog([&](const std::stop_token& stop) {
    std::mutex mutex;
    std::condition_variable_any ended;
    std::unique_lock lock(mutex);
    if (!ended.wait_until(lock, stop, deadline, [&] { return stop.stop_requested(); })) {
      receive.abort();
    }
  });
  return receive.wait(std::chrono::duration_cast<std::chrono::milliseconds>(kNever));
}

}  // namespace

std::string text_of(const std::vector<int>& ranks) {
  std::string out;
  for (const int rank : ranks) {
    out += (out.empty() ? "" : ", ") + std::to_string(rank);
  }
  return (ranks.size() == 1 ? "rank " : "ranks ") + out;
}

std::string text_of(std::chrono::milliseconds time) {
  return time.count() % 1000 ? std::to_string(time.count()) + " ms" : std::to_string(time.count() / 1000) + " s";
}

bool is_timeout(const std::string& message) {
  return message.find("Timed out waiting") != std::string::npos ||
         message.find("Application timeout") != std::string::npos;
}

Agreement::Agreement(c10::intrusive_ptr<c10d::Backend> control, std::string group)
    : control_(std::move(control)), group_(std::move(group)) {}

Agreement::Round Agreement::begin(Call call, std::int64_t arrival) {
  const std::int64_t num_ranks = control_->getSize(), words = kNumWords + 2 * num_ranks;
  Round round;
  round.number = number_++;
  round.arrival = arrival;
  round.sent = at::zeros({words}, at::kLong);
  auto* row = round.sent.mutable_data_ptr<std::int64_t>();
  row[kNumber] = static_cast<std::int64_t>(round.number) + 1;
  row[kName] = index_of(call.name);
  row[kDtype] = call.dtype ? static_cast<std::int64_t>(*call.dtype) : -1;
  row[kReduce] = call.reduce ? static_cast<std::int64_t>(*call.reduce) : -1;
  row[kRoot] = call.root;
  row[kLayout] = static_cast<std::int64_t>(call.layout);
  row[kArrival] = arrival;
  std::copy(call.send_bytes.begin(), call.send_bytes.end(), row + kNumWords);
  std::copy(call.receive_bytes.begin(), call.receive_bytes.end(), row + kNumWords + num_ranks);
  round.call = std::move(call);
  if (num_ranks == 1) {
    return round;
  }
  round.received = at::zeros({num_ranks, words}, at::kLong);
  std::vector<int> lost;
  std::string why;
  round.sends.resize(static_cast<std::size_t>(num_ranks));
  round.receives.resize(static_cast<std::size_t>(num_ranks));
  for (int peer = 0; peer < num_ranks; ++peer) {
    if (peer == control_->getRank()) {
      round.received[peer].copy_(round.sent);
      continue;
    }
    try {
      std::vector<at::Tensor> into{round.received[peer]}, from{round.sent};
      round.receives[static_cast<std::size_t>(peer)] = control_->recv(into, peer, kTag);
      round.sends[static_cast<std::size_t>(peer)] = control_->send(from, peer, kTag);
    } catch (const std::exception& error) {
      lost.push_back(peer);
      why = error.what();
    }
  }
  if (!lost.empty()) {
    announce_failure(lost[0]);
    raise("[" + std::string(round.call.name) + "] every rank of the group must be there; got a lost connection to " +
          text_of(lost) + " in " + describe(round) + ". See that rank's own output. The transport said: " + why);
  }
  return round;
}

std::int64_t Agreement::finish(Round& round, Milliseconds timeout) {
  const int num_ranks = control_->getSize(), self = control_->getRank();
  if (num_ranks == 1) {
    return round.arrival;
  }
  // Who waits for the data of the call before gives up first, and its announcement arrives here: it says that it is
  // there.
  const auto deadline = std::chrono::steady_clock::now() + timeout + std::min(timeout / 2, kRollCall);
  const auto* rows = round.received.const_data_ptr<std::int64_t>();
  const std::int64_t words = round.received.size(1);
  const auto row = [&](int rank) { return rows + rank * words; };
  const std::string where = "[" + std::string(round.call.name) + "] ";
  std::string error_text;
  int stopped_at = -1;
  for (int peer = 0; peer < num_ranks && stopped_at < 0; ++peer) {
    if (peer == self) {
      continue;
    }
    const auto left = std::chrono::duration_cast<Milliseconds>(deadline - std::chrono::steady_clock::now());
    try {
      round.receives[static_cast<std::size_t>(peer)]->wait(std::max(left, Milliseconds(1)));
    } catch (const std::exception& error) {
      error_text = error.what();
      stopped_at = peer;
      break;
    }
    if (row(peer)[kNumber] == kFailed) {
      const auto known = static_cast<int>(row(peer)[kRoot]);
      const int missing = known < 0 ? verdict_of(peer) : known;
      announce_failure(missing);
      raise(where + "every rank of the group must be there; got word from rank " + std::to_string(peer) +
            (missing < 0 ? std::string(" that some rank") : " that rank " + std::to_string(missing)) + " is not, in " +
            describe(round) + ". See that rank's own output.");
    }
  }
  if (stopped_at >= 0) {
    std::vector<int> missing;
    for (int peer = 0; peer < num_ranks; ++peer) {
      if (row(peer)[kNumber] == 0) {
        missing.push_back(peer);
      }
    }
    announce_failure(stopped_at);
    if (!is_timeout(error_text)) {
      raise(where + "every rank of the group must be there; got a lost connection to rank " +
            std::to_string(stopped_at) + " in " + describe(round) +
            ". See that rank's own output. The transport said: " + error_text);
    }
    raise(where + "every rank must take part within the timeout; got nothing from " + text_of(missing) + ", limit " +
          text_of(timeout) + ". Missing is " + describe(round) +
          "; see what that rank does instead, or raise the timeout of init_process_group.");
  }
  const auto agree = [&](int a, int b) {
    const std::int64_t *x = row(a), *y = row(b);
    return std::equal(x, x + kArrival, y) && x[kNumWords + b] == y[kNumWords + num_ranks + a] &&
           y[kNumWords + a] == x[kNumWords + num_ranks + b];
  };
  for (int a = 0; a < num_ranks; ++a) {
    for (int b = a; b < num_ranks; ++b) {
      if (!agree(a, b)) {
        std::string calls;
        for (int rank = 0; rank < num_ranks; ++rank) {
          calls += (rank ? "; rank " : "rank ") + std::to_string(rank) + ": " + text(row(rank));
        }
        raise(where + "the ranks of a group must make calls that fit together; got " + calls +
              ". Make the same calls in the same order on every rank.");
      }
    }
  }
  for (const auto& send : round.sends) {
    if (send) {
      send->wait(timeout);
    }
  }
  std::int64_t latest = round.arrival;
  for (int peer = 0; peer < num_ranks; ++peer) {
    latest = std::max(latest, row(peer)[kArrival]);
  }
  return latest;
}

std::int64_t Agreement::sent(const std::int64_t* row, int rank) const {
  return row[kNumWords + rank];
}

std::int64_t Agreement::received(const std::int64_t* row, int rank) const {
  return row[kNumWords + control_->getSize() + rank];
}

std::int64_t Agreement::bytes(const Round& round) const {
  using enum runtime::CollectiveKind;
  const int num_ranks = control_->getSize(), self = control_->getRank(), root = round.call.root;
  const auto* own = round.sent.const_data_ptr<std::int64_t>();
  const auto row = [&](int rank) {
    return rank == self ? own : round.received.const_data_ptr<std::int64_t>() + rank * round.received.size(1);
  };
  std::int64_t sum = 0, most = 0;
  switch (runtime::kind_of(round.call.name)) {
    case all_reduce:
      return sent(own, self);
    case broadcast:
      return received(own, root);
    case reduce:
      return sent(own, root);
    case all_gather:
    case reduce_scatter:
      for (int rank = 0; rank < num_ranks; ++rank) {
        sum += runtime::kind_of(round.call.name) == all_gather ? received(own, rank) : sent(own, rank);
      }
      return sum;
    case gather:
    case scatter:
      for (int rank = 0; rank < num_ranks; ++rank) {
        sum += runtime::kind_of(round.call.name) == gather ? sent(row(rank), root) : received(row(rank), root);
      }
      return sum;
    case all_to_all:
      for (int rank = 0; rank < num_ranks; ++rank) {
        std::int64_t out = 0, in = 0;
        for (int peer = 0; peer < num_ranks; ++peer) {
          out += peer == rank ? 0 : sent(row(rank), peer);
          in += peer == rank ? 0 : received(row(rank), peer);
        }
        most = std::max({most, out, in});
      }
      return most;
    default:
      return 0;
  }
}

void Agreement::announce_failure(int missing) {
  const std::int64_t num_ranks = control_->getSize();
  const at::Tensor row = at::zeros({kNumWords + 2 * num_ranks}, at::kLong);
  row.mutable_data_ptr<std::int64_t>()[kNumber] = kFailed;
  row.mutable_data_ptr<std::int64_t>()[kRoot] = missing;
  for (int peer = 0; peer < num_ranks; ++peer) {
    if (peer == control_->getRank()) {
      continue;
    }
    try {
      std::vector<at::Tensor> from{row};
      announcements_.push_back(control_->send(from, peer, kTag));
    } catch (const std::exception&) {
      continue;  // that one is gone
    }
  }
}

int Agreement::verdict_of(int peer) {
  announce_failure(-1);  // it calls the roll
  Answer answer = ask(peer);
  return read(answer, std::chrono::steady_clock::now() + 2 * kRollCall).value_or(-1);
}

std::vector<int> Agreement::roll_call() {
  announce_failure(-1);
  const int self = control_->getRank();
  const auto deadline = std::chrono::steady_clock::now() + kRollCall;
  std::vector<Answer> answers;
  for (int peer = 0; peer < control_->getSize(); ++peer) {
    if (peer != self) {
      answers.push_back(ask(peer));
    }
  }
  std::vector<int> missing;
  int known = -1;
  for (Answer& answer : answers) {
    const std::optional<int> word = read(answer, deadline);
    if (!word) {
      missing.push_back(answer.peer);
    } else if (*word != self) {
      known = std::max(known, *word);
    }
  }
  if (missing.empty() && known >= 0) {
    missing.push_back(known);
  }
  announce_failure(missing.empty() ? -1 : missing[0]);
  return missing;
}

Agreement::Answer Agreement::ask(int peer) {
  Answer answer{.peer = peer, .row = at::zeros({kNumWords + 2 * control_->getSize()}, at::kLong), .receive = {}};
  try {
    std::vector<at::Tensor> into{answer.row};
    answer.receive = control_->recv(into, peer, kTag);
  } catch (const std::exception&) {
    // It is gone, as read() says.
  }
  return answer;
}

std::optional<int> Agreement::read(Answer& answer, Deadline deadline) {
  try {
    while (answer.receive && arrives(*answer.receive, deadline)) {
      const auto* words = answer.row.const_data_ptr<std::int64_t>();
      if (words[kNumber] == kFailed) {
        return static_cast<int>(words[kRoot]);
      }
      answer = ask(answer.peer);  // that was a call which it began before it heard
    }
  } catch (const std::exception&) {
    // The connection is lost.
  }
  return std::nullopt;
}

std::string Agreement::text(const std::int64_t* row) const {
  const std::int64_t num_ranks = control_->getSize();
  const auto sum = [&](std::int64_t from) {
    return std::accumulate(row + from, row + from + num_ranks, std::int64_t{0});
  };
  std::string out = kNames[static_cast<std::size_t>(row[kName])];
  out += "(";
  if (row[kDtype] >= 0) {
    out += std::string(c10::getDtypeNames(static_cast<at::ScalarType>(row[kDtype])).first) + ", ";
  }
  out += "sends " + std::to_string(sum(kNumWords)) + " bytes, receives " + std::to_string(sum(kNumWords + num_ranks));
  if (row[kReduce] >= 0) {
    out += std::string(", ") + reduce_name(row[kReduce]);
  }
  if (row[kRoot] >= 0) {
    out += ", root " + std::to_string(row[kRoot]);
  }
  return out + ")";
}

std::string Agreement::describe(const Round& round) const {
  return "call " + std::to_string(round.number) + " of group " + group_ + ": " +
         text(round.sent.const_data_ptr<std::int64_t>());
}

}  // namespace trn::distributed
