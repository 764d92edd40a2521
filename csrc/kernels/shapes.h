// What a kernel family is asked to do: shapes in, with no torch and no values. A ledger stores these and re-costs them.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "kernels/place_shapes.h"
#include "program/program.h"
#include "target/dtype.h"

namespace trn::kernels {

using program::Activation;
using target::is_complex;
using target::is_real_float;

// How an operator touches one of its tensors in HBM.
struct Access {
  Dtype dtype = Dtype::float32;
  std::int64_t elements = 0;             // touched: what is broadcast once, windows that overlap whole
  std::int64_t contiguous_elements = 0;  // length of the contiguous runs; == elements when dense
  std::int64_t span_elements = 0;        // with the gaps after its runs, all of one length; 0: they differ, or none
  template <class V>
  static void visit(V&& v, auto& s) {
    v("dtype", s.dtype);
    v("elements", s.elements);
    v("contiguous_elements", s.contiguous_elements);
    v("span_elements", s.span_elements);
  }
};

// out[b, m, n] = alpha sum_k a[b, m, k] b[b, k, n] (+ beta bias).
struct MatmulShape {
  std::int64_t batch = 1, m = 0, n = 0, k = 0;
  Dtype a_dtype = Dtype::float32, b_dtype = Dtype::float32, out_dtype = Dtype::float32;
  bool a_k_major = false;                 // a is laid out [k, m]: no transpose needed for the stationary operand
  bool b_k_major = true;                  // b is laid out [k, n]: no transpose needed for the moving operand
  std::int64_t a_batch = 1, b_batch = 1;  // distinct matrices, 1 when one serves every batch
  std::vector<std::int64_t> bias;         // sizes of what is added, by [batch, m, n], 1: broadcast; empty: none
  float alpha = 1, beta = 1;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("batch", s.batch);
    v("m", s.m);
    v("n", s.n);
    v("k", s.k);
    v("a_dtype", s.a_dtype);
    v("b_dtype", s.b_dtype);
    v("out_dtype", s.out_dtype);
    v("a_k_major", s.a_k_major);
    v("b_k_major", s.b_k_major);
    v("a_batch", s.a_batch);
    v("b_batch", s.b_batch);
    v("bias", s.bias);
    v("alpha", s.alpha);
    v("beta", s.beta);
  }
};

enum class ConvDirection : std::uint8_t { forward, input_gradient, weight_gradient };
// Spatial vectors have one entry per spatial axis (1, 2 or 3). A transposed convolution's forward is an input_gradient
// over the same geometry, and is passed as such; `in` is always the larger-resolution side of the plain convolution.
struct ConvShape {
  ConvDirection direction = ConvDirection::forward;
  std::int64_t batch = 1, in_channels = 0, out_channels = 0, groups = 1;
  std::vector<std::int64_t> in, out, kernel, stride, padding, dilation;
  Dtype dtype = Dtype::float32;
  bool bias = false;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("direction", s.direction);
    v("batch", s.batch);
    v("in_channels", s.in_channels);
    v("out_channels", s.out_channels);
    v("groups", s.groups);
    v("in", s.in);
    v("out", s.out);
    v("kernel", s.kernel);
    v("stride", s.stride);
    v("padding", s.padding);
    v("dilation", s.dilation);
    v("dtype", s.dtype);
    v("bias", s.bias);
  }
};

// Fused attention: softmax(scale q k^T + mask) v. q [batch, q_len, heads, head_dim]; k, v [batch, kv_len, kv_heads,
// head_dim | value_dim]; log-sum-exp [batch, heads, q_len].
struct AttentionShape {
  std::int64_t batch = 1, heads = 1, kv_heads = 1, q_len = 0, kv_len = 0, head_dim = 0, value_dim = 0;
  Dtype dtype = Dtype::float32;
  bool causal = false, backward = false;
  float dropout = 0;  // probability that a pair is dropped
  float scale = 1;
  // An additive mask's sizes by [batch, heads, q_len, kv_len], 1 where it is broadcast; empty: none.
  std::vector<std::int64_t> mask;
  Dtype mask_dtype = Dtype::float32;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("batch", s.batch);
    v("heads", s.heads);
    v("kv_heads", s.kv_heads);
    v("q_len", s.q_len);
    v("kv_len", s.kv_len);
    v("head_dim", s.head_dim);
    v("value_dim", s.value_dim);
    v("dtype", s.dtype);
    v("causal", s.causal);
    v("backward", s.backward);
    v("dropout", s.dropout);
    v("scale", s.scale);
    v("mask", s.mask);
    v("mask_dtype", s.mask_dtype);
  }
};

