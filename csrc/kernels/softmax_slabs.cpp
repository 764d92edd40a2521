// Columns lie side by side in a tile, [128, cols x rows]: reduced along the outer one of its free axes.
#include "kernels/softmax_layouts.h"

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/tiling.h"

namespace trn::kernels {

using tiling::Dim;
using tiling::on_chip_tile;
using tiling::Opcode;
using tiling::StreamTile;
using tiling::Tile;

namespace {

class Slabs {
 public:
  Slabs(const target::Target& target, const SoftmaxShape& shape)
      : target_(target),
        s_(shape),
        b_(std::string(shape.log ? "log_softmax" : "softmax") + (shape.backward ? "_backward" : "")) {}

  program::Program emit() {
    const std::int64_t elements = s_.rows * s_.cols;
    const auto hbm = [&](const char* name, Dtype dtype, bool is_output) {
      return b_.hbm(name, dtype, elements, is_output);
    };
    if (s_.backward) {
      inputs_ = {hbm("grad_out", s_.in_dtype, false), hbm("out", s_.in_dtype, false)};
    } else {
      inputs_ = {hbm("in", s_.in_dtype, false)};
    }
    result_ = hbm(s_.backward ? "grad_in" : "out", s_.out_dtype, true);
    declare();
    tiling::stream(b_, target_, s_.rows, free_, [&](const StreamTile& rows) {
      rows_ = &rows;
      for (std::size_t i = 0; i < inputs_.size(); ++i) {
        b_.dma(slab(tiles_[i]), in_hbm(inputs_[i]));
      }
      if (s_.backward) {
        backward();
      } else {
        forward();
      }
      b_.dma(in_hbm(result_), slab(out_));
    });
    return b_.take();
  }

 private:
  void declare() {
    const Dtype in = tiling::sbuf_dtype(s_.in_dtype), out = tiling::sbuf_dtype(s_.out_dtype);
    const bool needs_both = s_.log && !s_.backward;
    const auto num_inputs = static_cast<std::int64_t>(inputs_.size());
    const std::int64_t of_a_column =
        2 * num_inputs * itemsize(in) + 2 * itemsize(out) + (needs_both ? 2 : 1) * itemsize(Dtype::float32);
    free_ = tiling::stream_free_elements(target_, s_.rows, std::min(itemsize(in), itemsize(out)),
                                         s_.cols * of_a_column + 2 * itemsize(Dtype::float32));
    const auto sbuf = [&](const std::string& name, Dtype dtype, std::int64_t columns, std::int64_t copies) {
      return b_.sbuf(name, dtype, target_.core.num_partitions, columns * free_, copies);
    };
    for (const std::int16_t input : inputs_) {
      tiles_.push_back(sbuf(b_.name(input) + "_tile", in, s_.cols, 2));
    }
    out_ = sbuf(b_.name(result_) + "_tile", out, s_.cols, 2);
    work_ = sbuf("work", Dtype::float32, s_.cols, 1);
    exps_ = needs_both ? sbuf("exps", Dtype::float32, s_.cols, 1) : work_;
    sum_ = sbuf("sum", Dtype::float32, 1, 1);
    peak_ = sbuf("max", Dtype::float32, 1, 1);
  }

  // e = exp(x - max), and x - max - log(sum e) or e / sum e.
  void forward() {
    const Tile x = slab(tiles_[0]), shifted = slab(work_), e = slab(exps_);
    b_.tensor_reduce(column(peak_), turned(tiles_[0]), Alu::maximum);
    b_.tensor_tensor(shifted, x, in_all_columns(peak_), Alu::subtract);
    b_.activation(e, shifted, Activation::exp);
    b_.tensor_reduce(column(sum_), turned(exps_), Alu::add);
    if (s_.log) {
      b_.activation(column(sum_), column(sum_), Activation::log);
      b_.tensor_tensor(slab(out_), shifted, in_all_columns(sum_), Alu::subtract);
    } else {
      b_.emit({.opcode = Opcode::reciprocal, .dst = column(sum_), .src = {column(sum_)}});
      b_.tensor_tensor(slab(out_), e, in_all_columns(sum_), Alu::multiply);
    }
  }

  // y (g - sum(g y)), or g - exp(y) sum(g).
  void backward() {
    const Tile grad = slab(tiles_[0]), y = slab(tiles_[1]), work = slab(work_);
    if (s_.log) {
      b_.tensor_reduce(column(sum_), turned(tiles_[0]), Alu::add);
      b_.activation(work, y, Activation::exp);
      b_.tensor_tensor(work, work, in_all_columns(sum_), Alu::multiply);
      b_.tensor_tensor(slab(out_), grad, work, Alu::subtract);
    } else {
      b_.tensor_tensor(work, grad, y, Alu::multiply);
      b_.tensor_reduce(column(sum_), turned(work_), Alu::add);
      b_.tensor_tensor(work, grad, in_all_columns(sum_), Alu::subtract);
      b_.tensor_tensor(slab(out_), work, y, Alu::multiply);
    }
  }

  Tile tile(std::int16_t buffer, std::vector<Dim> dims) const {
    return on_chip_tile(buffer, rows_->partitions, std::move(dims));
  }
  Tile slab(std::int16_t buffer) const { return tile(buffer, {{s_.cols, rows_->free}, {rows_->free, 1}}); }
  Tile turned(std::int16_t buffer) const { return tile(buffer, {{rows_->free, 1}, {s_.cols, rows_->free}}); }
  Tile column(std::int16_t buffer) const { return tile(buffer, {{rows_->free, 1}}); }
  Tile in_all_columns(std::int16_t buffer) const { return tile(buffer, {{s_.cols, 0}, {rows_->free, 1}}); }
  Tile in_hbm(std::int16_t buffer) const {
    return tiling::hbm_tile(buffer, rows_->partitions, rows_->free, {{s_.cols, s_.rows}, {rows_->free, 1}},
                            rows_->first);
  }

  const target::Target& target_;
  const SoftmaxShape& s_;
  tiling::Builder b_;
  std::int64_t free_ = 0;  // rows of a partition
  std::vector<std::int16_t> inputs_, tiles_;
  std::int16_t result_ = -1, out_ = -1, work_ = -1, exps_ = -1, sum_ = -1, peak_ = -1;
  const StreamTile* rows_ = nullptr;  // those being emitted
};

}  // namespace

program::Program softmax_slabs(const target::Target& target, const SoftmaxShape& shape) {
  return Slabs(target, shape).emit();
}

}  // namespace trn::kernels
