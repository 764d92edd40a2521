// Max and average pooling of two axes, forward and backward: each plane lies padded in one partition.
#include "kernels/pool.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kernels/executable.h"
#include "kernels/tiling.h"
#include "target/error.h"

namespace trn::kernels {

using namespace tiling;

namespace {

constexpr std::int64_t kMostElements = 64 * 1024;  // of a partition, that an instruction reads

// What windows reach of a plane: with its padding, and what a last window that is rounded up takes beyond it.
std::int64_t padded(const WindowShape& shape, std::size_t axis) {
  const std::int64_t reach =
      (shape.out[axis] - 1) * shape.stride[axis] + (shape.kernel[axis] - 1) * shape.dilation[axis] + 1;
  return std::max(shape.in[axis] + 2 * shape.padding[axis], reach);
}

bool takes_maximum(const WindowShape& shape) {
  return shape.kind == WindowKind::max_pool;
}

// Whether the taps that an average divides by differ from window to window.
bool has_uneven_windows(const WindowShape& shape) {
  bool is_uneven = false;
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::int64_t counted = shape.in[axis] + (shape.counts_padding ? 2 * shape.padding[axis] : 0);
    is_uneven = is_uneven || padded(shape, axis) > counted;
  }
  return !takes_maximum(shape) && shape.divisor == 0 && is_uneven;
}

std::int64_t bytes_per_partition(const WindowShape& shape) {
  const std::int64_t plane = padded(shape, 0) * padded(shape, 1), out = shape.out[0] * shape.out[1];
  const std::int64_t planes = has_uneven_windows(shape) ? 2 : 1;
  return 4 * (planes * plane + (takes_maximum(shape) ? 5 : 3) * out);
}

class PoolKernel {
 public:
  PoolKernel(const target::Target& target, const WindowShape& shape)
      : shape_(shape),
        num_partitions_(target.core.num_partitions),
        rows_(padded(shape, 0)),
        columns_(padded(shape, 1)),
        out_elements_(shape.out[0] * shape.out[1]),
        dtype_(sbuf_dtype(shape.dtype)) {
    declare(2 * bytes_per_partition(shape) <= target.core.sbuf_bytes_per_partition ? 2 : 1);
  }

  program::Program build() {
    if (has_uneven_windows(shape_)) {
      count_taps();
    }
    for (const Segment& planes : split(shape_.planes, num_partitions_)) {
      builder_.nest(planes.start == 0 ? "body" : "remainder");
      builder_.parallel_loop(planes.trips, [&](const Index& i) {
        const Index first = i * planes.size + Index(planes.start);
        shape_.backward ? backward(first, planes.size) : forward(first, planes.size);
      });
    }
    return builder_.take();
  }

 private:
  // Inputs before outputs: forward reads `in`, backward reads `out` and the indices.
  void declare(std::int64_t copies) {
    const std::int64_t num_indices = shape_.indices ? shape_.out_elements : 0;
    auto large = [&] {
      in_ = builder_.hbm(shape_.backward ? "in_gradient" : "in", shape_.dtype, shape_.in_elements, shape_.backward);
    };
    if (!shape_.backward) {
      large();
    }
    out_ = builder_.hbm(shape_.backward ? "out_gradient" : "out", shape_.dtype, shape_.out_elements, !shape_.backward);
    if (num_indices > 0) {
      indices_ = builder_.hbm("indices", Dtype::int64, num_indices, !shape_.backward);
    }
    if (shape_.backward) {
      large();
    }
    // Gradients add up in fp32, as averages do.
    plane_ = sbuf("plane", shape_.backward ? Dtype::float32 : dtype_, rows_ * columns_, copies);
    result_ = sbuf("result", dtype_, out_elements_, copies);
    if (takes_maximum(shape_)) {
      index_ = sbuf("index", Dtype::int32, out_elements_, copies);
      origin_ = sbuf("origin", Dtype::int32, out_elements_, 1);
      match_ = sbuf("match", Dtype::float32, out_elements_, 1);
    } else {
      sum_ = sbuf("sum", Dtype::float32, out_elements_, 1);
    }
    if (has_uneven_windows(shape_)) {
      ones_ = sbuf("ones", Dtype::float32, rows_ * columns_, 1);
      factor_ = sbuf("factor", Dtype::float32, out_elements_, 1);
    }
  }
  std::int16_t sbuf(const char* name, Dtype dtype, std::int64_t elements, std::int64_t copies) {
    return builder_.sbuf(name, dtype, num_partitions_, elements, copies);
  }

  // ---- Tiles

