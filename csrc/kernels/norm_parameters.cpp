// Loads a norm's parameters and shapes them as operands.
#include "kernels/norm_parameters.h"

#include <algorithm>

namespace trn::kernels {

using rows::Index;
using rows::Tile;
using tiling::ceil_div;
using tiling::hbm_tile;
using tiling::on_chip_tile;

NormGeometry::NormGeometry(const NormShape& shape) {
  const std::int64_t cols = std::max<std::int64_t>(shape.cols, 1);
  bytes_per_parameter = itemsize(tiling::sbuf_dtype(shape.parameter_dtype));
  switch (shape.kind) {
    case NormKind::layer:
    case NormKind::rms:
      num_parameters = cols;
      break;
    case NormKind::group:
      spatial = shape.spatial > 0 ? shape.spatial
                                  : std::max<std::int64_t>(cols / std::max<std::int64_t>(shape.channels, 1), 1);
      spatial = std::min(spatial, cols);
      channels_per_row = ceil_div(cols, spatial);
      num_parameters = shape.channels;
      rows_per_sample = std::max<std::int64_t>(num_parameters / channels_per_row, 1);
      break;
    case NormKind::batch:
      spatial = shape.spatial > 0 ? std::min(shape.spatial, cols) : cols;
      num_parameters = shape.rows;
      per_row = true;
      run_elements = spatial < cols ? spatial : 0;
      break;
  }
}

bool is_channels_last(const NormShape& shape) {
  constexpr std::int64_t kLong = 8192;  // of one channel, which would be a single partition's
  const bool is_one_long = shape.rows == 1 && shape.cols >= kLong;
  return shape.kind == NormKind::batch && (shape.spatial == 1 || is_one_long) && shape.cols > 1;
}

Dtype statistics_dtype(const NormShape& shape) {
  if (shape.kind != NormKind::rms) {
    return shape.parameter_dtype;
  }
  return shape.dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32;
}

void update_running(rows::Builder& builder, const Tile& running, const Tile& current, float momentum, float share) {
  builder.tensor_scalar(running, running, Alu::multiply, 1 - momentum);
  builder.emit({.opcode = rows::Opcode::scalar_tensor_tensor,
                .dst = running,
                .src = {current, running},
                .alu0 = Alu::multiply,
                .alu1 = Alu::add,
                .scalar0 = share});
}

SampleTiles::SampleTiles(const rows::RowKernel& kernel, const NormShape& shape, const NormGeometry& geometry)
    : lanes(geometry.rows_per_sample / kernel.group()),
      samples(std::clamp<std::int64_t>(kernel.partitions() / lanes, 1,
                                       std::max<std::int64_t>(shape.rows / geometry.rows_per_sample, 1))),
      tiles(ceil_div(lanes, kernel.partitions())),
      channels(kernel.group() * geometry.channels_per_row) {}

NormParameter::NormParameter(rows::RowKernel& kernel, const NormShape& shape, const NormGeometry& geometry,
                             const std::string& name)
    : kernel_(kernel),
      shape_(shape),
      geometry_(geometry),
      name_(name),
      hbm_(kernel.builder.hbm(name, shape.parameter_dtype, geometry.num_parameters)) {}

void NormParameter::give_tile() {
  const Dtype dtype = tiling::sbuf_dtype(shape_.parameter_dtype);
  auto& b = kernel_.builder;
  const std::int64_t partitions = kernel_.partitions();
  if (geometry_.per_row) {
    tile_ = kernel_.column(name_ + "_column", dtype);
  } else if (shape_.kind == NormKind::group) {
    const SampleTiles tiles(kernel_, shape_, geometry_);
    tile_ = b.sbuf(name_ + "_tile", dtype, partitions, tiles.channels_of_all_tiles(), 1);
    if (tiles.samples > 1 && tiles.lanes > 1) {
      raw_ = b.sbuf(name_ + "_sample", dtype, partitions, tiles.channels, 1);
      repeated_ = b.sbuf(name_ + "_repeated", dtype, partitions, partitions, 1);
      turned_ = b.psum(name_ + "_turned", dtype, partitions, partitions, 1);
    }
  } else {
    tile_ = b.sbuf(name_ + "_tile", dtype, partitions, kernel_.chunk(), kernel_.resident() ? 1 : 2);
  }
}

void NormParameter::load_once() {
  if (shape_.kind == NormKind::group) {
    load_samples();
  } else if (!geometry_.per_row && kernel_.resident()) {
    kernel_.builder.dma(on_chip_tile(tile_, kernel_.partitions(), shape_.cols),
                        hbm_tile(hbm_, kernel_.partitions(), 0, {{shape_.cols, 1}}));
  }
}

void NormParameter::load_samples() {
  auto& b = kernel_.builder;
  const SampleTiles tiles(kernel_, shape_, geometry_);
  const std::int64_t partitions = kernel_.partitions(), n = tiles.channels;
  if (tiles.lanes == 1) {
    b.dma(on_chip_tile(tile_, tiles.samples, n), hbm_tile(hbm_, tiles.samples, 0, {{n, 1}}));
  } else if (tiles.samples == 1) {
    b.tiles(tiles.lanes, partitions, [&](const Index& lane, std::int64_t p) {
      b.dma(on_chip_tile(tile_, p, n, lane / partitions * n), hbm_tile(hbm_, p, n, {{n, 1}}, lane * n));
    });
  } else {
    b.dma(on_chip_tile(raw_, tiles.lanes, n), hbm_tile(hbm_, tiles.lanes, n, {{n, 1}}));
    spread(tiles);
  }
}

// A sample's parameters for each sample of a tile: turned, repeated along the free axis, and turned back.
void NormParameter::spread(const SampleTiles& tiles) {
  auto& b = kernel_.builder;
  const std::int64_t lanes = tiles.lanes, p = tiles.samples * lanes;
  b.tiles(tiles.channels, kernel_.partitions(), [&](const Index& channel, std::int64_t n) {
    b.transpose(on_chip_tile(turned_, n, lanes), on_chip_tile(raw_, lanes, n, channel));
    b.tensor_copy(on_chip_tile(repeated_, n, p), on_chip_tile(turned_, n, {{tiles.samples, 0}, {lanes, 1}}));
    b.transpose(on_chip_tile(turned_, p, n), on_chip_tile(repeated_, n, p));
    b.tensor_copy(on_chip_tile(tile_, p, n, channel), on_chip_tile(turned_, p, n));
  });
}

void NormParameter::load_group(const RowGroup& group) {
  if (geometry_.per_row) {
    kernel_.load_column(hbm_, tile_, group.row, group.p, group.g);
  }
}

void NormParameter::load_chunk(std::int64_t p, const Index& col, std::int64_t width) {
  if (!geometry_.per_row && shape_.kind != NormKind::group && !kernel_.resident()) {
    kernel_.builder.dma(on_chip_tile(tile_, p, width), hbm_tile(hbm_, p, 0, {{width, 1}}, col));
  }
}

Tile NormParameter::column(const RowGroup& group) const {
  return on_chip_tile(tile_, group.p, group.g);
}

Tile NormParameter::wide(const RowGroup& group, const Index& member, const Index& col, const Index& first,
                         std::int64_t width) const {
  if (shape_.kind != NormKind::group) {
    return on_chip_tile(tile_, group.p, width, first);
  }
  // Whole channels, or a part of one.
  const std::int64_t n = geometry_.channels_per_row, each = std::min(width, geometry_.spatial);
  return on_chip_tile(tile_, group.p, {{width / each, 1}, {each, 0}},
                      group.tile * (kernel_.group() * n) + member * n + geometry_.channel(col + first));
}

}  // namespace trn::kernels
