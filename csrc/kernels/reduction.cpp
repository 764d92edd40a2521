// Reductions of the rows of a matrix: along the free axis, across partitions, or of few long rows.
#include <algorithm>
#include <limits>
#include <string>

#include "kernels/executable.h"
#include "kernels/reduction.h"
#include "kernels/rows.h"
#include "target/error.h"

namespace trn::kernels {

using rows::Index;
using rows::Opcode;
using rows::RowKernel;
using rows::Tile;
using tiling::Builder;
using tiling::ceil_div;
using tiling::hbm_tile;
using tiling::on_chip_tile;
using tiling::StreamTile;

namespace {

// What an accumulator starts from.
float identity(Alu alu) {
  switch (alu) {
    case Alu::maximum:
      return -std::numeric_limits<float>::infinity();
    case Alu::minimum:
      return std::numeric_limits<float>::infinity();
    case Alu::multiply:
    case Alu::logical_and:
      return 1;
    default:
      return 0;
  }
}

// What all three layouts share: operands, the prologue, and the reduction of one tile to a column.
class Reduction {
 public:
  Reduction(const target::Target& target, const ReductionShape& shape)
      : s_(shape),
        target_(target),
        size_(shape.rows * shape.cols),
        extreme_(shape.alu == Alu::maximum || shape.alu == Alu::minimum),
        k_(target, "reduction", shape.rows, shape.cols, shape.across_partitions),
        b_(k_.builder) {
    const Dtype first = s_.inputs.empty() ? Dtype::float32 : s_.inputs.front().dtype;
    const bool compares = !s_.prologue.empty() && s_.prologue.back().alu >= Alu::equal;
    propagates_nan_ = extreme_ && is_real_float(first) && !compares;
    sums_floats_ = s_.alu == Alu::add && is_real_float(first);
    for (std::size_t i = 0; i < s_.inputs.size(); ++i) {
      const auto& input = s_.inputs[i];
      rows::RowTensor tensor{.hbm = b_.hbm("in" + std::to_string(i), input)};
      (input.elements == size_ ? tiled_ : odd_).push_back(tensor);
    }
    for (std::size_t i = 0; i < s_.outputs.size(); ++i) {
      outputs_.push_back(b_.hbm("out" + std::to_string(i), s_.outputs[i], true));
    }
  }

  program::Program emit() {
    if (size_ > 0 && size_ / std::max<std::int64_t>(s_.rows, 1) == s_.cols) {
      plan();
      read_odd_inputs();
      const std::int64_t partitions = target_.core.num_partitions;
      if (sums_floats_ && s_.across_partitions) {
        sum_across();
      } else if (!s_.across_partitions && s_.rows < partitions / 2 &&
                 s_.cols >= partitions * target_.core.min_instruction_cycles) {
        spread();
      } else {
        along_rows();
      }
    }
    write_odd_outputs();
    return b_.take();
  }

 private:
  std::int64_t smallest_itemsize() const {
    std::int64_t smallest = itemsize(Dtype::float32);
    for (const auto& input : s_.inputs) {
      smallest = std::min(smallest, itemsize(tiling::sbuf_dtype(input.dtype)));
    }
    return smallest;
  }

  // Tiles: two copies of each input, one each of the prologue's values and of the NaN mask.
  std::int64_t bytes_per_element() const {
    std::int64_t bytes = (num_values() + 1) * itemsize(Dtype::float32);
    for (const auto& input : s_.inputs) {
      bytes += input.elements == size_ ? 2 * itemsize(tiling::sbuf_dtype(input.dtype)) : 0;
    }
    return bytes;
  }

  void plan() {
    std::int64_t odd_bytes = 0;
    for (const auto& tensor : odd_) {
      const Dtype dtype = tiling::sbuf_dtype(b_.dtype(tensor.hbm));
      odd_bytes += itemsize(dtype) * odd_free(dtype);
    }
    k_.plan(bytes_per_element(), smallest_itemsize(), odd_bytes + 64 * itemsize(Dtype::float32));
  }

