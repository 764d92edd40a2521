// Matrix products: blocks of both operands in SBUF, K tiles accumulated in PSUM.
//
// out[M, N] is computed in blocks of BM x BN; a block of an operand spans BK of K. With block counts nM, nN,
//   HBM bytes read    = batch * (M K size(a) * a_reads + K N size(b) * b_reads) + bias
//   HBM bytes written = batch * M N size(out)
// With BK >= K the outer operand's block stays in SBUF while the other operand streams by: the outer one is read once,
// the other once per outer block. With BK < K fp32 partial sums stay in SBUF, and a is read nN times, b nM times. All
// are 1 where one block holds everything. A bias of n elements is read once per block of rows, one of m elements once
// per block of columns, one of m * n once. An operand that serves every batch is read for each.
// A step computes a block of plan.batches products: what it loads and stores of them goes into one DMA.
#include "kernels/matmul_emitter.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "kernels/build.h"
#include "kernels/executable.h"
#include "target/error.h"

namespace trn::kernels {

using program::Program;
using tiling::ceil_div;
using tiling::Dim;
using tiling::hbm_tile;
using tiling::on_chip_tile;
using tiling::Opcode;
using tiling::Segment;
using tiling::split;

namespace {

Dtype component(Dtype dtype) {
  switch (dtype) {
    case Dtype::complex32:
      return Dtype::float16;
    case Dtype::complex64:
      return Dtype::float32;
    case Dtype::complex128:
      return Dtype::float64;
    default:
      return dtype;
  }
}

// What TensorE is fed: integers and 64-bit types as fp32; fp32 and tf32 pair only with each other.
Dtype tensor_dtype(Dtype dtype, Dtype other) {
  auto is_native = [](Dtype d) {
    return d == Dtype::bfloat16 || d == Dtype::float16 || d == Dtype::float8_e4m3 || d == Dtype::float8_e4m3fn ||
           d == Dtype::float8_e5m2;
  };
  auto is_cast = [&](Dtype d) { return is_native(d) || d == Dtype::tfloat32; };
  if (is_native(dtype) && is_native(other)) {
    return dtype;
  }
  return is_cast(dtype) && is_cast(other) ? Dtype::tfloat32 : Dtype::float32;
}

}  // namespace

MatmulShape normalised(MatmulShape shape) {
  const bool row_bias = shape.bias.empty() || (shape.bias.size() == 3 && shape.bias[0] == 1 && shape.bias[1] == 1);
  if (shape.batch > 1 && shape.b_batch == 1 && shape.a_batch == shape.batch && !shape.a_k_major && row_bias) {
    shape.m *= shape.batch;
    shape.batch = shape.a_batch = 1;
  }
  // [2M, K] @ [K, 2N] of real and imaginary parts are the four real products; the store adds them in pairs.
  if (is_complex(shape.a_dtype) && is_complex(shape.b_dtype)) {
    shape.m *= 2;
    shape.n *= 2;
  }
  return shape;
}

void require_executable(const MatmulShape& shape) {
  for (const Dtype dtype : {shape.a_dtype, shape.b_dtype}) {
    if (is_complex(dtype)) {
      throw Error(Category::unimplemented, "[matmul] complex elements are counted, not executed; got " +
                                               std::string(target::name(dtype)) + ". Use reference numerics for it.");
    }
  }
}

MatmulEmitter::MatmulEmitter(const target::Target& target, const MatmulShape& shape, const MatmulPlan& plan,
                             Dtype auto_cast)
    : target_(target),
      s_(shape),
      plan_(plan),
      auto_cast_(auto_cast),
      complex_(is_complex(shape.a_dtype) && is_complex(shape.b_dtype)),
      partitions_(target.core.num_partitions),
      rows_(target.core.stationary_free_max_elements),
      columns_(target.core.moving_free_max_elements),
      k_lanes_(std::min(partitions_, std::max<std::int64_t>(plan.k_block / plan.k_tiles, 1))),
      m_lanes_(std::min(rows_, std::max<std::int64_t>(plan.m_block / plan.m_tiles, 1))),
      staged_columns_(16 * partitions_),
      builder_("matmul") {
  const std::int64_t a_elements = s_.m * s_.k, b_elements = s_.k * s_.n;
  a_ = {.k_major = s_.a_k_major, .extent = s_.m, .block = plan.m_block};
  b_ = {.k_major = s_.b_k_major, .extent = s_.n, .block = plan.n_block};
  a_.pitch = plan.batches * a_.block;
  b_.pitch = plan.batches * b_.block;
  a_.batch_stride = s_.a_batch > 1 ? a_elements : 0;
  b_.batch_stride = s_.b_batch > 1 ? b_elements : 0;
  const Dtype a_dtype = component(s_.a_dtype), b_dtype = component(s_.b_dtype), out_dtype = component(s_.out_dtype);
  a_.hbm = builder_.hbm("a", a_dtype, s_.a_batch * a_elements);
  b_.hbm = builder_.hbm("b", b_dtype, s_.b_batch * b_elements);
  bias_ = bias_of_shape();
  if (bias_.elements > 0) {
    bias_hbm_ = builder_.hbm("bias", out_dtype, bias_.elements);
  }
  out_hbm_ = builder_.hbm("out", out_dtype, s_.batch * s_.m * s_.n / (complex_ ? 2 : 1), true);
  choose_groups();
  declare(a_, "stationary", a_dtype, b_dtype);
  declare(b_, "moving", b_dtype, a_dtype);
  out_rows_ = builder_.sbuf("out_rows", tiling::sbuf_dtype(out_dtype), partitions_,
                            plan.batches * out_together_ * plan.n_block);
  sums_ = builder_.psum("sums", Dtype::float32, partitions_, columns_);
  if (accumulates()) {
    partial_ =
        builder_.sbuf("partial", Dtype::float32, partitions_, ceil_div(plan.m_block, m_lanes_) * plan.n_block, 1);
  }
  if (bias_.elements > 0) {
    bias_rows_ = builder_.sbuf("bias_rows", tiling::sbuf_dtype(out_dtype), partitions_,
                               bias_.column_stride == 0 && !complex_ ? 1 : plan.n_block);
  }
}

void MatmulEmitter::declare(Operand& operand, const std::string& name, Dtype dtype, Dtype other) {
  auto cast = [&](Dtype d) { return d == Dtype::float32 || d == Dtype::float64 ? auto_cast_ : d; };
  const Dtype on_chip = tensor_dtype(cast(dtype), cast(other));
  operand.sbuf = builder_.sbuf(name, on_chip, partitions_, ceil_div(plan_.k_block, k_lanes_) * operand.pitch);
  if (!operand.k_major) {
    operand.staged = builder_.sbuf(name + "_rows", on_chip, partitions_,
                                   operand.rows_together * std::min(plan_.k_block, staged_columns_));
    operand.transposed = builder_.psum(name + "_transposed", on_chip, partitions_, rows_);
  }
}

// Rows that lie behind one another in HBM and are shorter than a good descriptor go several to one, as long as enough
// groups of them are left for every core to load one while it computes on another.
void MatmulEmitter::choose_groups() {
  constexpr std::int64_t kMost = 16;  // tiles: what is staged stays small, and a chunk of it has whole groups
  const std::int64_t num_blocks = ceil_div(s_.batch, plan_.batches) * plan_.num_m_blocks * plan_.num_n_blocks;
  const auto together = [&](std::int64_t row_elements, Dtype dtype, std::int64_t block, std::int64_t lanes) {
    const std::int64_t num_tiles = block / lanes;
    const std::int64_t spare = num_blocks * num_tiles / (4 * target_.device.num_cores);
    const std::int64_t wanted = tiling::rows_per_descriptor(target_, row_elements * target::itemsize(dtype));
    std::int64_t most = 1;
    while (2 * most <= std::min({wanted, num_tiles, spare, kMost})) {
      most *= 2;
    }
    return most;
  };
  for (Operand* operand : {&a_, &b_}) {
    const Dtype dtype = component(operand == &a_ ? s_.a_dtype : s_.b_dtype);
    if (!operand->k_major && plan_.k_block >= s_.k && s_.k <= staged_columns_) {
      operand->rows_together = together(s_.k, dtype, operand->pitch, rows_);
    } else if (operand->k_major && operand->block >= operand->extent && plan_.k_tiles == 1) {
      k_together_ = std::max(k_together_, together(operand->extent, dtype, plan_.k_block, partitions_));
    }
  }
  k_together_ = std::max(k_together_, plan_.k_tiles);
  out_together_ = plan_.m_tiles;
  if (plan_.n_block >= s_.n && plan_.m_tiles == 1) {
    out_together_ = together(s_.n / (complex_ ? 2 : 1), component(s_.out_dtype), plan_.m_block, rows_);
  }
}

MatmulEmitter::Bias MatmulEmitter::bias_of_shape() const {
  if (s_.bias.empty()) {
    return {};
  }
  const std::int64_t e = product(s_.bias);
  if (complex_) {
    return {.elements = 2 * e};
  }
  const std::int64_t extents[] = {s_.batch, s_.m, s_.n};
  std::string sizes;
  bool is_broadcast = s_.bias.size() == std::size(extents);
  for (std::size_t axis = 0; axis < s_.bias.size(); ++axis) {
    sizes += (axis > 0 ? ", " : "") + std::to_string(s_.bias[axis]);
    is_broadcast = is_broadcast && (s_.bias[axis] == 1 || s_.bias[axis] == extents[axis]);
  }
  if (!is_broadcast) {
    throw Error(Category::invalid_argument, "[matmul] a bias has the result's sizes [batch, m, n], or 1; got [" +
                                                sizes + "], limit [" + std::to_string(s_.batch) + ", " +
                                                std::to_string(s_.m) + ", " + std::to_string(s_.n) +
                                                "]. Expand it first.");
  }
  const std::int64_t rows = s_.bias[1], columns = s_.bias[2];
  return {.elements = e,
          .batch_stride = s_.bias[0] > 1 ? rows * columns : 0,
          .row_stride = rows > 1 ? columns : 0,
          .column_stride = columns > 1 ? 1 : 0};
}

Program MatmulEmitter::emit() {
  for (const Segment& outer : split(plan_.m_outer ? s_.m : s_.n, plan_.m_outer ? plan_.m_block : plan_.n_block)) {
    for (const Segment& stack : split(s_.batch, plan_.batches)) {
      builder_.nest(stack.start > 0 ? "rest" : outer.start == 0 ? "body" : "edge");
      batches_ = stack.size;
      builder_.parallel_loop(stack.trips, [&](const Index& i) {
        const Index batch = i * stack.size + stack.start;
        builder_.parallel_loop(outer.trips,
                               [&](const Index& j) { outer_block(batch, j * outer.size + outer.start, outer.size); });
      });
    }
  }
  if (complex_ && bias_.elements > 0) {
    stream_complex_bias();
  }
  return builder_.take();
}

void MatmulEmitter::outer_block(const Index& batch, const Index& first, std::int64_t size) {
  if (!accumulates()) {
    load(plan_.m_outer ? a_ : b_, batch, first, size, 0, s_.k);
  }
  const std::int64_t extent = plan_.m_outer ? s_.n : s_.m;
  builder_.tiles(
      extent, plan_.m_outer ? plan_.n_block : plan_.m_block,
      [&](const Index& inner, std::int64_t inner_size) {
        const Block at =
            plan_.m_outer ? Block{batch, first, inner, size, inner_size} : Block{batch, inner, first, inner_size, size};
        if (!complex_ && bias_.per_block()) {
          load_bias(at, {.batch = 0, .first = 0, .number = 0, .rows = std::min(at.m_size, rows_)});
        }
        if (accumulates()) {
          accumulated_block(at);
        } else {
          resident_block(at);
        }
      },
      true);
}

void MatmulEmitter::resident_block(const Block& at) {
  if (plan_.m_outer) {
    load(b_, at.batch, at.n, at.n_size, 0, s_.k);
  } else {
    load(a_, at.batch, at.m, at.m_size, 0, s_.k);
  }
  finished_rows(at, [&](const RowTile& tile, const Index& out_row) {
    builder_.tiles(
        at.n_size, columns_,
        [&](const Index& column, std::int64_t columns) {
          sum_over_k(tile, column, columns, s_.k);
          finish(on_chip_tile(sums_, tile.rows, columns), column, columns, out_row);
        },
        true);
  });
}

// What is there once for each of the batches that a step computes together, `pitch` elements apart.
std::vector<Dim> MatmulEmitter::stacked(std::int64_t pitch, std::vector<Dim> dims) const {
  if (batches_ > 1) {
    dims.insert(dims.begin(), {batches_, pitch});
  }
  return dims;
}

// per_tile(tile, its place among those of its group) for each tile of a block's rows; after(first row, group) behind
// each group.
template <class Body, class After>
void MatmulEmitter::row_tiles(const Block& at, Body per_tile, After after) {
  builder_.groups(
      tiling::row_groups(at.m_size, m_lanes_, out_together_),
      [&](const Index& first, const tiling::RowGroup& group) {
        builder_.each(batches_, [&](const Index& batch) {
          builder_.each(group.tiles, [&](const Index& t) {
            per_tile(RowTile{.batch = batch,
                             .first = first + t,
                             .number = first / m_lanes_ + t,
                             .rows = group.lanes,
                             .step = group.tiles},
                     batch * group.tiles + t);
          });
        });
        after(first, group);
      },
      true);
}

// The block's results: finish_tile(tile, where its columns begin in out_rows) for each tile of rows, and each group of
// them stored.
template <class Body>
void MatmulEmitter::finished_rows(const Block& at, Body finish_tile) {
  row_tiles(
      at,
      [&](const RowTile& tile, const Index& t) {
        if (!complex_ && bias_.per_row()) {
          load_bias(at, tile);
        }
        finish_tile(tile, t * (at.n_size / (complex_ ? 2 : 1)));
      },
      [&](const Index& first, const tiling::RowGroup& group) { store(at, first, group); });
}

void MatmulEmitter::accumulated_block(const Block& at) {
  const std::int64_t size = plan_.k_block;
  const std::int64_t num_full = s_.k / size;
  partial_products(at, 0, size, true);
  builder_.loop(num_full - 1, [&](const Index& i) { partial_products(at, i * size + size, size, false); });
  if (s_.k > num_full * size) {
    partial_products(at, num_full * size, s_.k - num_full * size, false);
  }
  finished_rows(at, [&](const RowTile& tile, const Index& out_row) {
    finish(on_chip_tile(partial_, tile.rows, at.n_size, tile.number * plan_.n_block), 0, at.n_size, out_row);
  });
}

void MatmulEmitter::partial_products(const Block& at, const Index& k, std::int64_t k_size, bool is_first) {
  load(a_, at.batch, at.m, at.m_size, k, k_size);
  load(b_, at.batch, at.n, at.n_size, k, k_size);
  auto per_tile = [&](const RowTile& tile, const Index& column, std::int64_t columns) {
    sum_over_k(tile, column, columns, k_size);
    const Tile sums = on_chip_tile(sums_, tile.rows, columns);
    const Tile partial = on_chip_tile(partial_, tile.rows, columns, tile.number * plan_.n_block + column);
    if (is_first) {
      builder_.activation(partial, sums, Activation::copy);
    } else {
      builder_.tensor_tensor(partial, partial, sums, Alu::add);
    }
  };
  row_tiles(
      at,
      [&](const RowTile& tile, const Index&) {
        builder_.tiles(
            at.n_size, columns_, [&](const Index& column, std::int64_t columns) { per_tile(tile, column, columns); },
            true);
      },
      [](const Index&, const tiling::RowGroup&) {});
}

// [k_size, size] with K on partitions: tile t of K begins at t * pitch of each partition, product j of a step at
// j * block behind that. Which elements of K make a tile is for row_groups to say; both operands agree in it.
void MatmulEmitter::load(const Operand& operand, const Index& batch, const Index& first, std::int64_t size,
                         const Index& k, std::int64_t k_size) {
  const Index matrix = batch * operand.batch_stride;
  if (!operand.k_major) {
    load_transposed(operand, matrix + first * s_.k + k, batches_ * size, k_size);
    return;
  }
  builder_.groups(
      tiling::row_groups(k_size, k_lanes_, k_together_), [&](const Index& row, const tiling::RowGroup& group) {
        builder_.dma(on_chip_tile(operand.sbuf, group.lanes,
                                  stacked(operand.block, tiling::dims(group.tiles, operand.pitch, size)),
                                  row / k_lanes_ * operand.pitch),
                     hbm_tile(operand.hbm, group.lanes, group.tiles * operand.extent,
                              stacked(operand.batch_stride, tiling::dims(group.tiles, operand.extent, size)),
                              matrix + (k + row) * operand.extent + first));
      });
}

// The same from [extent, k]: rows are staged in SBUF, and TensorE turns them tile by tile.
void MatmulEmitter::load_transposed(const Operand& operand, const Index& start, std::int64_t size,
                                    std::int64_t k_size) {
  const auto spread = [](std::int64_t elements, std::int64_t stride) { return std::vector<Dim>{{elements, stride}}; };
  const auto turn = [&](const Index& k, const Index& at, std::int64_t k_rows, std::int64_t k_step, const Index& x,
                        const tiling::RowGroup& group) {
    const Tile turned = on_chip_tile(operand.transposed, k_rows, group.lanes);
    builder_.transpose(turned, on_chip_tile(operand.staged, group.lanes, spread(k_rows, k_step), at));
    builder_.tensor_copy(on_chip_tile(operand.sbuf, k_rows, spread(group.lanes, group.tiles), k * operand.pitch + x),
                         turned);
  };
  builder_.groups(
      tiling::row_groups(size, rows_, operand.rows_together),
      [&](const Index& x, const tiling::RowGroup& group) {
        builder_.tiles(k_size, staged_columns_, [&](const Index& chunk, std::int64_t chunk_size) {
          builder_.dma(on_chip_tile(operand.staged, group.lanes, group.tiles * chunk_size),
                       hbm_tile(operand.hbm, group.lanes, group.tiles * s_.k, {{group.tiles * chunk_size, 1}},
                                start + x * s_.k + chunk));
          builder_.each(group.tiles, [&](const Index& t) {
            builder_.groups(tiling::row_groups(chunk_size, k_lanes_, k_together_), [&](const Index& row,
                                                                                       const tiling::RowGroup& of_k) {
              builder_.each(of_k.tiles, [&](const Index& k) {
                turn((chunk + row) / k_lanes_ + k, t * chunk_size + row + k, of_k.lanes, of_k.tiles, x + t, group);
              });
            });
          });
        });
      },
      true);
}

void MatmulEmitter::load_bias(const Block& at, const RowTile& tile) {
  const std::int64_t columns = bias_.column_stride == 0 ? 1 : at.n_size;
  const Index address = (at.batch + tile.batch) * bias_.batch_stride + (at.m + tile.first) * bias_.row_stride +
                        at.n * bias_.column_stride;
  builder_.dma(on_chip_tile(bias_rows_, tile.rows, columns),
               hbm_tile(bias_hbm_, tile.rows, tile.step * bias_.row_stride, {{columns, 1}}, address));
}

void MatmulEmitter::sum_over_k(const RowTile& tile, const Index& column, std::int64_t columns, std::int64_t k_size) {
  bool is_first = true;
  for (const Segment& k : split(k_size, k_lanes_)) {
    builder_.loop(k.trips, [&](const Index& i) {
      const Index number = i + k.start / k_lanes_;
      builder_.matmul(on_chip_tile(sums_, tile.rows, columns),
                      on_chip_tile(a_.sbuf, k.size, std::vector<Dim>{{tile.rows, tile.step}},
                                   number * a_.pitch + tile.batch * plan_.m_block + tile.first),
                      on_chip_tile(b_.sbuf, k.size, columns, number * b_.pitch + tile.batch * plan_.n_block + column),
                      is_first ? static_cast<std::int16_t>(builder_.depth() - 1) : program::kAccumulate);
    });
    is_first = false;
  }
}

// Scales, bias and cast: from fp32 sums to columns of out_rows, those of a tile from `out_row` on.
void MatmulEmitter::finish(const Tile& sums, const Index& column, std::int64_t columns, const Index& out_row) {
  const std::int64_t rows = sums.partitions;
  if (complex_) {
    const std::int64_t half = columns / 2;
    Tile real = sums, imaginary = sums;
    real.free = imaginary.free = {Dim{half, 1}};
    imaginary.offset += half;
    builder_.tensor_tensor(on_chip_tile(out_rows_, rows, half, out_row + column / 2), real, imaginary, Alu::add);
    return;
  }
  const Tile out = on_chip_tile(out_rows_, rows, columns, out_row + column);
  if (bias_.elements == 0) {
    builder_.activation(out, sums, Activation::copy, s_.alpha);
    return;
  }
  const std::int64_t stride = bias_.column_stride;
  const Tile bias = on_chip_tile(bias_rows_, rows, std::vector<Dim>{{columns, stride}}, column * stride);
  if (s_.alpha == 1 && s_.beta == 1) {
    builder_.tensor_tensor(out, sums, bias, Alu::add);
    return;
  }
  const bool scales_bias = s_.beta != 1;
  if (scales_bias && s_.alpha != 1) {
    builder_.activation(sums, sums, Activation::copy, s_.alpha);
  }
  builder_.emit({.opcode = Opcode::scalar_tensor_tensor,
                 .dst = out,
                 .src = scales_bias ? std::vector<Tile>{bias, sums} : std::vector<Tile>{sums, bias},
                 .alu0 = Alu::multiply,
                 .alu1 = Alu::add,
                 .scalar0 = scales_bias ? s_.beta : s_.alpha});
}

void MatmulEmitter::store(const Block& at, const Index& first, const tiling::RowGroup& group) {
  const std::int64_t halves = complex_ ? 2 : 1;
  const std::int64_t row_stride = s_.n / halves;
  const Index column = at.n / halves;
  const std::int64_t elements = group.tiles * at.n_size / halves;
  builder_.dma(hbm_tile(out_hbm_, group.lanes, group.tiles * row_stride, stacked(s_.m * row_stride, {{elements, 1}}),
                        at.batch * (s_.m * row_stride) + (at.m + first) * row_stride + column),
               on_chip_tile(out_rows_, group.lanes, stacked(elements, {{elements, 1}})));
}

// Complex results take their bias in a pass of its own over the bias.
void MatmulEmitter::stream_complex_bias() {
  tiling::stream(
      builder_, target_, bias_.elements, std::min(plan_.n_block, bias_.elements),
      [&](const tiling::StreamTile& tile) {
        const Tile bias = on_chip_tile(bias_rows_, tile.partitions, tile.free);
        builder_.dma(bias, tile.hbm(bias_hbm_));
        builder_.tensor_copy(bias, bias);
      },
      1, "bias_");
}

Program matmul(const target::Target& target, const MatmulShape& shape, Dtype auto_cast) {
  const MatmulShape s = normalised(shape);
  if (s.batch > 0 && s.m > 0 && s.n > 0 && s.k > 0) {
    return MatmulEmitter(target, s, matmul_plan(target, s, auto_cast), auto_cast).emit();
  }
  // An empty sum: the result is its bias, or zero.
  const Access out{shape.out_dtype, shape.batch * shape.m * shape.n, shape.batch * shape.m * shape.n};
  PointwiseShape fill{.elements = out.elements, .inputs = {}, .outputs = {out}, .steps = {}, .axes = {}, .repeats = {}};
  if (!shape.bias.empty()) {
    const std::int64_t elements = product(shape.bias);
    fill.inputs.push_back({shape.out_dtype, elements, elements});
  }
  return pointwise(target, fill);
}

}  // namespace trn::kernels
