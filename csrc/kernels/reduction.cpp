// Reductions of the rows of a matrix: along the free axis, across partitions, or of few long rows.
#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "kernels/executable.h"
#include "kernels/reduction_layouts.h"
#include "program/count.h"
#include "target/error.h"

namespace trn::kernels {

using rows::Index;
using rows::Opcode;
using rows::Tile;
using tiling::on_chip_tile;
using tiling::StreamTile;

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

Reduction::Reduction(const target::Target& target, const ReductionShape& shape)
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

program::Program Reduction::emit(rows::Layout layout) {
  if (!is_empty()) {
    plan();
    read_odd_inputs();
    if (layout == rows::Layout::slabs) {
      slabs();
    } else if (layout == rows::Layout::spread && s_.across_partitions) {
      spread_columns();
    } else if (layout == rows::Layout::spread) {
      spread();
    } else if (sums_floats_ && s_.across_partitions && is_narrow()) {
      sum_narrow();
    } else if (sums_floats_ && s_.across_partitions) {
      sum_across();
    } else {
      along_rows();
    }
  }
  write_odd_outputs();
  return b_.take();
}

void Reduction::give_tiles(std::int64_t free) {
  for (auto& tensor : tiled_) {
    tensor.tile = b_.sbuf("tile" + std::to_string(tensor.hbm), tiling::sbuf_dtype(b_.dtype(tensor.hbm)),
                          target_.core.num_partitions, free);
  }
}

std::int64_t Reduction::smallest_itemsize() const {
  std::int64_t smallest = itemsize(Dtype::float32);
  for (const auto& input : s_.inputs) {
    smallest = std::min(smallest, itemsize(tiling::sbuf_dtype(input.dtype)));
  }
  return smallest;
}

std::int64_t Reduction::bytes_per_element() const {
  std::int64_t bytes = (num_values() + 1) * itemsize(Dtype::float32);
  for (const auto& input : s_.inputs) {
    bytes += input.elements == size_ ? 2 * itemsize(tiling::sbuf_dtype(input.dtype)) : 0;
  }
  return bytes;
}

void Reduction::plan() {
  std::int64_t odd_bytes = 0;
  for (const auto& tensor : odd_) {
    const Dtype dtype = tiling::sbuf_dtype(b_.dtype(tensor.hbm));
    odd_bytes += itemsize(dtype) * odd_free(dtype);
  }
  k_.plan(bytes_per_element(), smallest_itemsize(), odd_bytes + 64 * itemsize(Dtype::float32));
}

void Reduction::read_odd_inputs() {
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

void Reduction::write_odd_outputs() {
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

void Reduction::mask_nan(const Tile& mask, const Tile& source, const Tile& column) {
  if (propagates_nan_) {
    b_.tensor_tensor(mask, source, source, Alu::not_equal);
    b_.tensor_reduce(column, mask, Alu::maximum);
  }
}

void Reduction::along_rows() {
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

void Reduction::combine(const Tile& total, const Tile& part, const Tile& nan_total, const Tile& nan_part) {
  b_.tensor_tensor(total, total, part, s_.alu);
  if (propagates_nan_) {
    b_.tensor_tensor(nan_total, nan_total, nan_part, Alu::maximum);
  }
}
void Reduction::finish_nan(const Tile& total, const Tile& nan_total) {
  if (propagates_nan_) {
    b_.emit({.opcode = Opcode::tensor_copy_predicated,
             .dst = total,
             .src = {total, nan_total},
             .scalar0 = std::numeric_limits<float>::quiet_NaN()});
  }
}
void Reduction::finish(const Tile& total) {
  if (!s_.epilogue.empty()) {
    tiling::apply_steps(b_, s_.epilogue, {total}, {total}, {total});
  }
}

namespace {

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
  const bool special = is_special(shape) && has_special_program(shape);
  const auto emit = [&](rows::Layout layout) {
    if (special) {
      return shape.variance ? variance(target, shape, layout) : extreme_places(target, shape, layout);
    }
    return Reduction(target, shape).emit(layout);
  };
  program::Program program = emit(rows::Layout::rows);
  if (shape.across_partitions && !special && rows::may_be_slabs(target.core, shape.rows, shape.cols)) {
    return program::faster(std::move(program), emit(rows::Layout::slabs), target);
  }
  // TensorE adds up floats that lie across partitions as they come.
  const bool sums_columns = shape.across_partitions && !special && shape.alu == Alu::add && !shape.inputs.empty() &&
                            is_real_float(shape.inputs.front().dtype);
  if (!sums_columns && rows::may_spread(target, shape.rows, shape.cols, shape.across_partitions)) {
    return program::faster(std::move(program), emit(rows::Layout::spread), target);
  }
  return program;
}

}  // namespace trn::kernels
