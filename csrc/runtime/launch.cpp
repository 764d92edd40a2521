#include "runtime/launch.h"

#include <algorithm>
#include <cstring>
#include <variant>

#include "kernels/build.h"
#include "kernels/serialize.h"
#include "program/count.h"

namespace trn::runtime {

namespace {

struct FusionOf {
  Fusion operator()(const kernels::MatmulShape&) const { return Fusion::anchor; }
  Fusion operator()(const kernels::ConvShape&) const { return Fusion::anchor; }
  Fusion operator()(const kernels::AttentionShape&) const { return Fusion::anchor; }
  Fusion operator()(const kernels::PointwiseShape&) const { return Fusion::fusible; }
  Fusion operator()(const kernels::ReductionShape&) const { return Fusion::fusible; }
  Fusion operator()(const kernels::SoftmaxShape&) const { return Fusion::fusible; }
  Fusion operator()(const kernels::NormShape&) const { return Fusion::fusible; }
  Fusion operator()(const kernels::CopyShape&) const { return Fusion::fusible; }
  Fusion operator()(const auto&) const { return Fusion::barrier; }
};

Fusion fusion_of(const kernels::Spec& spec) {
  Fusion worst = Fusion::fusible;
  for (const auto& part : spec) {
    worst = std::max(worst, std::visit(FusionOf{}, part));
  }
  return worst;
}

// Words are taken in pairs, each multiplied with its place's own constants: no product waits for the one before it.
std::uint64_t hash(LaunchKey key) {
  constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15ull, kOther = 0xD6E8FEB86659FD93ull;
  auto product = [](std::uint64_t a, std::uint64_t b) {
    const auto whole = static_cast<unsigned __int128>(a) * b;
    return static_cast<std::uint64_t>(whole) ^ static_cast<std::uint64_t>(whole >> 64);
  };
  std::uint64_t h = key.size() * kStep, place = kStep;
  for (std::size_t i = 0; i < key.size(); i += 2, place += kStep) {
    const auto second = i + 1 < key.size() ? static_cast<std::uint64_t>(key[i + 1]) : 0;
    h += product(static_cast<std::uint64_t>(key[i]) ^ place, second ^ (place + kOther));
  }
  return h ^ h >> 32;
}

// Open addressing, never shrinking; one per thread, as the process has one Launches object.
struct Table {
  struct Slot {
    std::uint64_t hash = 0;
    std::vector<std::int64_t> key;
    const LaunchVariant* variant = nullptr;
  };
  std::vector<Slot> slots = std::vector<Slot>(256);
  std::size_t used = 0;

  Slot& locate(std::uint64_t h, LaunchKey key) {
    const std::size_t mask = slots.size() - 1;
    for (std::size_t i = h & mask;; i = (i + 1) & mask) {
      Slot& slot = slots[i];
      if (!slot.variant || (slot.hash == h && slot.key.size() == key.size() &&
                            std::memcmp(slot.key.data(), key.data(), key.size_bytes()) == 0)) {
        return slot;
      }
    }
  }
  void put(std::uint64_t h, LaunchKey key, const LaunchVariant* variant) {
    if ((used + 1) * 2 > slots.size()) {
      std::vector<Slot> old(slots.size() * 2);
      old.swap(slots);
      for (auto& slot : old) {
        if (slot.variant) {
          locate(slot.hash, slot.key) = std::move(slot);
        }
      }
    }
    Slot& slot = locate(h, key);
    used += slot.variant == nullptr;
    slot = {h, {key.begin(), key.end()}, variant};
  }
};

Table& table() {
  thread_local Table instance;
  return instance;
}

}  // namespace

double seconds(const kernels::Spec& spec, const target::Target& target) {
  double total = 0;
  for (const auto& part : spec) {
    total += program::duration(kernels::build(target, part), target).seconds;
  }
  return total;
}

Launches::Launches(std::shared_ptr<const target::Target> target) {
  set_target(std::move(target));
}

const LaunchVariant* Launches::find(LaunchKey key) const {
  return table().locate(hash(key), key).variant;
}

const LaunchVariant* Launches::insert(LaunchKey key, std::string_view op_name, const kernels::Spec& spec) {
  const LaunchVariant* variant = intern(op_name, spec);
  put(key, variant);
  return variant;
}

void Launches::put(LaunchKey key, const LaunchVariant* variant) const {
  table().put(hash(key), key, variant);
}

const LaunchVariant* Launches::intern(std::string_view op_name, const kernels::Spec& spec) {
  std::lock_guard lock(mutex_);
  return intern_locked(op_name, spec);
}

const LaunchVariant* Launches::intern_locked(std::string_view op_name, const kernels::Spec& spec) {
  const std::uint32_t op = intern_op_locked(op_name);
  auto [index, new_spec] = spec_index_.try_emplace(kernels::serialize(spec), static_cast<std::uint32_t>(specs_.size()));
  if (new_spec) {
    specs_.push_back(spec);
  }
  const auto id = (std::uint64_t{op} << 32) | index->second;
  if (const auto known = variant_index_.find(id); known != variant_index_.end()) {
    return known->second;
  }
  const Picoseconds duration = to_picoseconds(seconds(spec, *target_));  // may throw: nothing is kept before
  LaunchVariant& variant = variants_.emplace_back();
  variant.op = op;
  variant.spec = index->second;
  variant.fusion = fusion_of(spec);
  variant.is_empty = spec.empty();
  variant.is_transfer = !spec.empty() && std::ranges::all_of(spec, [](const auto& part) {
    return std::holds_alternative<kernels::TransferShape>(part);
  });
  variant.duration = duration;
  return variant_index_.emplace(id, &variant).first->second;
}

std::uint32_t Launches::intern_op(std::string_view op_name) {
  std::lock_guard lock(mutex_);
  return intern_op_locked(op_name);
}

std::uint32_t Launches::intern_op_locked(std::string_view op_name) {
  auto [op, inserted] = op_index_.try_emplace(std::string(op_name), static_cast<std::uint32_t>(op_names_.size()));
  if (inserted) {
    op_names_.emplace_back(op_name);
  }
  return op->second;
}

void Launches::set_target(std::shared_ptr<const target::Target> target) {
  std::lock_guard lock(mutex_);
  std::vector<Picoseconds> durations;  // may throw: nothing changes before
  durations.reserve(variants_.size());
  for (const auto& variant : variants_) {
    durations.push_back(to_picoseconds(seconds(specs_[variant.spec], *target)));
  }
  dispatch_ = to_picoseconds(target->device.eager_dispatch_seconds);
  target_ = std::move(target);
  for (std::size_t i = 0; auto& variant : variants_) {
    variant.duration = durations[i++];
  }
}

std::shared_ptr<const target::Target> Launches::target() const {
  std::lock_guard lock(mutex_);
  return target_;
}

std::string Launches::op_name(std::uint32_t op) const {
  std::lock_guard lock(mutex_);
  return op_names_.at(op);
}

kernels::Spec Launches::spec(std::uint32_t index) const {
  std::lock_guard lock(mutex_);
  return specs_.at(index);
}

}  // namespace trn::runtime
