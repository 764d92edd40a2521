// Plans, loads and stores row tiles.
#include "kernels/rows.h"

#include <algorithm>

namespace trn::kernels::rows {

using tiling::hbm_tile;
using tiling::on_chip_tile;

namespace {

constexpr std::int64_t kColumns = 10;  // scalars per row that a kernel keeps, at most

std::int64_t largest_divisor(std::int64_t of, std::int64_t most) {
  std::int64_t divisor = std::min(of, most);
  while (of % divisor != 0) {
    --divisor;
  }
  return divisor;
}

}  // namespace

void op(Builder& builder, Opcode opcode, const Tile& dst, std::vector<Tile> src, Alu alu0, Alu alu1) {
  builder.emit({.opcode = opcode, .dst = dst, .src = std::move(src), .alu0 = alu0, .alu1 = alu1});
}

namespace {

std::vector<Tile> sources(const Tile& src, const Columns& columns) {
  return {src, columns.scale ? *columns.scale : Tile{}, columns.bias ? *columns.bias : Tile{}};
}

}  // namespace

void activation(Builder& builder, const Tile& dst, const Tile& src, Activation function, const Columns& columns) {
  builder.emit({.opcode = Opcode::activation,
                .dst = dst,
                .src = sources(src, columns),
                .function = function,
                .scalar0 = columns.scale_constant,
                .scalar1 = columns.bias_constant});
}

void activation_reduce(Builder& builder, const Tile& dst, const Tile& sum, const Tile& src, Activation function,
                       const Columns& columns) {
  builder.emit({.opcode = Opcode::activation_reduce,
                .dst = dst,
                .src = sources(src, columns),
                .res = sum,
                .function = function,
                .scalar0 = columns.scale_constant,
                .scalar1 = columns.bias_constant});
}

bool may_be_slabs(const target::Core& core, std::int64_t num_rows, std::int64_t cols) {
  constexpr std::int64_t kMostColumns = 256;
  return num_rows >= core.num_partitions && cols > 0 && cols <= kMostColumns;
}

bool may_spread(const target::Target& target, std::int64_t num_rows, std::int64_t cols, bool across) {
  const auto& core = target.core;
  const std::int64_t most = across ? core.num_partitions / 2 : target.device.num_cores * core.num_partitions - 1;
  return num_rows > 0 && num_rows <= most && cols >= core.num_partitions * core.min_instruction_cycles;
}

Tile block_diagonal(Builder& builder, std::int16_t buffer, std::int64_t groups, std::int64_t rows, std::int64_t cols) {
  const Tile mask = on_chip_tile(buffer, groups * rows, groups * cols);
  builder.memset(mask, 1);
  // Row p belongs to group g where 0 <= p - g rows and 0 <= (g + 1) rows - 1 - p.
  for (const std::int64_t sign : {1, -1}) {
    const Tile distance{.partitions = groups * rows,
                        .partition_stride = sign,
                        .free = {{groups, -sign * rows}, {cols, 0}},
                        .offset = sign > 0 ? 0 : rows - 1,
                        .loop_strides = {}};
    op(builder, Opcode::affine_select, mask, {mask, distance}, Alu::greater_equal);
  }
  return mask;
}

void join_statistics(Builder& builder, std::int16_t buffer, std::int64_t p, const Index& first, std::int64_t elements,
                     std::int64_t added) {
  const Tile count = on_chip_tile(buffer, p, 1, first), deviation = on_chip_tile(buffer, p, 1, first + 2);
  op(builder, Opcode::bn_aggr, on_chip_tile(buffer, p, 2, first + 1), {on_chip_tile(buffer, p, elements, first)});
  builder.tensor_scalar(count, count, Alu::add, static_cast<float>(added));
  builder.tensor_tensor(deviation, deviation, count, Alu::multiply);
}

void scaled_product(Builder& builder, const Tile& dst, const Tile& a, const Tile& b, float factor) {
  builder.emit({.opcode = Opcode::scalar_tensor_tensor,
                .dst = dst,
                .src = {a, b},
                .alu0 = Alu::multiply,
                .alu1 = Alu::multiply,
                .scalar0 = factor});
}

RowKernel::RowKernel(const target::Target& target, std::string name, std::int64_t rows, std::int64_t cols, bool across)
    : builder(std::move(name)),
      target_(target),
      rows_(rows),
      cols_(cols),
      partitions_(target.core.num_partitions),
      across_(across) {}

void RowKernel::plan(std::int64_t bytes_per_element, std::int64_t smallest_itemsize, std::int64_t reserved_bytes) {
  const auto& core = target_.core;
  // Staging tiles of a transposed load take the free bytes of `group` blocks of 128 columns.
  // Columns of scalars and their transposes take a little beside what the kernel reserves.
  const std::int64_t scalars = 5 * partitions_ * itemsize(Dtype::float32);
  const std::int64_t budget = std::max<std::int64_t>(core.sbuf_bytes_per_partition - reserved_bytes - scalars, 1);
  const std::int64_t fitting = std::max<std::int64_t>(budget / bytes_per_element, partitions_);
  if (across_) {
    const std::int64_t wanted =
        std::max<std::int64_t>(core.dma_saturating_bytes / (partitions_ * smallest_itemsize), 1);
    const std::int64_t blocks = std::min(wanted, std::max<std::int64_t>(rows_ / partitions_, 1));
    // A staging tile holds `group` blocks of 128: as many bytes as 128 more columns.
    const std::int64_t most = fitting / (cols_ + partitions_);
    group_ = std::clamp<std::int64_t>(most, 1, blocks);
    if (most >= 1) {
      chunk_ = cols_;
      return;
    }
    group_ = std::clamp<std::int64_t>(fitting / (4 * partitions_), 1, blocks);
    chunk_ = std::max(fitting / group_ / partitions_ - 1, std::int64_t{1}) * partitions_;
    chunk_ = std::min(chunk_, cols_);
    return;
  }
  if (cols_ <= fitting) {
    const std::int64_t free =
        tiling::stream_free_elements(target_, rows_ * cols_, smallest_itemsize, bytes_per_element);
    chunk_ = cols_;
    const std::int64_t row_bytes = cols_ * bytes_per_element + kColumns * 2 * itemsize(Dtype::float32);
    group_ = std::clamp<std::int64_t>(free / std::max<std::int64_t>(cols_, 1), 1,
                                      std::max<std::int64_t>(budget / row_bytes, 1));
    if (period_ > 0) {
      group_ = largest_divisor(period_, group_);
    }
    return;
  }
  chunk_ = fitting / partitions_ * partitions_;
  if (unit_ > 1 && unit_ <= chunk_) {
    chunk_ = chunk_ / unit_ * unit_;
  }
}

RowTensor RowKernel::tensor(const std::string& name, Dtype dtype, bool is_output, std::int64_t run_elements) {
  return {.hbm = builder.hbm(name, dtype, rows_ * cols_, is_output, across_ ? rows_ : run_elements)};
}

void RowKernel::give_tile(RowTensor& tensor, std::int64_t copies) {
  const Dtype dtype = tiling::sbuf_dtype(builder.dtype(tensor.hbm));
  const std::string prefix = "tile" + std::to_string(tensor.hbm);
  tensor.tile = builder.sbuf(prefix, dtype, partitions_, group_ * chunk_, copies);
  if (across_) {
    tensor.stage = builder.sbuf(prefix + "_stage", dtype, partitions_, group_ * partitions_, copies);
    tensor.psum = builder.psum(prefix + "_transposed", dtype, partitions_, partitions_);
  }
}

std::int16_t RowKernel::work(const std::string& name, Dtype dtype, std::int64_t copies) {
  return builder.sbuf(name, dtype, partitions_, group_ * chunk_, copies);
}

std::int16_t RowKernel::column(const std::string& name, Dtype dtype) {
  return builder.sbuf(name, dtype, partitions_, group_);
}

void RowKernel::load(const RowTensor& tensor, const Index& row, std::int64_t p, std::int64_t g, const Index& col,
                     std::int64_t width) {
  if (!across_) {
    const std::int64_t run = g * width;
    builder.dma(on_chip_tile(tensor.tile, p, run), hbm_tile(tensor.hbm, p, g * cols_, {{run, 1}}, row * cols_ + col));
    return;
  }
  builder.tiles(width, partitions_, [&](const Index& c, std::int64_t w) {
    builder.dma(on_chip_tile(tensor.stage, w, g * p),
                hbm_tile(tensor.hbm, w, rows_, {{g * p, 1}}, (col + c) * rows_ + row));
    members(g, [&](const Index& j) {
      builder.transpose(on_chip_tile(tensor.psum, p, w), on_chip_tile(tensor.stage, w, p, j * p));
      builder.tensor_copy(on_chip_tile(tensor.tile, p, w, j * chunk_ + c), on_chip_tile(tensor.psum, p, w));
    });
  });
}

void RowKernel::store(const RowTensor& tensor, const Index& row, std::int64_t p, std::int64_t g, const Index& col,
                      std::int64_t width) {
  if (!across_) {
    const std::int64_t run = g * width;
    builder.dma(hbm_tile(tensor.hbm, p, g * cols_, {{run, 1}}, row * cols_ + col), on_chip_tile(tensor.tile, p, run));
    return;
  }
  builder.tiles(width, partitions_, [&](const Index& c, std::int64_t w) {
    members(g, [&](const Index& j) {
      builder.transpose(on_chip_tile(tensor.psum, w, p), on_chip_tile(tensor.tile, p, w, j * chunk_ + c));
      builder.tensor_copy(on_chip_tile(tensor.stage, w, p, j * p), on_chip_tile(tensor.psum, w, p));
    });
    builder.dma(hbm_tile(tensor.hbm, w, rows_, {{g * p, 1}}, (col + c) * rows_ + row),
                on_chip_tile(tensor.stage, w, g * p));
  });
}

void RowKernel::give_line() {
  if (line_ < 0) {
    line_ = builder.sbuf("line", Dtype::float32, partitions_, partitions_);
    turned_ = builder.psum("line_turned", Dtype::float32, partitions_, partitions_);
  }
}

void RowKernel::load_column(std::int16_t hbm, std::int16_t column, const Index& row, std::int64_t p, std::int64_t g) {
  if (!turns_columns(p, g)) {
    builder.dma(on_chip_tile(column, p, g), hbm_tile(hbm, p, g, {{g, 1}}, row));
    return;
  }
  give_line();
  builder.dma(on_chip_tile(line_, g, p), hbm_tile(hbm, g, p, {{p, 1}}, row));
  builder.transpose(on_chip_tile(turned_, p, g), on_chip_tile(line_, g, p));
  builder.tensor_copy(on_chip_tile(column, p, g), on_chip_tile(turned_, p, g));
}

void RowKernel::store_column(std::int16_t hbm, std::int16_t column, const Index& row, std::int64_t p, std::int64_t g) {
  if (!turns_columns(p, g)) {
    builder.dma(hbm_tile(hbm, p, g, {{g, 1}}, row), on_chip_tile(column, p, g));
    return;
  }
  give_line();
  builder.transpose(on_chip_tile(turned_, g, p), on_chip_tile(column, p, g));
  builder.tensor_copy(on_chip_tile(line_, g, p), on_chip_tile(turned_, g, p));
  builder.dma(hbm_tile(hbm, g, p, {{p, 1}}, row), on_chip_tile(line_, g, p));
}

Tile RowKernel::row(std::int16_t tile, std::int64_t p, const Index& member, std::int64_t width) const {
  return on_chip_tile(tile, p, width, member * chunk_);
}

Tile RowKernel::scalar(std::int16_t column, std::int64_t p, const Index& member) const {
  return on_chip_tile(column, p, 1, member);
}

}  // namespace trn::kernels::rows
