// What was last done to each distinct part of each buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "program/footprint.h"

namespace trn::program {

// A State for each footprint that a program uses. Footprints overlap: whoever reads or writes one looks at all that
// share a byte with it.
template <class State>
class Regions {
 public:
  struct Part {
    Footprint footprint;
    std::vector<std::size_t> overlapping;  // itself first
    State state;
  };

  explicit Regions(std::size_t num_buffers) : buffers_(num_buffers) {}

  std::vector<Part>& parts(std::int16_t buffer) {
    if (buffers_.size() <= static_cast<std::size_t>(buffer)) {
      buffers_.resize(static_cast<std::size_t>(buffer) + 1);
    }
    return buffers_[static_cast<std::size_t>(buffer)].parts;
  }

  Part& at(std::int16_t buffer, const Footprint& footprint) {
    std::vector<Part>& all = parts(buffer);
    auto& index = buffers_[static_cast<std::size_t>(buffer)].index;
    const std::size_t key = hash(footprint);
    const auto [first, last] = index.equal_range(key);
    for (auto found = first; found != last; ++found) {
      if (all[found->second].footprint == footprint) {
        return all[found->second];
      }
    }
    const std::size_t number = all.size();
    Part part{footprint, {number}, {}};
    for (std::size_t other = 0; other < number; ++other) {
      if (overlaps(all[other].footprint, footprint)) {
        part.overlapping.push_back(other);
        all[other].overlapping.push_back(number);
      }
    }
    index.emplace(key, number);
    all.push_back(std::move(part));
    return all.back();
  }

 private:
  struct Parts {
    std::vector<Part> parts;
    std::unordered_multimap<std::size_t, std::size_t> index;
  };

  static std::size_t hash(const Footprint& footprint) {
    std::size_t sum = 0;
    for (const std::int64_t value :
         {footprint.first_partition, footprint.num_partitions, footprint.begin, footprint.end, footprint.run_bytes}) {
      sum = (sum ^ std::hash<std::int64_t>()(value)) * 0x9E3779B97F4A7C15ULL;
    }
    return sum;
  }

  std::vector<Parts> buffers_;
};

}  // namespace trn::program
