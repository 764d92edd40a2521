// What a norm's forward and backward share: where its rows lie, and how its parameters reach the engines.
#pragma once

#include <string>
#include <utility>

#include "kernels/rows.h"

namespace trn::kernels {

struct NormGeometry {
  std::int64_t spatial = 1;              // contiguous elements of one channel of one sample
  std::int64_t channels_per_row = 1;     // group: distinct parameters of a row
  std::int64_t rows_per_sample = 1;      // group: its groups
  std::int64_t num_parameters = 0;       // elements of weight and of bias
  std::int64_t run_elements = 0;         // of a row in HBM; 0: contiguous
  bool per_row = false;                  // batch: one weight and bias per row
  std::int64_t bytes_per_parameter = 0;  // in SBUF

  explicit NormGeometry(const NormShape& shape);
  // Channel of a row that its column lies in.
  rows::Index channel(const rows::Index& col) const { return col / spatial; }
};

// Statistics have the parameters' dtype; of rms norm, that of its accumulation.
Dtype statistics_dtype(const NormShape& shape);

// Rows of group norm on partitions: each holds `group()` rows of one sample, so that a partition meets the same
// channels in each tile. A tile has whole samples, or is one of several of a sample.
struct SampleTiles {
  std::int64_t lanes = 1;     // partitions of a sample
  std::int64_t samples = 1;   // of a tile
  std::int64_t tiles = 1;     // of a sample
  std::int64_t channels = 1;  // of a partition

  SampleTiles(const rows::RowKernel& kernel, const NormShape& shape, const NormGeometry& geometry);
  std::int64_t channels_of_all_tiles() const { return tiles * channels; }
};

struct RowGroup {
  rows::Index row;            // the first
  std::int64_t p = 0, g = 0;  // partitions, rows of each
  rows::Index share = 0;      // accumulators of the physical core's own
  rows::Index tile = 0;       // group norm: which of a sample's
};

// weight or bias. Each of its elements is read from HBM once, or once per row tile where a row does not fit in SBUF.
class NormParameter {
 public:
  NormParameter(rows::RowKernel& kernel, const NormShape& shape, const NormGeometry& geometry, const std::string& name);

  void give_tile();
  // Before the rows, in a nest of the caller's.
  void load_once();
  // At the start of a row group, and of a chunk of its columns.
  void load_group(const RowGroup& group);
  void load_chunk(std::int64_t p, const rows::Index& col, std::int64_t width);

  // Per row: a scalar for each member of the group. Otherwise: `width` columns from `first` of the chunk at `col`.
  rows::Tile column(const RowGroup& group) const;
  rows::Tile wide(const RowGroup& group, const rows::Index& member, const rows::Index& col, const rows::Index& first,
                  std::int64_t width) const;

 private:
  void load_samples();
  void spread(const SampleTiles& tiles);

  rows::RowKernel& kernel_;
  const NormShape& shape_;
  const NormGeometry& geometry_;
  std::string name_;
  std::int16_t hbm_ = -1, tile_ = -1, raw_ = -1, turned_ = -1, repeated_ = -1;
};

// body(RowGroup) for all rows. `num_shares` > 0: sums over rows, with accumulators for as many physical cores.
template <class Body>
void each_row_group(rows::RowKernel& kernel, const NormShape& shape, const NormGeometry& geometry,
                    std::int64_t num_shares, Body body) {
  using rows::Index;
  if (shape.kind != NormKind::group) {
    if (num_shares > 0) {
      kernel.row_groups_shared([&](const Index& row, std::int64_t p, std::int64_t g, const Index& share) {
        body(RowGroup{row, p, g, share});
      });
    } else {
      kernel.row_groups([&](const Index& row, std::int64_t p, std::int64_t g) { body(RowGroup{row, p, g}); });
    }
    return;
  }
  if (shape.cols == 0) {
    return;
  }
  auto& b = kernel.builder;
  const SampleTiles tiles(kernel, shape, geometry);
  const std::int64_t g = kernel.group(), partitions = kernel.partitions(), sample = geometry.rows_per_sample;
  const std::int64_t num_samples = shape.rows / sample, full = num_samples / tiles.samples;
  const std::int64_t each = num_shares > 0 ? full / num_shares : 0, shared = each * num_shares;
  auto samples = [&](const Index& step, const Index& share, std::int64_t lanes) {
    b.tiles(lanes, partitions, [&](const Index& lane, std::int64_t p) {
      body(RowGroup{step * (tiles.samples * sample) + lane * g, p, g, share, lane / partitions});
    });
  };
  if (each > 0) {
    b.nest("body");
    b.parallel_loop(num_shares, [&](const Index& share) {
      b.loop(each, [&](const Index& i) { samples(share * each + i, share, tiles.samples * tiles.lanes); });
    });
  }
  if (full > shared) {
    b.nest(each > 0 ? "rest" : "body");
    b.loop(
        full - shared, [&](const Index& i) { samples(i + shared, 0, tiles.samples * tiles.lanes); }, num_shares == 0);
  }
  if (num_samples > full * tiles.samples) {
    b.nest("tail");
    samples(full, 0, (num_samples - full * tiles.samples) * tiles.lanes);
  }
}

// running = (1 - momentum) running + share current
void update_running(rows::Builder& builder, const rows::Tile& running, const rows::Tile& current, float momentum,
                    float share);

// The whole of a batch norm's program, forward or backward, where channels are the contiguous axis of HBM.
bool is_channels_last(const NormShape& shape);
program::Program norm_channels_last(const target::Target& target, const NormShape& shape);

// The whole of a norm's backward pass; norm() dispatches to it.
program::Program norm_backward(const target::Target& target, const NormShape& shape);

}  // namespace trn::kernels
