// The k largest of each row, eight at a time, a row per partition.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/shapes.h"
#include "kernels/sort_plan.h"
#include "kernels/tiling.h"
#include "target/target.h"

namespace trn::kernels {

// The 8 `passes` largest of each partition, from `first` of the results on. `positions` count from the start of `keys`,
// whose largest are gone afterwards.
void take_largest(tiling::Builder& builder, const tiling::Tile& keys, std::int16_t values, std::int16_t positions,
                  std::int64_t passes, const tiling::Index& first = {});

// max8 finds eight values, nc_find_index8 their places, nc_match_replace8 puts the least value there. A row that does
// not fit passes in chunks, each of which gives its own k largest; the largest of these are the row's.
class SortPasses {
 public:
  SortPasses(const target::Target& target, const SortShape& shape, Dtype key);

  bool fits() const { return chunk_ > 0; }
  // Elements that a partition streams: three instructions over the row for every eight results.
  double cost() const;

  // load(tile, row, columns from, of so many) and store(values, positions, row): the tile's partitions have a row each,
  // or, of short rows, several that follow each other.
  using Load = std::function<void(const tiling::Tile& keys, const tiling::Index& row, const tiling::Index& column,
                                  std::int64_t columns)>;
  using Store =
      std::function<void(const tiling::Tile& values, const tiling::Tile& positions, const tiling::Index& row)>;
  void build(tiling::Builder& builder, const Load& load, const Store& store) const;

 private:
  std::int64_t num_passes() const { return tiling::ceil_div(shape_.k, kPass); }
  std::int64_t width() const { return num_passes() * kPass; }  // of one chunk's results
  std::int64_t num_chunks() const { return tiling::ceil_div(shape_.cols, chunk_); }
  bool fits_in_sbuf(std::int64_t chunk) const;
  std::int64_t rows_together() const;  // in a descriptor
  void build_chunks(tiling::Builder& builder, const Load& load, const Store& store) const;

  const target::Target& target_;
  const SortShape& shape_;
  Dtype key_;
  std::int64_t chunk_ = 0;  // columns that pass at once; 0: no plan
};

}  // namespace trn::kernels
