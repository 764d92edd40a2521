// Launches whose elements meet by their places alone: boxes that move, taps that add up, bands of matrices, ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "program/program.h"
#include "target/dtype.h"

namespace trn::kernels {

using program::Alu;
using target::Dtype;

// One axis of a box of elements, with its strides on both sides. Reversed: src is read from the axis' end.
struct BoxAxis {
  std::int64_t size = 1, from = 0, to = 0;
  bool reversed = false;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("size", s.size);
    v("from", s.from);
    v("to", s.to);
    v("reversed", s.reversed);
  }
};
// A box of elements moved between two layouts: flips, rolls, repetitions, shuffles. The offsets are of its first
// element in dst, and of the one that lies foremost in src.
struct BoxShape {
  Dtype src_dtype = Dtype::float32, dst_dtype = Dtype::float32;
  std::int64_t src_elements = 0, dst_elements = 0;  // of the whole tensors
  std::int64_t src_offset = 0, dst_offset = 0;
  std::vector<BoxAxis> axes;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("src_dtype", s.src_dtype);
    v("dst_dtype", s.dst_dtype);
    v("src_elements", s.src_elements);
    v("dst_elements", s.dst_elements);
    v("src_offset", s.src_offset);
    v("dst_offset", s.dst_offset);
    v("axes", s.axes);
  }
};

// A run of taps of one weight: output to + i * to_step takes weight * input from + i * from_step, for i in 0 .. count.
struct TapRun {
  std::int64_t to = 0, to_step = 1, from = 0, from_step = 1, count = 1;
  float weight = 1;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("to", s.to);
    v("to_step", s.to_step);
    v("from", s.from);
    v("from_step", s.from_step);
    v("count", s.count);
    v("weight", s.weight);
  }
};
// Each output along one axis is a weighted sum of inputs along it: interpolation, averages, their gradients. From
// [outer, in, inner] to [outer, out, inner]. Taps add up in the order of `runs`; an output without one is 0.
struct TapsShape {
  std::int64_t outer = 1, in = 0, out = 0, inner = 1;
  Dtype src_dtype = Dtype::float32, dst_dtype = Dtype::float32;
  std::vector<TapRun> runs;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("outer", s.outer);
    v("in", s.in);
    v("out", s.out);
    v("inner", s.inner);
    v("src_dtype", s.src_dtype);
    v("dst_dtype", s.dst_dtype);
    v("runs", s.runs);
  }
};

// The elements of [matrices, rows, cols] whose diagonal is one of `least` to `most`, counted from the lowest: that of
// an element is col - row + rows - 1. The others are 0. Without an input, the elements are 1.
struct BandShape {
  std::int64_t matrices = 1, rows = 0, cols = 0, least = 0, most = 0;
  Dtype dtype = Dtype::float32;
  bool has_input = true;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("matrices", s.matrices);
    v("rows", s.rows);
    v("cols", s.cols);
    v("least", s.least);
    v("most", s.most);
    v("dtype", s.dtype);
    v("has_input", s.has_input);
  }
};

// For each of `queries` values how many of `length` keys there are for which alu(query, key) is false; with `any`,
// whether there is one for which it is true. `tables` of keys, each with its own queries.
struct RankShape {
  std::int64_t tables = 1, length = 0, queries = 0;
  Dtype key_dtype = Dtype::float32, query_dtype = Dtype::float32, out_dtype = Dtype::int64;
  Alu alu = Alu::less;
  bool any = false;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("tables", s.tables);
    v("length", s.length);
    v("queries", s.queries);
    v("key_dtype", s.key_dtype);
    v("query_dtype", s.query_dtype);
    v("out_dtype", s.out_dtype);
    v("alu", s.alu);
    v("any", s.any);
  }
};

}  // namespace trn::kernels
