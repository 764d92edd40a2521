// Extremes with their places: what equals a row's extreme is marked, and the mark that lies foremost is the largest of
// marks times the distance to the row's end.
#include <limits>
#include <string>

#include "kernels/reduction.h"
#include "kernels/rows.h"

namespace trn::kernels {

using rows::Index;
using rows::Opcode;
using rows::RowKernel;
using rows::Tile;
using tiling::Builder;
using tiling::on_chip_tile;

namespace {

class ExtremePlaces {
 public:
  ExtremePlaces(const target::Target& target, const ReductionShape& shape)
      : s_(shape),
        is_float_(is_real_float(shape.inputs.front().dtype)),
        k_(target, "reduction", shape.rows, shape.cols, shape.across_partitions),
        b_(k_.builder) {
    in_.hbm = b_.hbm("in0", s_.inputs.front());
    for (std::size_t i = 0; i < s_.outputs.size(); ++i) {
      outputs_.push_back(b_.hbm("out" + std::to_string(i), s_.outputs[i], true));
    }
    const std::int64_t size = target::itemsize(tiling::sbuf_dtype(s_.inputs.front().dtype));
    k_.plan(2 * size + 2 * target::itemsize(Dtype::float32), size);
    k_.give_tile(in_);
    marks_ = k_.work("marks", Dtype::float32, 1);
    distances_ = b_.sbuf("distances", Dtype::float32, k_.partitions(), k_.chunk(), k_.resident() ? 1 : 2);
    for (auto* column : {&best_, &part_, &nearest_, &found_, &flags_, &others_}) {
      *column = k_.column("column" + std::to_string(num_columns_++));
    }
  }

  program::Program emit() {
    if (k_.resident()) {
      b_.nest("distances");
      measure_distances(Index(0), s_.cols);
    }
    k_.row_groups([&](const Index& row, std::int64_t p, std::int64_t g) {
      if (!k_.resident()) {
        const bool is_maximum = s_.alu == Alu::maximum;
        b_.memset(column(best_, p, g), (is_maximum ? -1.0F : 1.0F) * std::numeric_limits<float>::infinity());
        b_.memset(column(nearest_, p, g), static_cast<float>(s_.cols));
      }
      k_.chunks([&](const Index& col, std::int64_t width) { search(row, p, g, col, width); });
      const Tile place = column(nearest_, p, g);
      b_.tensor_scalar(place, place, Alu::multiply, -1, Alu::add, static_cast<float>(s_.cols));
      for (std::size_t i = 0; i < outputs_.size(); ++i) {
        k_.store_column(outputs_[i], i + 1 == outputs_.size() ? nearest_ : best_, row, p, g);
      }
    });
    return b_.take();
  }

 private:
  static Tile column(std::int16_t buffer, std::int64_t p, std::int64_t g) { return on_chip_tile(buffer, p, g); }

  // cols - place, for `width` places from `col` on.
  void measure_distances(const Index& col, std::int64_t width) {
    const Tile pattern = tiling::hbm_tile(-1, k_.partitions(), 0, {{width, -1}}, col * -1 + s_.cols);
    b_.emit({.opcode = Opcode::iota, .dst = on_chip_tile(distances_, k_.partitions(), width), .src = {pattern}});
  }

  void search(const Index& row, std::int64_t p, std::int64_t g, const Index& col, std::int64_t width) {
    if (!k_.resident()) {
      measure_distances(col, width);
    }
    k_.load(in_, row, p, g, col, width);
    auto all = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, {{g, k_.chunk()}, {width, 1}}); };
    const Tile x = all(in_.tile), marks = all(marks_);
    const Tile best = column(k_.resident() ? best_ : part_, p, g),
               found = column(k_.resident() ? nearest_ : found_, p, g);
    b_.tensor_reduce(best, x, s_.alu);
    if (is_float_) {  // a NaN is the extreme of its row
      b_.tensor_tensor(marks, x, x, Alu::not_equal);
      b_.tensor_reduce(column(flags_, p, g), marks, Alu::maximum);
      b_.emit({.opcode = Opcode::tensor_copy_predicated,
               .dst = best,
               .src = {best, column(flags_, p, g)},
               .scalar0 = std::numeric_limits<float>::quiet_NaN()});
    }
    k_.members(g, [&](const Index& j) {
      const Tile here = k_.row(marks_, p, j, width), value = k_.row(in_.tile, p, j, width);
      const Tile extreme = k_.scalar(best.buffer, p, j);
      if (is_float_) {
        b_.emit({.opcode = Opcode::scalar_tensor_tensor,
                 .dst = here,
                 .src = {value, here, extreme},
                 .alu0 = Alu::equal,
                 .alu1 = Alu::maximum});
      } else {
        b_.emit({.opcode = Opcode::tensor_scalar, .dst = here, .src = {value, extreme}, .alu0 = Alu::equal});
      }
    });
    b_.tensor_tensor(marks, marks, on_chip_tile(distances_, p, {{g, 0}, {width, 1}}), Alu::multiply);
    b_.tensor_reduce(found, marks, Alu::maximum);
    if (!k_.resident()) {
      keep_better(p, g);
    }
  }

  // What the chunks before have found stays, unless this one has a better one, or the first NaN.
  void keep_better(std::int64_t p, std::int64_t g) {
    const Tile best = column(best_, p, g), part = column(part_, p, g), better = column(flags_, p, g);
    b_.tensor_tensor(better, part, best, s_.alu == Alu::maximum ? Alu::greater : Alu::less);
    if (is_float_) {
      const Tile other = column(others_, p, g);
      b_.tensor_tensor(other, part, part, Alu::not_equal);
      b_.tensor_tensor(better, better, other, Alu::maximum);
      b_.tensor_tensor(other, best, best, Alu::equal);
      b_.tensor_tensor(better, better, other, Alu::multiply);
    }
    b_.emit({.opcode = Opcode::select, .dst = best, .src = {better, part, best}});
    const Tile nearest = column(nearest_, p, g);
    b_.emit({.opcode = Opcode::select, .dst = nearest, .src = {better, column(found_, p, g), nearest}});
  }

  const ReductionShape& s_;
  const bool is_float_;
  RowKernel k_;
  Builder& b_;
  rows::RowTensor in_;
  std::vector<std::int16_t> outputs_;
  std::int16_t marks_ = -1, distances_ = -1;
  std::int16_t best_ = -1, part_ = -1, nearest_ = -1, found_ = -1, flags_ = -1, others_ = -1;
  int num_columns_ = 0;
};

}  // namespace

program::Program extreme_places(const target::Target& target, const ReductionShape& shape) {
  return ExtremePlaces(target, shape).emit();
}

}  // namespace trn::kernels