  Tile outputs(std::int16_t buffer, std::int64_t p) const { return on_chip_tile(buffer, p, out_elements_); }
  Tile whole(std::int16_t buffer, std::int64_t p) const { return on_chip_tile(buffer, p, rows_ * columns_); }
  // The plane itself, without what surrounds it; or with its padding.
  Tile inside(std::int16_t buffer, std::int64_t p, bool with_padding = false) const {
    const std::int64_t top = with_padding ? 0 : shape_.padding[0], left = with_padding ? 0 : shape_.padding[1];
    return on_chip_tile(
        buffer, p,
        {{shape_.in[0] + 2 * (shape_.padding[0] - top), columns_}, {shape_.in[1] + 2 * (shape_.padding[1] - left), 1}},
        Index(top * columns_ + left));
  }
  std::vector<Dim> steps() const {
    return {{shape_.out[0], shape_.stride[0] * columns_}, {shape_.out[1], shape_.stride[1]}};
  }
  // One tap of every window; all taps of every window, those innermost.
  Tile tap(std::int16_t buffer, std::int64_t p, std::int64_t row, std::int64_t column) const {
    return on_chip_tile(buffer, p, steps(), Index(row * shape_.dilation[0] * columns_ + column * shape_.dilation[1]));
  }
  // Every window to one value, as many at a time as an instruction reads of a partition.
  void reduce_windows(std::int16_t dst, std::int16_t src, std::int64_t p, Alu alu) {
    const std::int64_t most = kMostElements / (shape_.kernel[0] * shape_.kernel[1]);
    const std::int64_t row_size = shape_.out[1];
    builder_.tiles(shape_.out[0], std::clamp<std::int64_t>(most / row_size, 1, shape_.out[0]),
                   [&](const Index& row, std::int64_t rows) {
                     builder_.tiles(row_size, std::min(most, row_size), [&](const Index& column, std::int64_t columns) {
                       const std::int64_t row_step = shape_.stride[0] * columns_, column_step = shape_.stride[1];
                       builder_.tensor_reduce(
                           on_chip_tile(dst, p, {{rows, row_size}, {columns, 1}}, row * row_size + column),
                           on_chip_tile(src, p,
                                        {{rows, row_step},
                                         {columns, column_step},
                                         {shape_.kernel[0], shape_.dilation[0] * columns_},
                                         {shape_.kernel[1], shape_.dilation[1]}},
                                        row * row_step + column * column_step),
                           alu);
                     });
                   });
  }
  Tile far(std::int16_t buffer, const Index& plane, std::int64_t p, std::int64_t elements) const {
    return hbm_tile(buffer, p, elements, {{elements, 1}}, plane * elements);
  }
  Tile far_plane(const Index& plane, std::int64_t p) const { return far(in_, plane, p, shape_.in[0] * shape_.in[1]); }
  Tile far_outputs(std::int16_t buffer, const Index& plane, std::int64_t p) const {
    return far(buffer, plane, p, out_elements_);
  }

  // body(row, column, place of the tap in an unpadded plane, from that of its window's first)
  template <class Body>
  void taps(Body body) const {
    for (std::int64_t t = shape_.kernel[0] * shape_.kernel[1]; t-- > 0;) {
      const std::int64_t row = t / shape_.kernel[1], column = t % shape_.kernel[1];
      const std::int64_t place = row * shape_.dilation[0] * shape_.in[1] + column * shape_.dilation[1];
      body(row, column, static_cast<float>(place));
    }
  }
  // Where each window begins in its unpadded plane.
  void fill_origins(std::int64_t p) {
    const Index first(-shape_.padding[0] * shape_.in[1] - shape_.padding[1]);
    builder_.emit(
        {.opcode = Opcode::iota,
         .dst = outputs(origin_, p),
         .src = {hbm_tile(
             -1, p, 0, {{shape_.out[0], shape_.stride[0] * shape_.in[1]}, {shape_.out[1], shape_.stride[1]}}, first)}});
  }

  // ---- Averages

  // One over the taps of each window that count.
  void count_taps() {
    const std::int64_t p = num_partitions_;
    builder_.nest("taps");
    builder_.memset(whole(ones_, p), 0);
    builder_.memset(inside(ones_, p, shape_.counts_padding), 1);
    reduce_windows(factor_, ones_, p, Alu::add);
    builder_.emit({.opcode = Opcode::reciprocal, .dst = outputs(factor_, p), .src = {outputs(factor_, p)}});
  }
  void scale(const Tile& dst, const Tile& src, std::int64_t p) {
    if (has_uneven_windows(shape_)) {
      builder_.tensor_tensor(dst, src, outputs(factor_, p), Alu::multiply);
      return;
    }
    const std::int64_t divisor = shape_.divisor != 0 ? shape_.divisor : shape_.kernel[0] * shape_.kernel[1];
    builder_.tensor_scalar(dst, src, Alu::multiply, 1.0F / static_cast<float>(divisor));
  }

  // ---- Directions