  // Operands that are not as large as the iteration space (weights of a loss, say) pass through SBUF once.
  std::int64_t odd_free(Dtype dtype) const { return 2 * target_.core.dma_saturating_bytes / itemsize(dtype); }
  void read_odd_inputs() {
    for (const auto& tensor : odd_) {
      const Dtype dtype = tiling::sbuf_dtype(b_.dtype(tensor.hbm));
      const std::int64_t free = odd_free(dtype) / 2;
      const auto tile = b_.sbuf("operand" + std::to_string(tensor.hbm), dtype, target_.core.num_partitions, free);
      tiling::stream(
          b_, target_, s_.inputs[static_cast<std::size_t>(tensor.hbm)].elements, free,
          [&](const StreamTile& t) { b_.dma(on_chip_tile(tile, t.partitions, t.free), t.hbm(tensor.hbm)); }, 1,
          "operand_");
    }
  }

  bool is_column(std::size_t output) const { return s_.outputs[output].elements == s_.rows && size_ > 0; }

  // Results that are not one element per row, and every result of an empty input.
  void write_odd_outputs() {
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      if (is_column(i) || s_.outputs[i].elements == 0) {
        continue;
      }
      const Dtype dtype = tiling::sbuf_dtype(s_.outputs[i].dtype);
      const std::int64_t free = odd_free(dtype) / 2;
      const auto tile = b_.sbuf("result" + std::to_string(i), dtype, target_.core.num_partitions, free);
      tiling::stream(
          b_, target_, s_.outputs[i].elements, free,
          [&](const StreamTile& t) {
            b_.memset(on_chip_tile(tile, t.partitions, t.free), 0);
            b_.dma(t.hbm(outputs_[i]), on_chip_tile(tile, t.partitions, t.free));
          },
          1, "result_");
    }
  }

  // What the prologue computes in; the first holds its result.
  std::int64_t num_values() const { return tiling::num_temporaries(s_.prologue); }
  template <class Allocate>
  std::vector<std::int16_t> values(Allocate allocate) const {
    std::vector<std::int16_t> buffers{allocate("value")};
    for (std::int64_t i = 1; i < num_values(); ++i) {
      buffers.push_back(allocate("value" + std::to_string(i)));
    }
    return buffers;
  }
  // The prologue's value of the loaded tiles; the first input itself where there is none. `tile` of a buffer.
  template <class TileOf>
  Tile value(const std::vector<Tile>& loaded, const std::vector<std::int16_t>& buffers, TileOf tile,
             const Tile& position) {
    if (s_.prologue.empty() && !loaded.empty()) {
      return loaded.front();
    }
    std::vector<Tile> work;
    for (const std::int16_t buffer : buffers) {
      work.push_back(tile(buffer));
    }
    tiling::apply_steps(b_, s_.prologue, loaded, {work.front()}, work, position);
    return work.front();
  }

  // max and min of PyTorch propagate NaN, the engine's do not (facts 2: relu(NaN) is 0): a mask is reduced beside.
  void mask_nan(const Tile& mask, const Tile& source, const Tile& column) {
    if (propagates_nan_) {
      b_.tensor_tensor(mask, source, source, Alu::not_equal);
      b_.tensor_reduce(column, mask, Alu::maximum);
    }
  }