// One engine instruction that a pointwise function takes per element. Steps act on a running value v, empty at first.
// A step takes v where it has one, and further operands `next` from the inputs in order; when all inputs are used, the
// first again. A step that needs v and finds it empty takes the next input instead.
//   tensor_tensor           v = alu(v, next)                    add(a, b): one step
//   scalar_tensor_tensor    v = alu(v, scalar * next)           add(a, b, alpha=scalar)
//   tensor_scalar           v = alu(v, scalar)
//   activation              v = function(v + scalar)
//   reciprocal              v = 1 / v
//   tensor_copy             v = v, cast to the output
//   select                  v = v ? next : next                 where(c, a, b); v ? next : scalar with one input left
//   tensor_copy_predicated  v = next ? scalar : v               masked_fill(a, mask, scalar)
//   memset, iota, rng       v = scalar; scalar + index of the element; uniform [0, 1). They take no input.
// The last J steps write the J outputs in order, cast to their dtypes; all others keep v in fp32. Missing steps are
// tensor_copy. A broadcast input of n elements has period n: iteration element i reads element i % n. Other opcodes
// may be listed for their cost; they do not execute.
//
// Functions with more than one intermediate name their operands: a step with a `dst` writes an output or a temporary
// (fp32), and reads what a, b and c name; all steps of a list name theirs, or none does. Then
//   tensor_tensor           dst = alu(a, b)
//   tensor_scalar           dst = alu1(alu(a, scalar), scalar1)
//   scalar_tensor_tensor    dst = alu1(alu(a, scalar), b)
//   activation              dst = function(scalar1 * a + scalar)
//   select                  dst = a ? b : c, or a ? b : scalar
//   tensor_copy_predicated  dst = b ? scalar : a
//   memset, iota, rng, reciprocal, tensor_copy, affine_select as above
struct Step {
  // Operands by number.
  static constexpr std::int64_t kUnnamed = 0, kInput = 1, kTemporary = 64, kOutput = 96;

  program::Opcode opcode = program::Opcode::tensor_tensor;
  Alu alu = Alu::none;
  Activation function = Activation::copy;
  float scalar = 0;
  Alu alu1 = Alu::none;
  float scalar1 = 1;
  std::int64_t dst = kUnnamed, a = kUnnamed, b = kUnnamed, c = kUnnamed;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("opcode", s.opcode);
    v("alu", s.alu);
    v("function", s.function);
    v("scalar", s.scalar);
    v("alu1", s.alu1);
    v("scalar1", s.scalar1);
    v("dst", s.dst);
    v("a", s.a);
    v("b", s.b);
    v("c", s.c);
  }
};

// out_j = f(in_0, in_1, ...) element by element. Also optimizer steps, fused RNN cells, fills, casts and random
// numbers: whatever streams its operands once. `steps` run on each tile in order.
struct PointwiseShape {
  std::int64_t elements = 0;  // of the iteration space
  std::vector<Access> inputs, outputs;
  std::vector<Step> steps;
  std::int64_t segments = 1;  // tensors of a foreach or fused list: `elements` is their sum
  // Where inputs repeat otherwise than by whole periods: the axes of the iteration space, outermost first, and for each
  // input those along which it repeats (bit a for axis a). Empty: by their numbers of elements.
  std::vector<std::int64_t> axes, repeats;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("elements", s.elements);
    v("inputs", s.inputs);
    v("outputs", s.outputs);
    v("steps", s.steps);
    v("segments", s.segments);
    v("axes", s.axes);
    v("repeats", s.repeats);
  }
};

// rows x cols reduced over cols. `outer_stride_reduction`: the reduced axis is not the contiguous one, so it lies
// across partitions and is summed by a matmul with ones (add) or by transposes (the others).
struct ReductionShape {
  std::int64_t rows = 0, cols = 0;
  bool across_partitions = false;
  Alu alu = Alu::add;
  std::vector<Step> prologue;  // per input element (square, abs, compare, ...)
  std::vector<Step> epilogue;  // per result (a mean's division, a root, ...)
  bool places = false;         // of maximum and minimum: the last output has each extreme's first place
  // The mean squared deviation from the mean, of which `cols - correction` are taken to be free, in place of alu; a
  // second output has the mean.
  bool variance = false;
  float correction = 0;
  std::vector<Access> inputs, outputs;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("rows", s.rows);
    v("cols", s.cols);
    v("across_partitions", s.across_partitions);
    v("alu", s.alu);
    v("prologue", s.prologue);
    v("epilogue", s.epilogue);
    v("places", s.places);
    v("variance", s.variance);
    v("correction", s.correction);
    v("inputs", s.inputs);
    v("outputs", s.outputs);
  }
};

