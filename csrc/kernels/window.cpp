// Pooling and upsampling, forward and backward: each side crosses HBM once, windows overlap only within SBUF.
#include <algorithm>

#include "kernels/build.h"
#include "kernels/pool.h"
#include "kernels/side_by_side.h"

namespace trn::kernels {

using namespace tiling;

namespace {

// The work of one trip on tiles in SBUF. A window is an access pattern over the input tile, so no tap is ever copied.
class Trip {
 public:
  struct Buffers {
    std::int16_t in, out, indices, scratch;
    std::int64_t width;
  };

  // `num_taps`: taps of all outputs of the trip together.
  Trip(Builder& builder, const WindowShape& shape, const Buffers& buffers, std::int64_t partitions, std::int64_t num_in,
       std::int64_t num_out, std::int64_t num_taps)
      : builder_(builder),
        shape_(shape),
        buffers_(buffers),
        partitions_(partitions),
        num_in_(num_in),
        num_out_(num_out),
        num_taps_(num_taps) {}

  void forward() { shape_.kind == WindowKind::upsample ? interpolate() : pool(); }
  void backward() {
    builder_.memset(tile(buffers_.in, num_in_), 0);
    shape_.kind == WindowKind::upsample ? interpolate_backward() : pool_backward();
  }

 private:
  Tile tile(std::int16_t buffer, std::int64_t width) const { return on_chip_tile(buffer, partitions_, width); }
  Tile out() const { return tile(buffers_.out, num_out_); }
  float mean() const { return 1.0F / static_cast<float>(shape_.taps); }

  // body(taps of a group of windows, outputs of that group): an instruction streams at most a buffer's width.
  template <class Body>
  void windows(Body body) {
    builder_.tiles(num_taps_, buffers_.width, [&](const Index&, std::int64_t taps) {
      body(taps, std::min(ceil_div(taps, shape_.taps), num_out_));
    });
  }

  void pool() {
    const bool is_max = shape_.kind == WindowKind::max_pool;
    windows([&](std::int64_t taps, std::int64_t outputs) {
      const Tile result = tile(buffers_.out, outputs);
      builder_.tensor_reduce(result, tile(buffers_.in, taps), is_max ? Alu::maximum : Alu::add);
      if (shape_.indices) {  // the position of the tap that equals the maximum
        const Tile match = tile(buffers_.scratch, taps);
        builder_.tensor_tensor(match, tile(buffers_.in, taps), result, Alu::equal);
        builder_.tensor_tensor(match, match, match, Alu::multiply);
        builder_.tensor_reduce(tile(buffers_.indices, outputs), match, Alu::maximum);
      }
    });
    if (!is_max) {
      builder_.tensor_scalar(out(), out(), Alu::multiply, mean());
    }
  }

  void pool_backward() {
    const bool is_max = shape_.kind == WindowKind::max_pool;
    if (!is_max) {
      builder_.tensor_scalar(out(), out(), Alu::multiply, mean());
    }
    windows([&](std::int64_t taps, std::int64_t outputs) {
      const Tile gradient = tile(buffers_.out, outputs);
      const Tile window = tile(buffers_.in, taps);
      if (is_max) {  // only the tap that was the maximum
        const Tile match = tile(buffers_.scratch, taps);
        builder_.tensor_tensor(match, match, tile(buffers_.indices, outputs), Alu::equal);
        builder_.tensor_tensor(match, match, gradient, Alu::multiply);
        builder_.tensor_tensor(window, window, match, Alu::add);
      } else {
        builder_.tensor_tensor(window, window, gradient, Alu::add);
      }
    });
  }

  // out += weight * in for each tap; a single tap is nearest neighbour.
  void interpolate() {
    const Tile source = tile(buffers_.in, num_out_);
    if (shape_.taps == 1) {
      builder_.tensor_copy(out(), source);
      return;
    }
    const Tile product = tile(buffers_.scratch, num_out_);
    builder_.tensor_tensor(out(), source, product, Alu::multiply);
    builder_.loop(shape_.taps - 1, [&](const Index&) {
      builder_.tensor_tensor(product, source, product, Alu::multiply);
      builder_.tensor_tensor(out(), out(), product, Alu::add);
    });
  }

