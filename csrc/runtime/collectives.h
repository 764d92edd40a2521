// The record of collectives: which distinct call of which group happened how often, while a profile is open.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/ledger.h"

namespace trn::runtime {

// One distinct call as this rank made it. Bytes are this rank's.
struct Collective {
  std::string op, dtype;
  std::string group;
  std::vector<int> ranks;  // of the whole job, in the group's order
  std::int64_t input_bytes = 0, output_bytes = 0;
  std::int64_t moved_bytes = 0;  // sent to other ranks, at the least
  Site site;
  int device = 0, stream = 0;
  auto operator<=>(const Collective&) const = default;
};

class CollectiveLog {
 public:
  void open(int profile);
  std::map<Collective, std::int64_t> close(int profile);  // with how often
  void add(const Collective& collective);

 private:
  std::mutex mutex_;
  std::map<Collective, std::int64_t> counts_;
  std::map<int, std::map<Collective, std::int64_t>> open_;  // profile -> the counts when it opened
};

// The process's.
CollectiveLog& collective_log();

}  // namespace trn::runtime