  // Rows on partitions, reduced along the free axis by VectorE; across partitions, tiles are transposed first.
  void along_rows() {
    for (auto& tensor : tiled_) {
      k_.give_tile(tensor);
    }
    const auto work = values([&](const std::string& name) { return k_.work(name, Dtype::float32, 1); });
    const auto mask = k_.work("nan", Dtype::float32, 1);
    const auto total = k_.column("total"), part = k_.column("part");
    const auto nan_total = k_.column("nan_total"), nan_part = k_.column("nan_part");
    k_.row_groups([&](const Index& row, std::int64_t p, std::int64_t g) {
      if (!k_.resident()) {
        b_.memset(on_chip_tile(total, p, g), identity(s_.alu));
        b_.memset(on_chip_tile(nan_total, p, g), 0);
      }
      k_.chunks([&](const Index& col, std::int64_t width) {
        std::vector<Tile> loaded;
        for (const auto& tensor : tiled_) {
          k_.load(tensor, row, p, g, col, width);
          loaded.push_back(on_chip_tile(tensor.tile, p, {{g, k_.chunk()}, {width, 1}}));
        }
        auto work_tile = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, {{g, k_.chunk()}, {width, 1}}); };
        const Tile source = value(loaded, work, work_tile, StreamTile{p, g * width, row}.position());
        const Tile mask_tile = on_chip_tile(mask, p, {{g, k_.chunk()}, {width, 1}});
        const bool once = k_.resident();
        b_.tensor_reduce(on_chip_tile(once ? total : part, p, g), source, s_.alu);
        mask_nan(mask_tile, source, on_chip_tile(once ? nan_total : nan_part, p, g));
        if (!once) {
          combine(on_chip_tile(total, p, g), on_chip_tile(part, p, g), on_chip_tile(nan_total, p, g),
                  on_chip_tile(nan_part, p, g));
        }
      });
      finish_nan(on_chip_tile(total, p, g), on_chip_tile(nan_total, p, g));
      finish(on_chip_tile(total, p, g));
      store_columns([&](std::int16_t hbm) { k_.store_column(hbm, total, row, p, g); });
    });
  }

  void combine(const Tile& total, const Tile& part, const Tile& nan_total, const Tile& nan_part) {
    b_.tensor_tensor(total, total, part, s_.alu);
    if (propagates_nan_) {
      b_.tensor_tensor(nan_total, nan_total, nan_part, Alu::maximum);
    }
  }
  void finish_nan(const Tile& total, const Tile& nan_total) {
    if (propagates_nan_) {
      b_.emit({.opcode = Opcode::tensor_copy_predicated,
               .dst = total,
               .src = {total, nan_total},
               .scalar0 = std::numeric_limits<float>::quiet_NaN()});
    }
  }
  void finish(const Tile& total) {
    if (!s_.epilogue.empty()) {
      tiling::apply_steps(b_, s_.epilogue, {total}, {total}, {total});
    }
  }
  template <class Store>
  void store_columns(Store store) {
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      if (is_column(i)) {
        store(outputs_[i]);
      }
    }
  }

  // fp32 is what the sum accumulates in, so that narrow floats are widened on the way to TensorE.
  Tile widened(const Tile& source, std::int16_t wide) {
    if (b_.dtype(source.buffer) == Dtype::float32) {
      return source;
    }
    Tile result = source;
    result.buffer = wide;
    result.offset = 0;
    result.loop_strides.clear();
    b_.tensor_copy(result, source);
    return result;
  }

  // [cols on partitions, rows free]: ones^T @ tile, accumulated in PSUM over the columns.
  void sum_across() {
    const auto& core = target_.core;
    const std::int64_t partitions = core.num_partitions, moving = core.moving_free_max_elements;
    const std::int64_t cores = std::max<std::int64_t>(target_.device.num_cores, 1);
    const std::int64_t fitting = std::max<std::int64_t>(core.sbuf_bytes_per_partition / 2 / bytes_per_element(), 1);
    const std::int64_t banks = std::max<std::int64_t>(core.psum_num_banks / 2, 1);
    const std::int64_t width = std::clamp<std::int64_t>(ceil_div(s_.rows, cores), 1,
                                                        std::max<std::int64_t>(std::min(banks * moving, fitting), 1));
    for (auto& tensor : tiled_) {
      tensor.tile =
          b_.sbuf("tile" + std::to_string(tensor.hbm), tiling::sbuf_dtype(b_.dtype(tensor.hbm)), partitions, width);
    }
    const auto work =
        values([&](const std::string& name) { return b_.sbuf(name, Dtype::float32, partitions, width, 1); });
    const auto wide = b_.sbuf("wide", Dtype::float32, partitions, width, 1);
    const auto ones = b_.sbuf("ones", Dtype::float32, partitions, 1, 1);
    const auto sums = b_.psum("sums", Dtype::float32, 1, width);
    const auto out = b_.sbuf("total", Dtype::float32, 1, width);
    b_.nest("ones");
    b_.memset(on_chip_tile(ones, partitions, 1), 1);
    for (const auto& segment : tiling::split(s_.rows, width)) {
      b_.nest(segment.start == 0 ? "body" : "right_edge");
      b_.parallel_loop(segment.trips, [&](const Index& i) {
        const Index row = i * segment.size + segment.start;
        auto column_tile = [&](const Index& col, std::int64_t p, bool after) {
          std::vector<Tile> loaded;
          for (const auto& tensor : tiled_) {
            loaded.push_back(on_chip_tile(tensor.tile, p, segment.size));
            b_.dma(loaded.back(), hbm_tile(tensor.hbm, p, s_.rows, {{segment.size, 1}}, col * s_.rows + row));
          }
          const int depth = b_.depth() - 1;
          auto work_tile = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, segment.size); };
          const Tile position = StreamTile{p, segment.size, col * s_.rows + row}.position();
          const Tile source = widened(value(loaded, work, work_tile, position), wide);
          b_.tiles(segment.size, moving, [&](const Index& c, std::int64_t w) {
            b_.matmul(on_chip_tile(sums, 1, w, c), on_chip_tile(ones, p, 1), on_chip_tile(source.buffer, p, w, c),
                      after ? program::kAccumulate : static_cast<std::int16_t>(depth));
          });
        };
        bool after = false;
        for (const auto& cols : tiling::split(s_.cols, partitions)) {
          b_.loop(cols.trips, [&](const Index& c) { column_tile(c * partitions + cols.start, cols.size, after); });
          after = true;
        }
        b_.tensor_copy(on_chip_tile(out, 1, segment.size), on_chip_tile(sums, 1, segment.size));
        finish(on_chip_tile(out, 1, segment.size));
        store_columns([&](std::int16_t hbm) {
          b_.dma(hbm_tile(hbm, 1, 0, {{segment.size, 1}}, row), on_chip_tile(out, 1, segment.size));
        });
      });
    }
  }

  // Few long rows: each is spread over all partitions. Floats are summed by matmuls with ones into one PSUM row;
  // everything else is reduced per partition by VectorE, and the 128 results are transposed and reduced again.
  void spread() {
    const auto& core = target_.core;
    const std::int64_t partitions = core.num_partitions, moving = core.moving_free_max_elements;
    const std::int64_t cores = std::max<std::int64_t>(target_.device.num_cores, 1);
    const std::int64_t shares = s_.rows == 1 ? cores : 1;
    const std::int64_t free =
        tiling::stream_free_elements(target_, s_.cols, smallest_itemsize(), bytes_per_element() + 8);
    for (auto& tensor : tiled_) {
      tensor.tile =
          b_.sbuf("tile" + std::to_string(tensor.hbm), tiling::sbuf_dtype(b_.dtype(tensor.hbm)), partitions, free);
    }
    const auto work =
        values([&](const std::string& name) { return b_.sbuf(name, Dtype::float32, partitions, free, 1); });
    const auto mask = b_.sbuf("nan", Dtype::float32, partitions, free, 1);
    const auto wide = b_.sbuf("wide", Dtype::float32, partitions, sums_floats_ ? free : 1, 1);
    const auto ones = b_.sbuf("ones", Dtype::float32, partitions, 1, 1);
    const auto totals = b_.sbuf("totals", Dtype::float32, partitions, shares, 1);
    const auto nan_totals = b_.sbuf("nan_totals", Dtype::float32, partitions, shares, 1);
    const auto parts = b_.sbuf("parts", Dtype::float32, partitions, 2);
    const auto sums = b_.psum("sums", Dtype::float32, 1, shares * moving, 1);
    const auto turned = b_.psum("turned", Dtype::float32, 1, 2 * partitions);
    const auto result = b_.sbuf("result", Dtype::float32, 1, 2);

    auto start = [&] {
      b_.memset(on_chip_tile(ones, partitions, 1), 1);
      if (sums_floats_) {
        b_.memset(on_chip_tile(sums, 1, shares * moving), 0);
      } else {
        b_.memset(on_chip_tile(totals, partitions, shares), identity(s_.alu));
        b_.memset(on_chip_tile(nan_totals, partitions, shares), 0);
      }
    };
    auto tile = [&](const Index& first, std::int64_t p, std::int64_t n, const Index& share) {
      std::vector<Tile> loaded;
      for (const auto& tensor : tiled_) {
        loaded.push_back(on_chip_tile(tensor.tile, p, n));
        b_.dma(loaded.back(), hbm_tile(tensor.hbm, p, n, {{n, 1}}, first));
      }
      auto work_tile = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, n); };
      const Tile source = value(loaded, work, work_tile, StreamTile{p, n, first}.position());
      if (sums_floats_) {
        const Tile moving_tile = widened(source, wide);
        b_.tiles(n, moving, [&](const Index& c, std::int64_t w) {
          b_.matmul(on_chip_tile(sums, 1, w, share * moving), on_chip_tile(ones, p, 1),
                    on_chip_tile(moving_tile.buffer, p, w, c), program::kAccumulate);
        });
        return;
      }
      b_.tensor_reduce(on_chip_tile(parts, p, 1), source, s_.alu);
      mask_nan(on_chip_tile(mask, p, n), source, on_chip_tile(parts, p, 1, Index(1)));
      combine(on_chip_tile(totals, p, 1, share), on_chip_tile(parts, p, 1), on_chip_tile(nan_totals, p, 1, share),
              on_chip_tile(parts, p, 1, Index(1)));
    };
    auto finish = [&](const Index& row) {
      const Tile out = on_chip_tile(result, 1, 1), nan = on_chip_tile(result, 1, 1, Index(1));
      if (sums_floats_) {
        b_.tensor_reduce(out, on_chip_tile(sums, 1, shares * moving), Alu::add);
      } else {
        fold(out, totals, turned, shares, s_.alu);
        if (propagates_nan_) {
          fold(nan, nan_totals, turned, shares, Alu::maximum);
        }
        finish_nan(out, nan);
      }
      this->finish(out);
      store_columns([&](std::int16_t hbm) { b_.dma(hbm_tile(hbm, 1, 0, {{1, 1}}, row), out); });
    };

    const std::int64_t size = partitions * free, each = s_.cols / size / shares;
    const std::int64_t rest = s_.cols - each * shares * size;
    auto remainder = [&](const Index& first) {
      for (const auto& segment : tiling::split(rest, size)) {
        if (segment.size == size) {
          b_.loop(segment.trips, [&](const Index& i) { tile(first + i * size, partitions, free, Index(0)); });
          continue;
        }
        const std::int64_t narrow = segment.size / partitions, tail = segment.size % partitions;
        if (narrow > 0) {
          tile(first + segment.start, partitions, narrow, Index(0));
        }
        if (tail > 0) {
          tile(first + segment.start + narrow * partitions, 1, tail, Index(0));
        }
      }
    };
    if (shares > 1) {
      b_.nest("start");
      start();
      b_.nest("body");
      b_.parallel_loop(each > 0 ? shares : 0, [&](const Index& share) {
        b_.loop(each, [&](const Index& i) { tile(share * (each * size) + i * size, partitions, free, share); });
      });
      b_.nest("remainder");
      remainder(Index(each * shares * size));
      finish(Index(0));
      return;
    }
    b_.nest("body");
    b_.parallel_loop(s_.rows, [&](const Index& row) {
      start();
      b_.loop(each, [&](const Index& i) { tile(row * s_.cols + i * size, partitions, free, Index(0)); });
      remainder(row * s_.cols + each * size);
      finish(row);
    });
  }

  // [128 partitions, shares] to one element.
  void fold(const Tile& out, std::int16_t columns, std::int16_t turned, std::int64_t shares, Alu alu) {
    const std::int64_t partitions = target_.core.num_partitions;
    for (std::int64_t share = 1; share < shares; ++share) {
      const Tile first = on_chip_tile(columns, partitions, 1);
      b_.tensor_tensor(first, first, on_chip_tile(columns, partitions, 1, Index(share)), alu);
    }
    b_.transpose(on_chip_tile(turned, 1, partitions), on_chip_tile(columns, partitions, 1));
    b_.tensor_reduce(out, on_chip_tile(turned, 1, partitions), alu);
  }

  const ReductionShape& s_;
  const target::Target& target_;
  const std::int64_t size_;
  const bool extreme_;
  bool propagates_nan_ = false, sums_floats_ = false;
  RowKernel k_;
  Builder& b_;
  std::vector<rows::RowTensor> tiled_, odd_;
  std::vector<std::int16_t> outputs_;
};

