// Collectives as the device runs them: on the simulated clock and, under a profile, in its record. What moves the
// values (csrc/distributed, or a stand-in) calls issue() and finish() and knows nothing of costs.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "runtime/collective_model.h"
#include "runtime/ledger.h"
#include "runtime/system.h"

namespace trn::runtime {

// One distinct call as this rank made it. Bytes of input, output and moved are this rank's.
struct Collective {
  std::string op, dtype;
  std::uint32_t group = 0;                         // as add_group() named it
  int position = 0;                                // of this rank in the group
  int root = -1;                                   // position; of a message the other end
  std::int64_t bytes = 0;                          // as in CollectiveShape: the same on every rank
  std::int64_t input_bytes = 0, output_bytes = 0;  // of the tensors
  std::int64_t moved_bytes = 0;                    // sent to other ranks, at the least
  Site site;
  int device = 0, stream = 0;
  auto operator<=>(const Collective&) const = default;
};

struct CollectiveTotal {
  std::int64_t count = 0;
  Picoseconds exposed = 0;  // ran while no stream of the device computed
  Picoseconds waited = 0;   // for ranks that came later, while no stream of the device computed
};

// A call under way.
struct Flight {
  Collective call;
  std::uint64_t number = 0;  // 0: no profile sees it
  Moment arrival;
};

// What a profile saw.
struct CollectiveRecord {
  struct Event {
    const Collective* call;
    Picoseconds able, begin, end;  // able: nothing but later ranks kept it from beginning
  };
  std::map<Collective, CollectiveTotal> totals;
  std::vector<Event> timeline;                       // where the profile keeps one
  std::map<std::uint64_t, const Collective*> named;  // in the clocks' journal
  std::map<int, Picoseconds> exposed;                // by device: collectives that run side by side count once
  std::map<int, Picoseconds> held_up;  // the same with the time before them, in which they wait for later ranks

  // Of one rank, where several run in a process.
  CollectiveRecord of_device(int device) const;
};

class Collectives {
 public:
  // Ranks of the job, in the group's order.
  std::uint32_t add_group(const std::string& name, std::vector<int> ranks);
  std::string group_name(std::uint32_t group);
  std::vector<int> group_ranks(std::uint32_t group);

  void set_world_size(std::int64_t world_size);
  // Raises, and changes nothing, where the target, if given, cannot hold it.
  void set_placement(const target::Target* target, Placement placement);
  Placement placement();
  std::shared_ptr<CollectiveModel> model(System& system);

  // The caller's stream reaches the call now. `call.bytes` may be a guess until finish(); `tag` is a message's.
  Flight issue(System& system, Collective call, int compute_stream, int tag = 0);
  // All ranks have arrived, the last of them at `latest`: when the call ends, on every rank alike.
  Moment finish(System& system, const Flight& flight, Picoseconds latest);

  void open(int profile, bool timeline);
  CollectiveRecord close(System& system, int profile);

 private:
  struct Ran {
    Collective call;
    std::set<int> profiles;
    Picoseconds able, begin, end;
    std::uint64_t name;  // in the clocks' journal
  };
  struct Issued {
    Collective call;
    std::set<int> profiles;
    Picoseconds arrival;
  };
  struct Open {
    bool timeline = false;
    CollectiveRecord record;
  };
  // Of a device: where calls ran, and where they ran or could have but for later ranks.
  struct Settled {
    BusyRanges ran, held_up;
    void add(const Ran& call) {
      ran.add(call.begin, call.end);
      held_up.add(call.able, call.end);
    }
  };
  // What no later launch can overlap goes into the totals.
  void settle(System& system, int device);
  // `settled`: collectives that are in the profile's sums.
  void add(const Ran& ran, int profile, Clock& clock, const Settled& settled);

  std::mutex mutex_;
  std::vector<std::pair<std::string, std::vector<int>>> groups_;
  Placement placement_;
  std::shared_ptr<const target::Target> model_target_;
  std::shared_ptr<CollectiveModel> model_;

  std::map<int, Open> open_;
  std::uint64_t next_number_ = 1;
  std::map<std::uint64_t, Issued> issued_;  // by number
  std::map<int, std::vector<Ran>> ran_;     // by device, not settled
  std::map<int, Settled> settled_;          // by device
  std::size_t settle_at_ = 64;
};

// The process's.
Collectives& collectives();

}  // namespace trn::runtime