  void forward(const Index& plane, std::int64_t p) {
    const bool is_padded = rows_ * columns_ > shape_.in[0] * shape_.in[1];
    if (is_padded) {
      builder_.memset(whole(plane_, p), takes_maximum(shape_) ? -std::numeric_limits<float>::infinity() : 0);
    }
    builder_.dma(inside(plane_, p), far_plane(plane, p));
    if (takes_maximum(shape_)) {
      reduce_windows(result_, plane_, p, Alu::maximum);
      if (shape_.indices) {
        find(p);
        builder_.dma(far_outputs(indices_, plane, p), outputs(index_, p));
      }
    } else {
      reduce_windows(sum_, plane_, p, Alu::add);
      scale(outputs(result_, p), outputs(sum_, p), p);
    }
    builder_.dma(far_outputs(out_, plane, p), outputs(result_, p));
  }

  // The place of the first tap that equals the maximum: the last tap first, so that the first one wins.
  void find(std::int64_t p) {
    const Tile index = outputs(index_, p), match = outputs(match_, p);
    builder_.memset(index, 0);
    taps([&](std::int64_t row, std::int64_t column, float place) {
      builder_.tensor_tensor(match, tap(plane_, p, row, column), outputs(result_, p), Alu::equal);
      builder_.emit({.opcode = Opcode::tensor_copy_predicated, .dst = index, .src = {index, match}, .scalar0 = place});
    });
    fill_origins(p);
    builder_.tensor_tensor(index, index, outputs(origin_, p), Alu::add);
  }

  void backward(const Index& plane, std::int64_t p) {
    builder_.dma(outputs(result_, p), far_outputs(out_, plane, p));
    builder_.memset(whole(plane_, p), 0);
    if (takes_maximum(shape_)) {
      const Tile index = outputs(index_, p);
      builder_.dma(index, far_outputs(indices_, plane, p));
      fill_origins(p);
      builder_.tensor_tensor(index, index, outputs(origin_, p), Alu::subtract);
    } else {
      scale(outputs(sum_, p), outputs(result_, p), p);
    }
    taps([&](std::int64_t row, std::int64_t column, float place) {
      const Tile gradient = tap(plane_, p, row, column);
      if (takes_maximum(shape_)) {  // only of the tap that was the maximum
        builder_.emit({.opcode = Opcode::scalar_tensor_tensor,
                       .dst = outputs(match_, p),
                       .src = {outputs(index_, p), outputs(result_, p)},
                       .alu0 = Alu::equal,
                       .alu1 = Alu::multiply,
                       .scalar0 = place});
      }
      builder_.tensor_tensor(gradient, gradient, outputs(takes_maximum(shape_) ? match_ : sum_, p), Alu::add);
    });
    builder_.dma(far_plane(plane, p), inside(plane_, p));
  }

  const WindowShape& shape_;
  std::int64_t num_partitions_, rows_, columns_, out_elements_;
  Dtype dtype_;
  Builder builder_{"window"};
  std::int16_t in_ = -1, out_ = -1, indices_ = -1;
  std::int16_t plane_ = -1, result_ = -1, index_ = -1, origin_ = -1, match_ = -1;
  std::int16_t sum_ = -1, ones_ = -1, factor_ = -1;
};

[[noreturn]] void only_counts(const std::string& rule, const std::string& got) {
  throw Error(Category::unimplemented, "[window] " + rule + " counted, not executed; got " + got + ".");
}

bool is_known(const WindowShape& shape) {
  auto has_two = [](const std::vector<std::int64_t>& axes) { return axes.size() == 2; };
  return shape.planes > 0 && shape.kind != WindowKind::upsample && shape.dtype < Dtype::int8 && has_two(shape.in) &&
         has_two(shape.out) && has_two(shape.kernel) && has_two(shape.stride) && has_two(shape.padding) &&
         has_two(shape.dilation) && shape.planes * shape.in[0] * shape.in[1] == shape.in_elements &&
         shape.planes * shape.out[0] * shape.out[1] == shape.out_elements &&
         (takes_maximum(shape) && shape.backward ? shape.indices : true);
}

}  // namespace

bool has_pool_program(const target::Core& core, const WindowShape& shape) {
  return is_known(shape) && bytes_per_partition(shape) <= core.sbuf_bytes_per_partition / 16 * 15 &&
         shape.kernel[0] * shape.kernel[1] <= kMostElements;
}

program::Program pool(const target::Target& target, const WindowShape& shape) {
  return PoolKernel(target, shape).build();
}

void require_executable(const target::Core& core, const WindowShape& shape) {
  if (!is_known(shape)) {
    only_counts("windows of unknown geometry, and of whole numbers, are", std::to_string(shape.planes) + " planes");
  }
  if (!has_pool_program(core, shape)) {
    only_counts("planes that do not fit SBUF are", std::to_string(shape.in[0]) + " x " + std::to_string(shape.in[1]));
  }
}

}  // namespace trn::kernels