bool is_special(const ReductionShape& shape) {
  return shape.places || shape.variance;
}

// Of one real operand, with all results; and places are counted in fp32.
bool has_special_program(const ReductionShape& shape) {
  constexpr std::int64_t kMostExact = std::int64_t{1} << 24;
  const std::int64_t elements = shape.rows * shape.cols;
  const auto has_all_rows = [&](const Access& output) { return output.elements == shape.rows; };
  return elements > 0 && shape.inputs.size() == 1 && shape.inputs.front().elements == elements &&
         !is_complex(shape.inputs.front().dtype) && shape.prologue.empty() && !shape.outputs.empty() &&
         std::ranges::all_of(shape.outputs, has_all_rows) && (shape.variance || shape.cols <= kMostExact);
}

[[noreturn]] void refuse(const std::string& rule, const std::string& got) {
  throw Error(Category::unimplemented, "[reduction] " + rule + "; got " + got + ". Use reference numerics for it.");
}

}  // namespace

void require_executable(const ReductionShape& shape) {
  for (const Access& input : shape.inputs) {
    if (is_complex(input.dtype)) {
      refuse("complex elements are counted, not executed", std::string(target::name(input.dtype)));
    }
    if (input.elements != shape.rows * shape.cols) {
      refuse("an operand has every element that is reduced", std::to_string(input.elements));
    }
  }
  const std::size_t most = shape.places || shape.variance ? 2 : 1;
  const auto has_all_rows = [&](const Access& output) { return output.elements == shape.rows; };
  if (shape.outputs.empty() || shape.outputs.size() > most || !std::ranges::all_of(shape.outputs, has_all_rows)) {
    refuse("one value for each row is computed", std::to_string(shape.outputs.size()) + " results");
  }
  if (is_special(shape) && !has_special_program(shape)) {
    refuse("places and variances are of one operand of few columns", std::to_string(shape.cols) + " columns");
  }
  for (const auto* steps : {&shape.prologue, &shape.epilogue}) {
    require_executable(*steps);
  }
}

// HBM bytes: every input's elements read once, every output's written once.
program::Program reduction(const target::Target& target, const ReductionShape& shape) {
  if (is_special(shape) && has_special_program(shape)) {
    return shape.variance ? variance(target, shape) : extreme_places(target, shape);
  }
  return Reduction(target, shape).emit();
}

}  // namespace trn::kernels
