// softmax and log_softmax of each row of a matrix, forward and backward.
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/rows.h"
#include "kernels/softmax_layouts.h"
#include "program/count.h"
#include "target/error.h"

namespace trn::kernels {

using rows::Index;
using rows::Opcode;
using rows::RowKernel;
using rows::RowTensor;
using rows::Tile;

namespace {

// e = exp(x - max), l = sum(e) where the row fits; online over chunks where it does not.
program::Program forward(const target::Target& target, const SoftmaxShape& s) {
  RowKernel k(target, s.log ? "log_softmax" : "softmax", s.rows, s.cols, s.across_partitions);
  auto& b = k.builder;
  RowTensor x = k.tensor("in", s.in_dtype), out = k.tensor("out", s.out_dtype, true);
  const auto in_bytes = itemsize(tiling::sbuf_dtype(s.in_dtype)), out_bytes = itemsize(tiling::sbuf_dtype(s.out_dtype));
  k.plan(2 * (in_bytes + out_bytes + itemsize(Dtype::float32)), std::min(in_bytes, out_bytes));
  k.give_tile(x);
  k.give_tile(out);
  const auto exps = k.work("exps", Dtype::float32);
  const auto peak = k.column("max"), part = k.column("chunk_max"), shift = k.column("minus_max");
  const auto sum = k.column("sum"), part_sum = k.column("chunk_sum"), factor = k.column("factor");

  auto first_pass = [&](std::int64_t p, const Index& j, std::int64_t width) {
    auto column = [&](std::int16_t buffer) { return k.scalar(buffer, p, j); };
    const Tile row = k.row(x.tile, p, j, width), e = k.row(exps, p, j, width);
    if (k.resident()) {
      b.tensor_reduce(column(peak), row, Alu::maximum);
      b.tensor_scalar(column(shift), column(peak), Alu::multiply, -1);
      rows::activation_reduce(b, e, column(sum), row, Activation::exp, {.bias = column(shift)});
      return;
    }
    b.tensor_reduce(column(part), row, Alu::maximum);
    b.tensor_tensor(column(part), column(part), column(peak), Alu::maximum);
    b.tensor_scalar(column(shift), column(part), Alu::multiply, -1);
    rows::activation(b, column(factor), column(peak), Activation::exp, {.bias = column(shift)});
    rows::activation_reduce(b, e, column(part_sum), row, Activation::exp, {.bias = column(shift)});
    rows::op(b, Opcode::scalar_tensor_tensor, column(sum), {column(sum), column(part_sum), column(factor)},
             Alu::multiply, Alu::add);
    b.tensor_copy(column(peak), column(part));
  };
  auto between = [&](std::int64_t p, const Index& j) {
    if (s.log) {
      b.activation(k.scalar(factor, p, j), k.scalar(sum, p, j), Activation::log);
    } else {
      rows::op(b, Opcode::reciprocal, k.scalar(factor, p, j), {k.scalar(sum, p, j)});
    }
  };
  auto second_pass = [&](std::int64_t p, const Index& j, std::int64_t width) {
    const Tile row = k.row(x.tile, p, j, width), e = k.row(exps, p, j, width), result = k.row(out.tile, p, j, width);
    if (s.log) {
      rows::op(b, Opcode::tensor_scalar, result, {row, k.scalar(shift, p, j), k.scalar(factor, p, j)}, Alu::add,
               Alu::subtract);
      return;
    }
    if (!k.resident()) {
      rows::activation(b, e, row, Activation::exp, {.bias = k.scalar(shift, p, j)});
    }
    rows::op(b, Opcode::tensor_scalar, result, {e, k.scalar(factor, p, j)}, Alu::multiply);
  };

  k.row_groups([&](const Index& row, std::int64_t p, std::int64_t g) {
    if (!k.resident()) {
      k.members(g, [&](const Index& j) {
        b.memset(k.scalar(peak, p, j), std::numeric_limits<float>::lowest());
        b.memset(k.scalar(sum, p, j), 0);
      });
    }
    k.chunks([&](const Index& col, std::int64_t width) {
      k.load(x, row, p, g, col, width);
      k.members(g, [&](const Index& j) { first_pass(p, j, width); });
    });
    k.members(g, [&](const Index& j) { between(p, j); });
    k.chunks([&](const Index& col, std::int64_t width) {
      if (!k.resident()) {
        k.load(x, row, p, g, col, width);
      }
      k.members(g, [&](const Index& j) { second_pass(p, j, width); });
      k.store(out, row, p, g, col, width);
    });
  });
  return b.take();
}

// softmax: y (g - sum(g y)); log_softmax: g - exp(y) sum(g).
program::Program backward(const target::Target& target, const SoftmaxShape& s) {
  RowKernel k(target, s.log ? "log_softmax_backward" : "softmax_backward", s.rows, s.cols, s.across_partitions);
  auto& b = k.builder;
  RowTensor grad = k.tensor("grad_out", s.in_dtype), y = k.tensor("out", s.in_dtype);
  RowTensor result = k.tensor("grad_in", s.out_dtype, true);
  const auto in_bytes = itemsize(tiling::sbuf_dtype(s.in_dtype)), out_bytes = itemsize(tiling::sbuf_dtype(s.out_dtype));
  k.plan(2 * (2 * in_bytes + out_bytes + itemsize(Dtype::float32)), std::min(in_bytes, out_bytes));
  k.give_tile(grad);
  k.give_tile(y);
  k.give_tile(result);
  const auto work = k.work("product", Dtype::float32);
  const auto sum = k.column("sum"), part = k.column("chunk_sum");

  auto load = [&](const Index& row, std::int64_t p, std::int64_t g, const Index& col, std::int64_t width) {
    k.load(grad, row, p, g, col, width);
    k.load(y, row, p, g, col, width);
  };
  k.row_groups([&](const Index& row, std::int64_t p, std::int64_t g) {
    if (!k.resident()) {
      k.members(g, [&](const Index& j) { b.memset(k.scalar(sum, p, j), 0); });
    }
    k.chunks([&](const Index& col, std::int64_t width) {
      // log_softmax needs only the gradient's sum here.
      k.load(grad, row, p, g, col, width);
      if (k.resident() || !s.log) {
        k.load(y, row, p, g, col, width);
      }
      k.members(g, [&](const Index& j) {
        const Tile target_column = k.scalar(k.resident() ? sum : part, p, j);
        if (s.log) {
          b.tensor_reduce(target_column, k.row(grad.tile, p, j, width), Alu::add);
        } else {
          b.tensor_tensor(k.row(work, p, j, width), k.row(grad.tile, p, j, width), k.row(y.tile, p, j, width),
                          Alu::multiply);
          b.tensor_reduce(target_column, k.row(work, p, j, width), Alu::add);
        }
        if (!k.resident()) {
          b.tensor_tensor(k.scalar(sum, p, j), k.scalar(sum, p, j), k.scalar(part, p, j), Alu::add);
        }
      });
    });
    if (s.log) {
      k.members(g,
                [&](const Index& j) { b.tensor_scalar(k.scalar(sum, p, j), k.scalar(sum, p, j), Alu::multiply, -1); });
    }
    k.chunks([&](const Index& col, std::int64_t width) {
      if (!k.resident()) {
        load(row, p, g, col, width);
      }
      k.members(g, [&](const Index& j) {
        const Tile g_row = k.row(grad.tile, p, j, width), y_row = k.row(y.tile, p, j, width);
        const Tile out_row = k.row(result.tile, p, j, width), column = k.scalar(sum, p, j);
        if (s.log) {
          b.activation(k.row(work, p, j, width), y_row, Activation::exp);
          rows::op(b, Opcode::scalar_tensor_tensor, out_row, {k.row(work, p, j, width), g_row, column}, Alu::multiply,
                   Alu::add);
        } else {
          rows::op(b, Opcode::scalar_tensor_tensor, out_row, {g_row, y_row, column}, Alu::subtract, Alu::multiply);
        }
      });
      k.store(result, row, p, g, col, width);
    });
  });
  return b.take();
}

}  // namespace

void require_executable(const SoftmaxShape& shape) {
  for (const Dtype dtype : {shape.in_dtype, shape.out_dtype}) {
    if (!is_real_float(dtype)) {
      throw Error(Category::unimplemented, "[softmax] elements are real floating-point numbers; got " +
                                               std::string(target::name(dtype)) + ". Use reference numerics for it.");
    }
  }
}

// HBM bytes: rows * cols * (n * in + out); forward n = 1, or 2 where a row does not fit in SBUF; backward n = 2, or
// 4 (log: 3).
program::Program softmax(const target::Target& target, const SoftmaxShape& shape) {
  program::Program program = shape.backward ? backward(target, shape) : forward(target, shape);
  std::optional<program::Program> other;
  if (shape.across_partitions && rows::may_be_slabs(target.core, shape.rows, shape.cols)) {
    other = softmax_slabs(target, shape);
  } else if (!shape.across_partitions && rows::may_spread(target, shape.rows, shape.cols)) {
    other = softmax_spread(target, shape);
  }
  return other ? program::faster(std::move(program), std::move(*other), target) : std::move(program);
}

}  // namespace trn::kernels
