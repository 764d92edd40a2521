// The k largest of a few long rows, each over all partitions.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/shapes.h"
#include "kernels/sort_plan.h"
#include "kernels/tiling.h"
#include "target/target.h"

namespace trn::kernels {

// Every partition searches its part of the row; what it found meets its neighbours' on fewer partitions, until one has
// the row's.
class SortTournament {
 public:
  SortTournament(const target::Target& target, const SortShape& shape, Dtype key);

  bool fits() const { return !joined_.empty(); }

  // `in` has the rows; store(values, positions, row) takes the results of one.
  using Store =
      std::function<void(const tiling::Tile& values, const tiling::Tile& positions, const tiling::Index& row)>;
  void build(tiling::Builder& builder, std::int16_t in, const Store& store) const;

 private:
  std::int64_t num_passes() const { return tiling::ceil_div(shape_.k, kPass); }
  std::int64_t width() const { return num_passes() * kPass; }

  const target::Target& target_;
  const SortShape& shape_;
  Dtype key_;
  std::int64_t partitions_, chunk_;   // elements of a row on a partition
  std::vector<std::int64_t> joined_;  // partitions whose results meet on one, in each round after the first
};

}  // namespace trn::kernels
