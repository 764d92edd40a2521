// Loads a norm's parameters and shapes them as operands.
#include "kernels/norm_parameters.h"

#include <algorithm>

namespace trn::kernels {

using rows::Index;
using rows::Tile;
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
      channels_per_row = tiling::ceil_div(cols, spatial);
      num_parameters = shape.channels;
      break;
    case NormKind::batch:
      spatial = shape.spatial > 0 ? std::min(shape.spatial, cols) : cols;
      num_parameters = shape.rows;
      per_row = true;
      across = spatial == 1 && cols > 1;
      run_elements = spatial < cols ? spatial : 0;
      break;
  }
}

NormParameter::NormParameter(rows::RowKernel& kernel, const NormShape& shape, const NormGeometry& geometry,
                             const std::string& name)
    : kernel_(kernel),
      shape_(shape),
      geometry_(geometry),
      name_(name),
      hbm_(kernel.builder.hbm(name, shape.parameter_dtype, geometry.num_parameters)) {}

void NormParameter::give_tile() {
  const Dtype dtype = tiling::sbuf_dtype(shape_.parameter_dtype);
  if (geometry_.per_row) {
    tile_ = kernel_.column(name_ + "_column", dtype);
  } else if (shape_.kind == NormKind::group) {
    raw_ = kernel_.builder.sbuf(name_ + "_row", dtype, 1, geometry_.num_parameters, 1);
    tile_ = kernel_.builder.sbuf(name_ + "_tile", dtype, kernel_.partitions(),
                                 kernel_.group() * geometry_.channels_per_row);
  } else {
    tile_ =
        kernel_.builder.sbuf(name_ + "_tile", dtype, kernel_.partitions(), kernel_.chunk(), kernel_.resident() ? 1 : 2);
  }
}

void NormParameter::load_once() {
  auto& b = kernel_.builder;
  if (shape_.kind == NormKind::group) {
    b.dma(on_chip_tile(raw_, 1, geometry_.num_parameters), hbm_tile(hbm_, 1, 0, {{geometry_.num_parameters, 1}}));
  } else if (!geometry_.per_row && kernel_.resident()) {
    b.dma(on_chip_tile(tile_, kernel_.partitions(), shape_.cols),
          hbm_tile(hbm_, kernel_.partitions(), 0, {{shape_.cols, 1}}));
  }
}

void NormParameter::load_group(const Index& row, std::int64_t p, std::int64_t g) {
  if (geometry_.per_row) {
    kernel_.load_column(hbm_, tile_, row, p, g);
  } else if (shape_.kind == NormKind::group) {
    const std::int64_t width = g * geometry_.channels_per_row;
    kernel_.builder.dma(on_chip_tile(tile_, p, width),
                        on_chip_tile(raw_, 1, {{p * g, 0}, {geometry_.channels_per_row, 1}}));
  }
}

void NormParameter::load_chunk(std::int64_t p, const Index& col, std::int64_t width) {
  if (!geometry_.per_row && shape_.kind != NormKind::group && !kernel_.resident()) {
    kernel_.builder.dma(on_chip_tile(tile_, p, width), hbm_tile(hbm_, p, 0, {{width, 1}}, col));
  }
}

Tile NormParameter::scalar(std::int64_t p, const Index& member) const {
  return kernel_.scalar(tile_, p, member);
}

Tile NormParameter::wide(std::int64_t p, const Index& member, std::int64_t width) const {
  if (shape_.kind != NormKind::group) {
    return on_chip_tile(tile_, p, width);
  }
  // Whole channels, or a part of one.
  const std::int64_t channels = geometry_.channels_per_row, each = std::min(width, geometry_.spatial);
  return on_chip_tile(tile_, p, {{width / each, 1}, {each, 0}}, member * channels);
}

}  // namespace trn::kernels
