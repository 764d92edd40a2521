// Bands of matrices by affine_select: tril, triu and eye. Rows lie on partitions, or of many small matrices whole ones.
//
//   HBM bytes read    = matrices * rows * cols * size, without an input 0
//   HBM bytes written = matrices * rows * cols * size
#include <algorithm>
#include <string>

#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/tiling.h"
#include "target/error.h"

namespace trn::kernels {

using namespace tiling;

namespace {

class BandKernel {
 public:
  BandKernel(const target::Target& target, const BandShape& shape)
      : s_(shape), partitions_(target.core.num_partitions), dtype_(sbuf_dtype(shape.dtype)) {
    const std::int64_t elements = s_.matrices * s_.rows * s_.cols, itemsize = target::itemsize(dtype_);
    if (s_.has_input) {
      in_ = builder_.hbm("in", s_.dtype, elements);
    }
    out_ = builder_.hbm("out", s_.dtype, elements, true);
    width_ = elements == 0 ? 1 : stream_free_elements(target, elements, itemsize, 4 * itemsize);
    holds_matrices_ = s_.matrices > std::min(s_.rows, partitions_) && s_.rows * s_.cols <= width_;
    loaded_ = builder_.sbuf(s_.has_input ? "loaded" : "ones", dtype_, partitions_, width_, s_.has_input ? 2 : 1);
    result_ = builder_.sbuf("result", dtype_, partitions_, width_);
  }

  program::Program build() {
    if (s_.matrices * s_.rows * s_.cols == 0) {
      return builder_.take();
    }
    if (!s_.has_input) {
      builder_.nest("ones");
      builder_.memset(on_chip_tile(loaded_, partitions_, width_), 1);
    }
    holds_matrices_ ? matrices() : rows();
    return builder_.take();
  }

 private:
  // Distances from the diagonal: of row + j and column + i in a tile whose partitions lie `pitch` rows apart.
  Tile distances(const Index& row, const Index& column, std::int64_t p, std::int64_t pitch, const Dim& down,
                 const Dim& right, std::int64_t sign, std::int64_t offset) const {
    return hbm_tile(-1, p, -sign * pitch, {{down.size, -sign * down.stride}, {right.size, sign * right.stride}},
                    (column + row * -1) * sign + offset);
  }

  // `down` rows of `right` elements in each of `p` partitions, which lie `pitch` rows apart.
  void tile(const Tile& from, const Tile& to, const Index& row, const Index& column, std::int64_t p, std::int64_t pitch,
            std::int64_t down, std::int64_t right) {
    if (s_.has_input) {
      builder_.dma(on_chip_tile(loaded_, p, down * right), from);
    }
    std::int16_t latest = loaded_;
    auto select = [&](std::int64_t sign, std::int64_t offset) {
      auto square = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, {{down, right}, {right, 1}}); };
      builder_.emit({.opcode = Opcode::affine_select,
                     .dst = square(result_),
                     .src = {square(latest), distances(row, column, p, pitch, {down, 1}, {right, 1}, sign, offset)},
                     .alu0 = Alu::greater_equal});
      latest = result_;
    };
    const std::int64_t main = s_.rows - 1;
    if (s_.least > 0) {
      select(1, main - s_.least);
    }
    if (s_.most < main + s_.cols - 1) {
      select(-1, s_.most - main);
    }
    builder_.dma(to, on_chip_tile(latest, p, down * right));
  }

  void matrices() {
    const std::int64_t size = s_.rows * s_.cols, each = std::max<std::int64_t>(s_.rows * s_.cols, 1);
    for (const Segment& segment : split(s_.matrices, partitions_)) {
      builder_.nest(segment.start == 0 ? "body" : "remainder");
      builder_.parallel_loop(segment.trips, [&](const Index& i) {
        const Index first = (i * segment.size + segment.start) * size;
        auto far = [&](std::int16_t hbm) { return hbm_tile(hbm, segment.size, each, {{size, 1}}, first); };
        tile(far(in_), far(out_), 0, 0, segment.size, 0, s_.rows, s_.cols);
      });
    }
  }

  // A partition holds consecutive rows where they are short.
  void rows() {
    const std::int64_t most = std::clamp<std::int64_t>(width_ / s_.cols, 1, ceil_div(s_.rows, partitions_));
    auto emit = [&](const char* name, std::int64_t start, std::int64_t trips, std::int64_t p, std::int64_t g) {
      if (trips == 0 || p == 0 || g == 0) {
        return;
      }
      for (const Segment& columns : split(s_.cols, std::min(width_, s_.cols))) {
        builder_.nest(name);
        builder_.parallel_loop(s_.matrices, [&](const Index& matrix) {
          builder_.parallel_loop(trips, [&](const Index& i) {
            builder_.parallel_loop(columns.trips, [&](const Index& c) {
              const Index row = i * (p * g) + start, column = c * columns.size + columns.start;
              auto far = [&](std::int16_t hbm) {
                return hbm_tile(hbm, p, g * s_.cols, {{g, s_.cols}, {columns.size, 1}},
                                matrix * (s_.rows * s_.cols) + row * s_.cols + column);
              };
              tile(far(in_), far(out_), row, column, p, g, g, columns.size);
            });
          });
        });
      }
    };
    const std::int64_t full = s_.rows / (partitions_ * most), rest = s_.rows % (partitions_ * most);
    emit("body", 0, full, partitions_, most);
    emit("remainder", s_.rows - rest, 1, partitions_, rest / partitions_);
    emit("tail", s_.rows - rest % partitions_, 1, rest % partitions_, 1);
  }

  const BandShape& s_;
  const std::int64_t partitions_;
  const Dtype dtype_;
  Builder builder_{"band"};
  std::int64_t width_ = 1;
  bool holds_matrices_ = false;
  std::int16_t in_ = -1, out_ = -1, loaded_ = -1, result_ = -1;
};

}  // namespace

program::Program band(const target::Target& target, const BandShape& shape) {
  return BandKernel(target, shape).build();
}

void require_executable(const BandShape& shape) {
  if (is_complex(shape.dtype)) {
    throw Error(Category::unimplemented, "[band] complex elements are counted, not executed; got " +
                                             std::string(target::name(shape.dtype)) +
                                             ". Use reference numerics for it.");
  }
}

}  // namespace trn::kernels