// softmax and log_softmax over cols, with their backward.
struct SoftmaxShape {
  std::int64_t rows = 0, cols = 0;
  Dtype in_dtype = Dtype::float32, out_dtype = Dtype::float32;
  bool log = false, backward = false;
  bool across_partitions = false;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("rows", s.rows);
    v("cols", s.cols);
    v("in_dtype", s.in_dtype);
    v("out_dtype", s.out_dtype);
    v("log", s.log);
    v("backward", s.backward);
    v("across_partitions", s.across_partitions);
  }
};

enum class NormKind : std::uint8_t { layer, rms, group, batch };
// Statistics over cols for each of rows. layer, rms: affine parameters have `cols` entries; group, batch: `channels`.
struct NormShape {
  NormKind kind = NormKind::layer;
  std::int64_t rows = 0, cols = 0, channels = 0;
  Dtype dtype = Dtype::float32, parameter_dtype = Dtype::float32;
  bool weight = false, bias = false, backward = false;
  bool input_gradient = true, weight_gradient = true, bias_gradient = true;
  bool training = true;  // batch: statistics computed here, and running statistics updated
  bool running_statistics = false;
  std::int64_t spatial = 0;  // group, batch: contiguous elements of one channel of one sample; 0: all of a channel's
  float eps = 1e-5F;         // added to the variance; rms: to the mean square
  float momentum = 0.1F;     // batch: what this batch contributes to the running statistics
  template <class V>
  static void visit(V&& v, auto& s) {
    v("kind", s.kind);
    v("rows", s.rows);
    v("cols", s.cols);
    v("channels", s.channels);
    v("dtype", s.dtype);
    v("parameter_dtype", s.parameter_dtype);
    v("weight", s.weight);
    v("bias", s.bias);
    v("backward", s.backward);
    v("input_gradient", s.input_gradient);
    v("weight_gradient", s.weight_gradient);
    v("bias_gradient", s.bias_gradient);
    v("training", s.training);
    v("running_statistics", s.running_statistics);
    v("spatial", s.spatial);
    v("eps", s.eps);
    v("momentum", s.momentum);
  }
};

// elements moved from one layout to another, with a cast where dtypes differ.
struct CopyShape {
  std::int64_t elements = 0;
  Access src, dst;
  bool transpose = false;  // the contiguous axes of src and dst differ: TensorE or DMA transposes
  // What executes needs: the matrices that a transpose turns, [rows, cols] each, one behind the other in src; and of a
  // broadcast src, the elements that repeat together. 0: not known.
  std::int64_t rows = 0, cols = 0, repeated_elements = 0;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("elements", s.elements);
    v("src", s.src);
    v("dst", s.dst);
    v("transpose", s.transpose);
    v("rows", s.rows);
    v("cols", s.cols);
    v("repeated_elements", s.repeated_elements);
  }
};

enum class IndexKind : std::uint8_t { gather, scatter, scatter_add };
// `num_rows` rows of `row_elements` picked (gather) or replaced (scatter) by an index each.
struct IndexShape {
  IndexKind kind = IndexKind::gather;
  std::int64_t num_rows = 0, row_elements = 1;
  Dtype dtype = Dtype::float32, index_dtype = Dtype::int64;
  std::int64_t num_indices = 0;    // index elements read
  std::int64_t base_elements = 0;  // scatter out of place: elements of self copied first
  // The tensor picked from or written to: `num_tables` tables one behind the other, each of `table_rows` rows. 0 rows:
  // not known, the program only counts. One list of indices serves every table; but where `columns` > 0, rows are
  // single elements, `columns` of them side by side, and an index picks from its own column of its own table.
  std::int64_t table_rows = 0, num_tables = 1, columns = 0;
  bool wraps = false;   // negative indices count from the end
  bool scales = false;  // a sparse product: each row meets a stored element, one multiply-add per element of the row
  // Several lists of indices, one for each of these axes of the table, side by side: num_indices counts them all.
  std::vector<std::int64_t> axes;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("kind", s.kind);
    v("num_rows", s.num_rows);
    v("row_elements", s.row_elements);
    v("dtype", s.dtype);
    v("index_dtype", s.index_dtype);
    v("num_indices", s.num_indices);
    v("base_elements", s.base_elements);
    v("table_rows", s.table_rows);
    v("num_tables", s.num_tables);
    v("columns", s.columns);
    v("wraps", s.wraps);
    v("scales", s.scales);
    v("axes", s.axes);
  }
};

