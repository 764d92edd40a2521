// Launches: the cache from an operator's key to its Spec and cost on the current target.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kernels/shapes.h"
#include "runtime/clock.h"
#include "target/target.h"

namespace trn::runtime {

// How a launch takes part in fusion (mode "compiled"): one anchor to a group, fusible launches join by their operands.
enum class Fusion : std::uint8_t { fusible, anchor, barrier };

// One distinct launch: an operator with given shapes. Immutable but for its duration, which follows the target.
struct LaunchVariant {
  std::uint32_t op = 0;    // index into op_names
  std::uint32_t spec = 0;  // index into specs
  Fusion fusion = Fusion::fusible;
  bool is_empty = false;     // no elements: nothing is launched
  bool is_transfer = false;  // between memories: the runtime's, of no graph
  std::atomic<Picoseconds> duration{0};
};

using LaunchKey = std::span<const std::int64_t>;

class Launches {
 public:
  explicit Launches(std::shared_ptr<const target::Target> target);

  // nullptr on the first sight of a key. A hit takes no lock: each thread keeps its own table.
  const LaunchVariant* find(LaunchKey key) const;
  void put(LaunchKey key, const LaunchVariant* variant) const;
  const LaunchVariant* insert(LaunchKey key, std::string_view op_name, const kernels::Spec& spec);
  // Without a key, for launches that no cache serves.
  const LaunchVariant* intern(std::string_view op_name, const kernels::Spec& spec);

  std::uint32_t intern_op(std::string_view op_name);

  void set_target(std::shared_ptr<const target::Target> target);
  std::shared_ptr<const target::Target> target() const;
  Picoseconds dispatch() const { return dispatch_.load(std::memory_order_relaxed); }

  std::string op_name(std::uint32_t op) const;
  kernels::Spec spec(std::uint32_t index) const;

 private:
  std::uint32_t intern_op_locked(std::string_view op_name);
  const LaunchVariant* intern_locked(std::string_view op_name, const kernels::Spec& spec);

  mutable std::mutex mutex_;
  std::shared_ptr<const target::Target> target_;
  std::atomic<Picoseconds> dispatch_{0};
  std::deque<LaunchVariant> variants_;
  std::deque<kernels::Spec> specs_;
  std::deque<std::string> op_names_;
  std::unordered_map<std::string, std::uint32_t> op_index_;
  std::unordered_map<std::string, std::uint32_t> spec_index_;
  std::unordered_map<std::uint64_t, const LaunchVariant*> variant_index_;
};

// Device time of a Spec, its parts one after the other.
double seconds(const kernels::Spec& spec, const target::Target& target);

}  // namespace trn::runtime
