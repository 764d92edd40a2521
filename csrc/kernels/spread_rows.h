// Few long rows, each of which lies over all partitions, where it stays while it is used.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/rows.h"

namespace trn::kernels::rows {

// A partition has `width` consecutive elements of each of `together` rows; the last ones may have fewer, or none.
class SpreadRows {
 public:
  using RowGroup = tiling::RowGroup;

  // What will be asked for: bytes of an element in all tiles, and in those that all rows share, and how many lines.
  struct Needs {
    std::int64_t element_bytes = 0, shared_bytes = 0, lines = 0;
  };
  SpreadRows(const target::Target& target, std::string name, std::int64_t rows, std::int64_t cols, const Needs& needs);

  bool fit() const { return together_ > 0; }

  // Declare every tensor's HBM buffer first; give_tile() then adds SBUF tiles.
  RowTensor tensor(const std::string& name, const Access& access, bool is_output = false);
  RowTensor tensor(const std::string& name, Dtype dtype, std::int64_t rows, bool is_output = false);
  void give_tile(RowTensor& tensor);
  std::int16_t work(const std::string& name, Dtype dtype);
  // What all rows share: a value for each column, or `shares` of them.
  std::int16_t shared(const std::string& name, Dtype dtype, std::int64_t shares = 1);
  // One scalar for each row and partition, and `lines` of all those on one partition, `together` for each.
  std::int16_t column(const std::string& name);
  std::int16_t line(const std::string& name, std::int64_t lines);

  // body(first row, rows)
  template <class Body>
  void groups(Body body) {
    builder.nest("rows");
    builder.tiles(rows_, together_, body, true);
  }

  // The same for sums over rows: body(first row, rows, share), where each physical core has a share of its own.
  std::int64_t num_shares() const { return num_cores_; }
  template <class Body>
  void shared_groups(Body body) {
    builder.nest("rows");
    std::vector<RowGroup> groups;
    for (const auto& segment : tiling::split(rows_, together_)) {
      groups.push_back({.start = segment.start, .trips = segment.trips, .lanes = segment.size});
    }
    builder.shared_groups(groups, num_cores_, [&](const Index& row, const RowGroup& group, const Index& share) {
      body(row, group.rows(), share);
    });
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
  // Of what all rows share: once, and once for each of `count` rows. And tiles of rows, column by column.
  Tile line_of(std::int16_t shared, const Index& share = 0) const;
  Tile repeated(std::int16_t shared, std::int64_t count) const;
  Tile by_column(std::int16_t tile, std::int64_t count) const;

  // Some partitions have less than their width of a row.
  bool is_ragged() const { return full_ < partitions_; }
  // A tile that all rows share: 1 where a row has an element, else 0.
  void mark_inside(std::int16_t shared);

  std::int64_t partitions() const { return partitions_; }
  std::int64_t together() const { return together_; }

  Builder builder;

 private:
  template <class Move>
  void each_part(const RowTensor& tensor, const Index& row, std::int64_t count, Move move) const;

  const std::int64_t rows_, cols_, partitions_, num_cores_, width_, full_, rest_;
  std::int64_t together_ = 0, copies_ = 2;
};

}  // namespace trn::kernels::rows
