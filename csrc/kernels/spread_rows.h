// Few long rows, each of which lies over all partitions, where it stays while it is used.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/rows.h"

namespace trn::kernels::rows {

// A partition has `width` consecutive elements of each of `together` rows; the last ones may have fewer, or none.
class SpreadRows {
 public:
  // `bytes_per_element`: of all tiles, copies included.
  SpreadRows(const target::Target& target, std::string name, std::int64_t rows, std::int64_t cols,
             std::int64_t bytes_per_element);

  bool fit() const { return together_ > 0; }

  // Declare every tensor's HBM buffer first; give_tile() then adds SBUF tiles.
  RowTensor tensor(const std::string& name, const Access& access, bool is_output = false);
  void give_tile(RowTensor& tensor);
  std::int16_t work(const std::string& name, Dtype dtype);
  // One scalar for each row and partition, and `lines` of all those on one partition, `together` for each.
  std::int16_t column(const std::string& name);
  std::int16_t line(const std::string& name, std::int64_t lines);

  // body(first row, rows)
  template <class Body>
  void groups(Body body) {
    builder.nest("rows");
    builder.tiles(rows_, together_, body, true);
  }

  // `outside` is what the tile has where a row has no element.
  void load(const RowTensor& tensor, const Index& row, std::int64_t count, float outside);
  void store(const RowTensor& tensor, const Index& row, std::int64_t count);

  // Tiles of `count` rows, one after the other or one by one, and of their columns.
  Tile all(std::int16_t tile, std::int64_t count) const;
  Tile by_row(std::int16_t tile, std::int64_t count) const;
  Tile row(std::int16_t tile, const Index& member) const;
  Tile columns(std::int16_t column, std::int64_t count) const;
  Tile scalar(std::int16_t column, const Index& member) const;

  std::int64_t partitions() const { return partitions_; }
  std::int64_t together() const { return together_; }

  Builder builder;

 private:
  template <class Move>
  void each_part(const RowTensor& tensor, const Index& row, std::int64_t count, Move move) const;

  const std::int64_t rows_, cols_, partitions_, width_, full_, rest_;
  std::int64_t together_ = 0;
};

}  // namespace trn::kernels::rows