enum class WindowKind : std::uint8_t { max_pool, average_pool, upsample };
// Pooling and upsampling: each output element combines `taps` input elements (backward: the reverse).
struct WindowShape {
  WindowKind kind = WindowKind::max_pool;
  std::int64_t in_elements = 0, out_elements = 0, taps = 1;
  Dtype dtype = Dtype::float32;
  bool indices = false, backward = false;  // max_pool: int64 indices written (forward) or read (backward)
  // What executes needs: `planes` of in [rows, columns], out alike, and the window's axes. No planes: not known. The
  // divisor of an average: 0 for the taps of its window, those in the padding too where it `counts_padding`.
  std::int64_t planes = 0;
  std::vector<std::int64_t> in, out, kernel, stride, padding, dilation;
  bool counts_padding = true;
  std::int64_t divisor = 0;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("kind", s.kind);
    v("in_elements", s.in_elements);
    v("out_elements", s.out_elements);
    v("taps", s.taps);
    v("dtype", s.dtype);
    v("indices", s.indices);
    v("backward", s.backward);
    v("planes", s.planes);
    v("in", s.in);
    v("out", s.out);
    v("kernel", s.kernel);
    v("stride", s.stride);
    v("padding", s.padding);
    v("dilation", s.dilation);
    v("counts_padding", s.counts_padding);
    v("divisor", s.divisor);
  }
};

// Cumulative operators along cols. Two inputs: the running value is first scaled by the second.
struct ScanShape {
  std::int64_t rows = 0, cols = 0;
  Alu alu = Alu::add;
  std::vector<Access> inputs, outputs;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("rows", s.rows);
    v("cols", s.cols);
    v("alu", s.alu);
    v("inputs", s.inputs);
    v("outputs", s.outputs);
  }
};

// sort (k == cols) and topk of each row: max8, nc_find_index8, nc_match_replace8 in passes of eight.
struct SortShape {
  std::int64_t rows = 0, cols = 0, k = 0;
  bool ascending = false;
  std::vector<Access> inputs, outputs;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("rows", s.rows);
    v("cols", s.cols);
    v("k", s.k);
    v("ascending", s.ascending);
    v("inputs", s.inputs);
    v("outputs", s.outputs);
  }
};

enum class LossReduction : std::uint8_t { none, mean, sum };
// Negative log likelihood: of [batch, classes, positions] the element that target [batch, positions] names, times -1
// and its class' weight. A target of `ignored` counts nothing. Forward: the losses or their sum, and the weights' sum.
struct NllLossShape {
  std::int64_t batch = 1, classes = 0, positions = 1;
  Dtype dtype = Dtype::float32, index_dtype = Dtype::int64;
  bool weight = false, backward = false;
  LossReduction reduction = LossReduction::mean;
  float ignored = -100;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("batch", s.batch);
    v("classes", s.classes);
    v("positions", s.positions);
    v("dtype", s.dtype);
    v("index_dtype", s.index_dtype);
    v("weight", s.weight);
    v("backward", s.backward);
    v("reduction", s.reduction);
    v("ignored", s.ignored);
  }
};

// Host <-> device, or device <-> device: no engine of the core, bytes over the link.
struct TransferShape {
  std::int64_t bytes = 0;
  bool to_device = false, from_device = false;  // both: device to device
  template <class V>
  static void visit(V&& v, auto& s) {
    v("bytes", s.bytes);
    v("to_device", s.to_device);
    v("from_device", s.from_device);
  }
};

// No family covers it: every input is read once, every output written once, one VectorE pass per output element.
struct GenericShape {
  std::vector<Access> inputs, outputs;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("inputs", s.inputs);
    v("outputs", s.outputs);
  }
};

using Shape = std::variant<MatmulShape, ConvShape, AttentionShape, PointwiseShape, ReductionShape, SoftmaxShape,
                           NormShape, CopyShape, BoxShape, IndexShape, NllLossShape, WindowShape, TapsShape, BandShape,
                           RankShape, ScanShape, SortShape, TransferShape, GenericShape>;
inline constexpr const char* kFamilyNames[] = {
    "matmul",   "conv",   "attention", "pointwise", "reduction", "softmax", "norm", "copy",     "box",    "index",
    "nll_loss", "window", "taps",      "band",      "rank",      "scan",    "sort", "transfer", "generic"};

// What the compiler's options make of fp32 and of 64-bit integers on the chip (docs/numerics.md).
struct Precision {
  Dtype auto_cast = Dtype::float32;  // --auto-cast-type: what TensorE's fp32 operands become; float32: they stay
  bool casts_all = false;            // --auto-cast all: and the operands of the other families
  bool native_int64 = false;         // --native-int64
  bool operator==(const Precision&) const = default;
  template <class V>
  static void visit(V&& v, auto& s) {
    v("auto_cast", s.auto_cast);
    v("casts_all", s.casts_all);
    v("native_int64", s.native_int64);
  }
};

struct Part : Shape {
  using Shape::Shape;
  Precision precision = {};
};

// One launch: the parts of one operator, in order (a convolution's backward has up to three).
using Spec = std::vector<Part>;

}  // namespace trn::kernels
