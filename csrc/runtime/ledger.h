// The ledger of launches: which distinct launch ran how often, where in the user's program, and what moved to the host.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/clock.h"
#include "runtime/launch.h"
#include "runtime/memory.h"

namespace trn::runtime {

enum class Phase : std::uint8_t { forward, backward, optimizer, recompute };
const char* name(Phase phase);

// Where in the user's program a launch came from; module and line are indices into the recorder's names, 0 for none.
struct Site {
  std::uint32_t module = 0;
  std::uint32_t line = 0;
  Phase phase = Phase::forward;
  auto operator<=>(const Site&) const = default;
};

struct PeakMemory {
  std::int64_t bytes = 0;
  std::uint64_t sequence = 0;
  std::array<std::int64_t, kNumMemoryCategories> by_category{};
};

struct Entry {
  const LaunchVariant* variant = nullptr;
  Site site;
  std::uint8_t device = 0;
  std::uint8_t stream = 0;
  std::int64_t launches = 0;
  std::int64_t fused_read_bytes = 0;   // produced earlier in the same fusion group: still in SBUF
  std::int64_t fused_write_bytes = 0;  // never read outside its fusion group
  std::int64_t graphs = 0;             // launches that begin a graph of mode "compiled"
  PeakMemory peak;                     // the device's allocated memory at one of these launches, where it was most
};

enum class Direction : std::uint8_t { to_host, to_device };
struct HostSync {
  std::uint32_t op = 0;
  Site site;
  Direction direction = Direction::to_host;
  bool blocking = true;
  std::uint8_t device = 0;
  auto operator<=>(const HostSync&) const = default;
};
struct HostSyncTotal {
  std::int64_t count = 0, bytes = 0;
};

struct TimelineEvent {
  std::uint32_t entry = 0;
  Picoseconds start = 0, end = 0;
  std::int64_t hbm_bytes = 0;
};

// What one profile saw: the difference of two states of the recorder.
struct Ledger {
  std::vector<Entry> entries;
  std::map<HostSync, HostSyncTotal> host_syncs;
  std::vector<TimelineEvent> timeline;
  bool has_timeline = false;
  std::map<int, PeakMemory> peak_memory;  // by device
  std::map<int, std::int64_t> steps;      // by device

  // What happened on one device. Entries keep their places, as the timeline names them.
  Ledger of_device(int device) const;
};

struct BlockUse {
  Block* block = nullptr;
  std::int64_t bytes = 0;
};

// Records while at least one profile is open. Its memory grows with the distinct launches only, but for the timeline.
class Recorder {
 public:
  bool active() const { return num_open_.load(std::memory_order_relaxed) != 0; }

  int open(bool timeline);
  Ledger close(int profile);

  // The place of the launch's entry, 0 where no profile is open.
  std::uint32_t launch(const LaunchVariant& variant, const Site& site, int device, int stream, Interval interval,
                       std::span<const BlockUse> reads, std::span<const BlockUse> writes, Memory& memory);
  void host_sync(const HostSync& sync, std::int64_t bytes);
  void freed(Block* block);
  void tagged(Block* block, MemoryCategory from, MemoryCategory to);
  void step(int device);
  // Launches and steps of an open profile so far.
  std::pair<std::int64_t, std::int64_t> progress(int profile) const;

  std::uint32_t intern_module(const std::string& path) { return modules_.intern(path); }
  std::uint32_t intern_line(const std::string& line) { return lines_.intern(line); }
  std::vector<std::string> modules() const { return modules_.all(); }
  std::vector<std::string> lines() const { return lines_.all(); }

 private:
  class Names {
   public:
    std::uint32_t intern(const std::string& text);
    std::vector<std::string> all() const;

   private:
    mutable std::mutex mutex_;
    std::vector<std::string> names_{""};
    std::unordered_map<std::string, std::uint32_t> index_{{"", 0}};
  };
  struct Open {
    std::vector<Entry> entries;  // as they were when the profile opened; their peaks: since the opening before it
    std::map<HostSync, HostSyncTotal> host_syncs;
    std::size_t timeline_begin = 0;
    bool timeline = false;
    std::map<int, PeakMemory> peak_memory;
    std::map<int, std::int64_t> steps;
    std::int64_t launches = 0;
  };
  struct EntryKey {
    const LaunchVariant* variant;
    Site site;
    std::uint16_t place;
    bool operator==(const EntryKey&) const = default;
  };
  struct EntryHash {
    std::size_t operator()(const EntryKey& key) const;
  };

  mutable SpinLock mutex_;
  std::atomic<int> num_open_{0};
  int next_profile_ = 1;
  std::map<int, Open> open_;
  std::map<int, std::int64_t> lowest_peak_;   // by device, of the open profiles
  std::map<int, std::uint64_t> newest_peak_;  // by device, the latest allocation that any peak has seen
  std::vector<Entry> entries_;
  std::unordered_map<EntryKey, std::uint32_t, EntryHash> index_;
  std::map<HostSync, HostSyncTotal> host_syncs_;
  std::vector<TimelineEvent> timeline_;
  int num_timelines_ = 0;
  std::uint64_t epoch_ = 1;  // of entries_: blocks remember the epoch in which they were produced
  // Of a device: the open fusion group, and whether a graph of mode "compiled" is open.
  struct OpenGroup {
    std::uint64_t number = UINT64_MAX;  // none yet: no block is of it
    bool has_anchor = false;
    bool graph_open = false;
  };
  void close_group(OpenGroup& group);
  void reach_peak(PeakMemory& peak, int device, std::int64_t in_use, const Memory& memory);
  std::map<int, OpenGroup> open_groups_;
  std::uint64_t last_group_ = 0;
  std::int64_t num_launches_ = 0;
  std::map<int, std::int64_t> num_steps_;
  Names modules_, lines_;
};

}  // namespace trn::runtime
