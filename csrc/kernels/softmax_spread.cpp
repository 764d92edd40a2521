// A row lies over all partitions: its maximum passes through one of them, its sum through TensorE.
#include <limits>
#include <string>
#include <vector>

#include "kernels/softmax_layouts.h"
#include "kernels/spread_rows.h"

namespace trn::kernels {

using rows::Opcode;
using rows::SpreadRows;
using tiling::Index;
using tiling::on_chip_tile;
using tiling::Tile;

namespace {

SpreadRows::Needs needs(const target::Target& target, const SoftmaxShape& s) {
  const std::int64_t bytes = (s.backward ? 2 : 1) * itemsize(tiling::sbuf_dtype(s.in_dtype)) +
                             itemsize(tiling::sbuf_dtype(s.out_dtype)) + itemsize(Dtype::float32);
  return {.element_bytes = bytes, .lines = target.core.num_partitions + 1};
}

class Spread {
 public:
  Spread(const target::Target& target, const SoftmaxShape& shape)
      : s_(shape),
        k_(target, std::string(shape.log ? "log_softmax" : "softmax") + (shape.backward ? "_backward" : ""), shape.rows,
           shape.cols, needs(target, shape)),
        b_(k_.builder) {}

  bool fits() const { return k_.fit(); }

  program::Program emit() {
    const auto access = [&](Dtype dtype) {
      const std::int64_t elements = s_.rows * s_.cols;
      return Access{.dtype = dtype, .elements = elements, .contiguous_elements = elements};
    };
    if (s_.backward) {
      inputs_ = {k_.tensor("grad_out", access(s_.in_dtype)), k_.tensor("out", access(s_.in_dtype))};
    } else {
      inputs_ = {k_.tensor("in", access(s_.in_dtype))};
    }
    result_ = k_.tensor(s_.backward ? "grad_in" : "out", access(s_.out_dtype), true);
    give_tiles();
    b_.nest("ones");
    b_.memset(on_chip_tile(ones_, k_.partitions(), k_.partitions()), 1);
    // What is outside of a row changes neither its maximum nor its sum.
    const float outside = s_.backward ? 0 : -std::numeric_limits<float>::infinity();
    k_.groups([&](const Index& row, std::int64_t count) {
      for (const auto& input : inputs_) {
        k_.load(input, row, count, outside);
      }
      if (s_.backward) {
        backward(count);
      } else {
        forward(count);
      }
      k_.store(result_, row, count);
    });
    return b_.take();
  }

 private:
  void give_tiles() {
    for (auto& input : inputs_) {
      k_.give_tile(input);
    }
    k_.give_tile(result_);
    work_ = k_.work("work", Dtype::float32);
    part_ = k_.column("part");
    shift_ = k_.column("minus_max");
    factor_ = k_.column("factor");
    line_ = k_.line("line", k_.partitions());
    peak_ = k_.line("max", 1);
    ones_ = b_.sbuf("ones", Dtype::float32, k_.partitions(), k_.partitions(), 1);
    on_all_ = b_.psum("on_all_partitions", Dtype::float32, k_.partitions(), k_.together());
  }

  // The rows' sums of the parts that partitions have, on all of them.
  Tile total(std::int64_t count) {
    const Tile sum = k_.columns(on_all_, count);
    b_.matmul(sum, on_chip_tile(ones_, k_.partitions(), k_.partitions()), k_.columns(part_, count));
    return sum;
  }

  void forward(std::int64_t count) {
    const std::int64_t partitions = k_.partitions();
    const std::int16_t x = inputs_.front().tile;
    const Tile factor = k_.columns(factor_, count), peak = on_chip_tile(peak_, 1, count);
    b_.tensor_reduce(k_.columns(part_, count), k_.by_row(x, count), Alu::maximum);
    b_.dma(on_chip_tile(line_, 1, partitions * count), k_.columns(part_, count));
    b_.tensor_reduce(peak, on_chip_tile(line_, 1, {{count, 1}, {partitions, count}}), Alu::maximum);
    b_.tensor_scalar(peak, peak, Alu::multiply, -1);
    b_.matmul(k_.columns(on_all_, count), on_chip_tile(ones_, 1, partitions), peak);  // one term, so that it is exact
    b_.tensor_copy(k_.columns(shift_, count), k_.columns(on_all_, count));
    b_.loop(count, [&](const Index& r) {
      rows::activation_reduce(b_, k_.row(work_, r), k_.scalar(part_, r), k_.row(x, r), Activation::exp,
                              {.bias = k_.scalar(shift_, r)});
    });
    if (s_.log) {
      b_.activation(factor, total(count), Activation::log);
    } else {
      rows::op(b_, Opcode::reciprocal, factor, {total(count)});
    }
    b_.loop(count, [&](const Index& r) {
      const Tile out = k_.row(result_.tile, r);
      if (s_.log) {
        rows::op(b_, Opcode::tensor_scalar, out, {k_.row(x, r), k_.scalar(shift_, r), k_.scalar(factor_, r)}, Alu::add,
                 Alu::subtract);
      } else {
        rows::op(b_, Opcode::tensor_scalar, out, {k_.row(work_, r), k_.scalar(factor_, r)}, Alu::multiply);
      }
    });
  }

  // softmax: y (g - sum(g y)); log_softmax: g - exp(y) sum(g).
  void backward(std::int64_t count) {
    const std::int16_t grad = inputs_[0].tile, y = inputs_[1].tile;
    const Tile work = k_.all(work_, count), factor = k_.columns(factor_, count);
    if (s_.log) {
      b_.tensor_reduce(k_.columns(part_, count), k_.by_row(grad, count), Alu::add);
      b_.tensor_scalar(factor, total(count), Alu::multiply, -1);
      b_.activation(work, k_.all(y, count), Activation::exp);
    } else {
      b_.tensor_tensor(work, k_.all(grad, count), k_.all(y, count), Alu::multiply);
      b_.tensor_reduce(k_.columns(part_, count), k_.by_row(work_, count), Alu::add);
      b_.tensor_copy(factor, total(count));
    }
    b_.loop(count, [&](const Index& r) {
      const Tile out = k_.row(result_.tile, r), g = k_.row(grad, r), scalar = k_.scalar(factor_, r);
      if (s_.log) {
        rows::op(b_, Opcode::scalar_tensor_tensor, out, {k_.row(work_, r), g, scalar}, Alu::multiply, Alu::add);
      } else {
        rows::op(b_, Opcode::scalar_tensor_tensor, out, {g, k_.row(y, r), scalar}, Alu::subtract, Alu::multiply);
      }
    });
  }

  const SoftmaxShape& s_;
  SpreadRows k_;
  tiling::Builder& b_;
  std::vector<rows::RowTensor> inputs_;
  rows::RowTensor result_;
  std::int16_t work_ = -1, part_ = -1, shift_ = -1, factor_ = -1, ones_ = -1, line_ = -1, peak_ = -1, on_all_ = -1;
};

}  // namespace

std::optional<program::Program> softmax_spread(const target::Target& target, const SoftmaxShape& shape) {
  Spread spread(target, shape);
  return spread.fits() ? std::optional(spread.emit()) : std::nullopt;
}

}  // namespace trn::kernels
