// Divides tensors of different sizes into the same number of trips.
#include "kernels/side_by_side.h"

#include <algorithm>

namespace trn::kernels::tiling {

std::vector<Round> share(const target::Target& target, const std::vector<std::int64_t>& sizes,
                         std::int64_t free_elements) {
  const std::int64_t num_partitions = target.core.num_partitions;
  std::vector<Round> rounds;
  std::vector<std::int64_t> done(sizes.size(), 0);
  auto largest_left = [&] {
    std::int64_t largest = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      largest = std::max(largest, sizes[i] - done[i]);
    }
    return largest;
  };
  auto add = [&](std::string name, std::int64_t trips, std::int64_t partitions) {
    Round round{std::move(name), trips, partitions, done, {}};
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      round.free.push_back((sizes[i] - done[i]) / (trips * partitions));
      done[i] += trips * partitions * round.free.back();
    }
    rounds.push_back(std::move(round));
  };
  while (largest_left() >= num_partitions) {
    add(rounds.empty() ? "body" : "remainder", ceil_div(largest_left(), num_partitions * free_elements),
        num_partitions);
  }
  if (largest_left() > 0) {
    add("tail", 1, 1);
  }
  return rounds;
}

std::int64_t widest(const std::vector<Round>& rounds, std::size_t i) {
  std::int64_t width = 0;
  for (const Round& round : rounds) {
    width = std::max(width, round.free[i]);
  }
  return width;
}

}  // namespace trn::kernels::tiling