  void interpolate_backward() {
    const Tile gradient = tile(buffers_.in, num_out_);
    const Tile product = tile(buffers_.scratch, num_out_);
    builder_.loop(shape_.taps, [&](const Index&) {
      if (shape_.taps > 1) {
        builder_.tensor_tensor(product, out(), product, Alu::multiply);
      }
      builder_.tensor_tensor(gradient, gradient, shape_.taps > 1 ? product : out(), Alu::add);
    });
  }

  Builder& builder_;
  const WindowShape& shape_;
  const Buffers& buffers_;
  std::int64_t partitions_, num_in_, num_out_, num_taps_;
};

}  // namespace

program::Program window(const target::Target& target, const WindowShape& shape) {
  if (has_pool_program(target.core, shape)) {
    return pool(target, shape);
  }
  Builder builder("window");
  const bool backward = shape.backward;
  const std::int64_t num_indices = shape.indices ? shape.out_elements : 0;
  // Inputs are declared before outputs: forward reads `in`, backward reads `out` and the indices.
  const std::int16_t forward_in = backward ? std::int16_t{-1} : builder.hbm("in", shape.dtype, shape.in_elements);
  const std::int16_t out = builder.hbm(backward ? "out_gradient" : "out", shape.dtype, shape.out_elements, !backward);
  const std::int16_t indices = builder.hbm("indices", Dtype::int64, num_indices, !backward);
  const std::int16_t in = backward ? builder.hbm("in_gradient", shape.dtype, shape.in_elements, true) : forward_in;

  const Dtype dtype = sbuf_dtype(shape.dtype);
  const std::int64_t num_partitions = target.core.num_partitions;
  // in, out, indices and scratch, twice each.
  const std::int64_t width =
      stream_free_elements(target, std::max(shape.in_elements, shape.out_elements), target::itemsize(shape.dtype),
                           2 * (2 * target::itemsize(dtype) + 4 + 4));
  const Trip::Buffers buffers{.in = builder.sbuf("in_tile", dtype, num_partitions, width),
                              .out = builder.sbuf("out_tile", dtype, num_partitions, width),
                              .indices = builder.sbuf("index_tile", Dtype::int32, num_partitions, width),
                              .scratch = builder.sbuf("scratch", Dtype::float32, num_partitions, width),
                              .width = width};
  // Where a window spans several trips, each takes its share of the taps.
  const std::int64_t taps_per_input =
      std::max(shape.out_elements * shape.taps / std::max(shape.in_elements, std::int64_t{1}), std::int64_t{1});

  const auto rounds = share(target, {shape.in_elements, shape.out_elements, num_indices}, width);
  stream_together(builder, rounds, [&](const std::vector<StreamTile>& shares) {
    const std::int64_t p = shares[0].partitions;
    const std::int16_t tiles[] = {buffers.in, buffers.out, buffers.indices};
    const std::int16_t tensors[] = {in, out, indices};
    auto move = [&](std::size_t t, bool is_load) {
      if (shares[t].free > 0) {
        const Tile near = on_chip_tile(tiles[t], p, shares[t].free);
        const Tile far = shares[t].hbm(tensors[t]);
        is_load ? builder.dma(near, far) : builder.dma(far, near);
      }
    };
    const std::int64_t num_in = std::max(shares[0].free, std::int64_t{1});
    const std::int64_t num_out = std::max(shares[1].free, std::int64_t{1});
    const std::int64_t num_taps = shares[1].free > 0 ? shares[1].free * shape.taps : num_in * taps_per_input;
    Trip trip(builder, shape, buffers, p, num_in, num_out, num_taps);
    if (backward) {
      move(1, true);
      move(2, true);
      trip.backward();
      move(0, false);
    } else {
      move(0, true);
      trip.forward();
      move(1, false);
      move(2, false);
    }
  });
  return builder.take();
}

}  // namespace trn::kernels
