#include "runtime/ledger.h"

#include <functional>
#include <iterator>

#include "target/error.h"

namespace trn::runtime {

const char* name(Phase phase) {
  static constexpr const char* kNames[] = {"forward", "backward", "optimizer", "recompute"};
  return kNames[static_cast<int>(phase)];
}

std::uint32_t Recorder::Names::intern(const std::string& text) {
  std::lock_guard lock(mutex_);
  auto [it, inserted] = index_.try_emplace(text, static_cast<std::uint32_t>(names_.size()));
  if (inserted) {
    names_.push_back(text);
  }
  return it->second;
}

std::vector<std::string> Recorder::Names::all() const {
  std::lock_guard lock(mutex_);
  return names_;
}

std::size_t Recorder::EntryHash::operator()(const EntryKey& key) const {
  std::uint64_t h = reinterpret_cast<std::uintptr_t>(key.variant) * 0x9E3779B97F4A7C15ull;
  h ^= (std::uint64_t{key.site.module} << 32 | key.site.line) * 0xD6E8FEB86659FD93ull;
  h ^= (std::uint64_t{static_cast<std::uint8_t>(key.site.phase)} << 16 | key.place) * 0xC2B2AE3D27D4EB4Full;
  return h ^ (h >> 29);
}

namespace {

void keep_larger(std::vector<Entry>& entries, const std::vector<Entry>& others) {
  for (std::size_t i = 0; i < others.size(); ++i) {
    if (others[i].peak.bytes > entries[i].peak.bytes) {
      entries[i].peak = others[i].peak;
    }
  }
}

// A tensor's owner may be known only after the peak that it was part of.
void change_owner(PeakMemory& peak, const Block& block, MemoryCategory from, MemoryCategory to) {
  if (block.sequence <= peak.sequence) {
    peak.by_category[static_cast<std::size_t>(from)] -= static_cast<std::int64_t>(block.size);
    peak.by_category[static_cast<std::size_t>(to)] += static_cast<std::int64_t>(block.size);
  }
}

}  // namespace

int Recorder::open(bool timeline) {
  std::lock_guard lock(mutex_);
  const int profile = next_profile_++;
  num_timelines_ += timeline;
  open_[profile] = {entries_, host_syncs_, timeline_.size(), timeline, {}, num_steps_, num_launches_};
  num_open_ = static_cast<int>(open_.size());
  lowest_peak_.clear();
  for (auto& entry : entries_) {
    entry.peak = {};
  }
  return profile;
}

Ledger Recorder::close(int profile) {
  std::lock_guard lock(mutex_);
  auto it = open_.find(profile);
  if (it == open_.end()) {
    throw Error(Category::invalid_argument,
                "[profile] can be closed once; got profile " + std::to_string(profile) + ", which is not open.");
  }
  Open& begin = it->second;
  Ledger ledger;
  ledger.entries = entries_;
  for (std::size_t i = 0; i < begin.entries.size(); ++i) {
    ledger.entries[i].launches -= begin.entries[i].launches;
    ledger.entries[i].fused_read_bytes -= begin.entries[i].fused_read_bytes;
    ledger.entries[i].fused_write_bytes -= begin.entries[i].fused_write_bytes;
    ledger.entries[i].graphs -= begin.entries[i].graphs;
  }
  for (auto later = std::next(it); later != open_.end(); ++later) {
    keep_larger(ledger.entries, later->second.entries);
  }
  keep_larger(std::next(it) == open_.end() ? entries_ : std::next(it)->second.entries, begin.entries);
  for (const auto& [sync, total] : host_syncs_) {
    HostSyncTotal rest = total;
    if (auto old = begin.host_syncs.find(sync); old != begin.host_syncs.end()) {
      rest.count -= old->second.count;
      rest.bytes -= old->second.bytes;
    }
    if (rest.count) {
      ledger.host_syncs[sync] = rest;
    }
  }
  ledger.has_timeline = begin.timeline;
  if (begin.timeline) {
    ledger.timeline.assign(timeline_.begin() + static_cast<std::ptrdiff_t>(begin.timeline_begin), timeline_.end());
  }
  ledger.peak_memory = begin.peak_memory;
  for (const auto& [device, steps] : num_steps_) {
    ledger.steps[device] = steps - begin.steps[device];
  }
  num_timelines_ -= begin.timeline;
  open_.erase(it);
  num_open_ = static_cast<int>(open_.size());
  if (open_.empty()) {
    entries_.clear();
    index_.clear();
    host_syncs_.clear();
    timeline_.clear();
    timeline_.shrink_to_fit();
    newest_peak_.clear();
    open_groups_.clear();
    ++epoch_;
  }
  return ledger;
}

std::uint32_t Recorder::launch(const LaunchVariant& variant, const Site& site, int device, int stream,
                               Interval interval, std::span<const BlockUse> reads, std::span<const BlockUse> writes,
                               Memory& memory) {
  std::lock_guard lock(mutex_);
  if (open_.empty()) {
    return 0;
  }
  const EntryKey key{&variant, site, static_cast<std::uint16_t>(device << 8 | stream)};
  auto [it, inserted] = index_.try_emplace(key, static_cast<std::uint32_t>(entries_.size()));
  if (inserted) {
    Entry fresh;
    fresh.variant = &variant;
    fresh.site = site;
    fresh.device = static_cast<std::uint8_t>(device);
    fresh.stream = static_cast<std::uint8_t>(stream);
    entries_.push_back(fresh);
  }
  Entry& entry = entries_[it->second];
  ++entry.launches;
  ++num_launches_;
  OpenGroup& group = open_groups_[device];
  if (!group.graph_open && !variant.is_transfer) {
    ++entry.graphs;
    group.graph_open = true;
  }

  // A launch stays in the open group when it consumes one of its products and brings no second anchor.
  bool joins = variant.fusion != Fusion::barrier && !(variant.fusion == Fusion::anchor && group.has_anchor);
  if (joins) {
    joins = false;
    for (const auto& use : reads) {
      joins |= use.block->fusion_group == group.number;
    }
  }
  if (!joins) {
    close_group(group);
  }
  group.has_anchor |= variant.fusion == Fusion::anchor;
  for (const auto& use : reads) {
    if (use.block->fusion_group == group.number) {
      entry.fused_read_bytes += use.bytes;
    } else {
      use.block->read_outside_group = true;
    }
  }
  const bool keeps_products = variant.fusion != Fusion::barrier;
  for (const auto& use : writes) {
    use.block->fusion_group = keeps_products ? group.number : 0;
    use.block->producer_ledger = keeps_products ? epoch_ : 0;
    use.block->producer_entry = it->second;
    use.block->producer_bytes = use.bytes;
    use.block->read_outside_group = false;
  }

  const std::int64_t in_use = memory.allocated_bytes();
  std::int64_t& lowest_peak = lowest_peak_[device];
  if (in_use > lowest_peak) {
    lowest_peak = in_use;
    for (auto& [profile, open] : open_) {
      reach_peak(open.peak_memory[device], device, in_use, memory);
    }
  }
  reach_peak(entry.peak, device, in_use, memory);
  if (num_timelines_) {
    timeline_.push_back({it->second, interval.start, interval.end, in_use});
  }
  return it->second;
}

void Recorder::host_sync(const HostSync& sync, std::int64_t bytes) {
  std::lock_guard lock(mutex_);
  if (open_.empty()) {
    return;
  }
  auto& total = host_syncs_[sync];
  ++total.count;
  total.bytes += bytes;
  if (sync.blocking) {
    close_group(open_groups_[sync.device]);
    open_groups_[sync.device].graph_open = false;
  }
}

void Recorder::freed(Block* block) {
  std::lock_guard lock(mutex_);
  if (block->producer_ledger == epoch_ && !block->read_outside_group && block->producer_entry < entries_.size()) {
    entries_[block->producer_entry].fused_write_bytes += block->producer_bytes;
  }
}

void Recorder::tagged(Block* block, MemoryCategory from, MemoryCategory to) {
  std::lock_guard lock(mutex_);
  const auto newest = newest_peak_.find(block->device);
  if (newest == newest_peak_.end() || block->sequence > newest->second) {
    return;
  }
  auto change = [&](std::vector<Entry>& entries) {
    for (auto& entry : entries) {
      if (entry.device == block->device) {
        change_owner(entry.peak, *block, from, to);
      }
    }
  };
  change(entries_);
  for (auto& [profile, open] : open_) {
    change(open.entries);
    if (auto peak = open.peak_memory.find(block->device); peak != open.peak_memory.end()) {
      change_owner(peak->second, *block, from, to);
    }
  }
}

void Recorder::reach_peak(PeakMemory& peak, int device, std::int64_t in_use, const Memory& memory) {
  if (in_use > peak.bytes) {
    peak.bytes = in_use;
    memory.categories(peak.by_category, peak.sequence);
    newest_peak_[device] = peak.sequence;
  }
}

std::pair<std::int64_t, std::int64_t> Recorder::progress(int profile) const {
  std::lock_guard lock(mutex_);
  const Open& begin = open_.at(profile);
  std::int64_t steps = 0;
  for (const auto& [device, number] : num_steps_) {
    const auto before = begin.steps.find(device);
    steps += number - (before == begin.steps.end() ? 0 : before->second);
  }
  return {num_launches_ - begin.launches, steps};
}

void Recorder::step(int device) {
  std::lock_guard lock(mutex_);
  ++num_steps_[device];
  close_group(open_groups_[device]);
  open_groups_[device].graph_open = false;
}

void Recorder::close_group(OpenGroup& group) {
  group.number = ++last_group_;
  group.has_anchor = false;
}

Ledger Ledger::of_device(int device) const {
  Ledger out = *this;
  for (auto& entry : out.entries) {
    entry.launches = entry.device == device ? entry.launches : 0;
  }
  std::erase_if(out.host_syncs, [&](const auto& item) { return item.first.device != device; });
  std::erase_if(out.timeline, [&](const auto& event) { return entries[event.entry].device != device; });
  std::erase_if(out.peak_memory, [&](const auto& item) { return item.first != device; });
  std::erase_if(out.steps, [&](const auto& item) { return item.first != device; });
  return out;
}

}  // namespace trn::runtime
