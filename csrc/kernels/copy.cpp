// Copies from one layout or dtype to another: DMA alone, a cast on VectorE, or transposes.
#include <algorithm>
#include <numeric>
#include <string>

#include "emu/limits.h"
#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/side_by_side.h"
#include "target/error.h"

namespace trn::kernels {

using namespace tiling;

namespace {

// The dtype of a complex tensor's two planes; real dtypes as they are.
Dtype plane_dtype(Dtype dtype) {
  switch (dtype) {
    case Dtype::complex32:
      return Dtype::float16;
    case Dtype::complex64:
      return Dtype::float32;
    case Dtype::complex128:
      return Dtype::float64;
    default:
      return dtype;
  }
}

// What one copy needs to know, in elements of its SBUF dtypes.
struct Ends {
  std::int16_t src, dst;
  Dtype loaded, stored;  // in SBUF
  std::int64_t smallest_itemsize;
  Spacing from = {}, to = {};
};

// Where both ends of a dense copy are spaced, a tile holds whole runs of both.
std::int64_t unit_of(const Spacing& from, const Spacing& to) {
  return std::lcm(from.moves_span ? from.run : 1, to.moves_span ? to.run : 1);
}

// The DMA narrows 64-bit types on its way, so only what differs in SBUF takes VectorE. Both directions pass through
// SBUF, so that each side of HBM is charged.
void stream_copy(Builder& builder, const target::Target& target, std::int64_t elements, const Ends& ends) {
  const bool by_engine = ends.loaded != ends.stored || ends.from.moves_span || ends.to.moves_span;
  const std::int64_t unit = unit_of(ends.from, ends.to);
  const std::int64_t bytes = ceil_div(ends.from.span(unit), unit) * target::itemsize(ends.loaded) +
                             ceil_div(ends.to.span(unit), unit) * target::itemsize(ends.stored);
  const std::int64_t free = round_up(stream_free_elements(target, elements, ends.smallest_itemsize, 2 * bytes), unit);
  const std::int16_t loaded = builder.sbuf("loaded", ends.loaded, target.core.num_partitions, ends.from.span(free));
  const std::int16_t stored =
      by_engine ? builder.sbuf("stored", ends.stored, target.core.num_partitions, ends.to.span(free)) : loaded;
  stream(builder, target, elements / unit, free / unit, [&](const StreamTile& units) {
    const StreamTile tile{units.partitions, units.free * unit, units.first * unit};
    builder.dma(ends.from.loaded(loaded, tile), ends.from.hbm(ends.src, tile));
    if (ends.to.has_gaps()) {
      builder.dma(ends.to.loaded(stored, tile), ends.to.hbm(ends.dst, tile));
    }
    if (by_engine) {
      builder.tensor_copy(ends.to.picked(stored, tile), ends.from.picked(loaded, tile));
    }
    builder.dma(ends.to.hbm(ends.dst, tile), ends.to.loaded(stored, tile));
  });
}

// src holds fewer elements than dst, in no known order: each is read and cast once, then written as often as it
// appears.
void stream_expand(Builder& builder, const target::Target& target, std::int64_t num_src, std::int64_t num_dst,
                   const Ends& ends) {
  const std::int64_t free = stream_free_elements(target, std::max(num_src, num_dst), ends.smallest_itemsize,
                                                 2 * (target::itemsize(ends.loaded) + target::itemsize(ends.stored)));
  const auto rounds = share(target, {num_src, num_dst}, free);
  const bool cast = ends.loaded != ends.stored;
  const std::int16_t loaded = builder.sbuf("loaded", ends.loaded, target.core.num_partitions, free);
  const std::int16_t stored = cast ? builder.sbuf("stored", ends.stored, target.core.num_partitions, free) : loaded;
  stream_together(builder, rounds, [&](const std::vector<StreamTile>& shares) {
    const StreamTile& in = shares[0];
    const StreamTile& out = shares[1];
    if (in.free > 0) {
      builder.dma(on_chip_tile(loaded, in.partitions, in.free), in.hbm(ends.src));
      if (cast) {
        builder.tensor_copy(on_chip_tile(stored, in.partitions, in.free), on_chip_tile(loaded, in.partitions, in.free));
      }
    }
    if (out.free > 0) {
      builder.dma(out.hbm(ends.dst), on_chip_tile(stored, out.partitions, out.free));
    }
  });
}

// `src` has one run of elements where `dst` has it `repeats` times in a row. Each is read and cast once.
class Repetition {
 public:
  Repetition(Builder& builder, const target::Target& target, const CopyShape& shape, const Ends& ends)
      : builder_(builder),
        target_(target),
        ends_(ends),
        num_partitions_(target.core.num_partitions),
        run_(shape.repeated_elements),
        num_runs_(shape.src.elements / run_),
        repeats_(shape.elements / shape.src.elements) {}

  // Of three ways to lay it out the one with the fewest trips.
  void emit() {
    const std::int64_t bytes = 2 * (target::itemsize(ends_.loaded) + target::itemsize(ends_.stored));
    width_ = stream_free_elements(target_, num_runs_ * run_ * repeats_, ends_.smallest_itemsize, bytes);
    loaded_ = builder_.sbuf("loaded", ends_.loaded, num_partitions_, width_);
    stored_ = casts() ? builder_.sbuf("stored", ends_.stored, num_partitions_, width_) : loaded_;
    const std::int64_t by_runs = ceil_div(num_runs_, num_partitions_) * ceil_div(run_, width_) * repeats_;
    const std::int64_t by_elements = num_runs_ * ceil_div(run_, num_partitions_ * width_) * repeats_;
    const std::int64_t by_repeats = num_runs_ * (1 + ceil_div(repeats_, num_partitions_ * (width_ / run_ + 1)));
    if (run_ <= width_ && by_repeats <= std::min(by_runs, by_elements)) {
      repeats_on_partitions();
    } else if (by_runs <= by_elements) {
      runs_on_partitions();
    } else {
      elements_on_partitions();
    }
  }

 private:
  bool casts() const { return ends_.stored != ends_.loaded; }

  void load(const Tile& hbm, std::int64_t partitions, std::int64_t width) {
    const Tile loaded = on_chip_tile(loaded_, partitions, width);
    builder_.dma(loaded, hbm);
    if (casts()) {
      builder_.tensor_copy(on_chip_tile(stored_, partitions, width), loaded);
    }
  }

  void runs_on_partitions() {
    builder_.nest("body");
    builder_.tiles(
        num_runs_, num_partitions_,
        [&](const Index& first, std::int64_t p) {
          builder_.tiles(run_, width_, [&](const Index& at, std::int64_t width) {
            load(hbm_tile(ends_.src, p, run_, {{width, 1}}, first * run_ + at), p, width);
            builder_.loop(repeats_, [&](const Index& repeat) {
              builder_.dma(
                  hbm_tile(ends_.dst, p, run_ * repeats_, {{width, 1}}, (first * repeats_ + repeat) * run_ + at),
                  on_chip_tile(stored_, p, width));
            });
          });
        },
        true);
  }

  void elements_on_partitions() {
    stream(builder_, target_, run_, width_, [&](const StreamTile& tile) {
      builder_.loop(num_runs_, [&](const Index& first) {
        const std::int64_t p = tile.partitions, width = tile.free;
        load(hbm_tile(ends_.src, p, width, {{width, 1}}, first * run_ + tile.first), p, width);
        builder_.loop(repeats_, [&](const Index& repeat) {
          builder_.dma(hbm_tile(ends_.dst, p, width, {{width, 1}}, (first * repeats_ + repeat) * run_ + tile.first),
                       on_chip_tile(stored_, p, width));
        });
      });
    });
  }

  void repeats_on_partitions() {
    builder_.nest("body");
    builder_.loop(num_runs_, [&](const Index& first) {
      load(hbm_tile(ends_.src, num_partitions_, 0, {{run_, 1}}, first * run_), num_partitions_, run_);
      auto store = [&](std::int64_t start, std::int64_t trips, std::int64_t p, std::int64_t g) {
        builder_.parallel_loop(p * g > 0 ? trips : 0, [&](const Index& i) {
          const Index repeat = first * repeats_ + i * (p * g) + start;
          builder_.dma(hbm_tile(ends_.dst, p, g * run_, {{g * run_, 1}}, repeat * run_),
                       on_chip_tile(stored_, p, {{g, 0}, {run_, 1}}));
        });
      };
      const std::int64_t group = std::max(width_ / run_, std::int64_t{1});
      const std::int64_t full = repeats_ / (num_partitions_ * group), done = full * num_partitions_ * group;
      const std::int64_t narrow = (repeats_ - done) / num_partitions_, tail = done + narrow * num_partitions_;
      store(0, full, num_partitions_, group);
      store(done, 1, num_partitions_, narrow);
      store(tail, 1, repeats_ - tail, 1);
    });
  }

  Builder& builder_;
  const target::Target& target_;
  const Ends& ends_;
  std::int64_t num_partitions_, run_, num_runs_, repeats_;
  std::int64_t width_ = 0;
  std::int16_t loaded_ = -1, stored_ = -1;
};

// Matrices [rows, cols], one behind the other from element `first`.
struct Matrices {
  std::int64_t first = 0, count = 0, rows = 0, cols = 0;
};

// Blocks of 128 x 128, transposed by TensorE through PSUM, from where the copy back casts. One PSUM bank takes as many
// blocks as fit before it is emptied. TensorE takes one-byte elements as bfloat16, which holds them exactly. On
// NeuronCore-v2, whose TensorE spreads NaN and infinities, the DMA transposes elements of two bytes, in shorter runs.
class Transposition {
 public:
  Transposition(Builder& builder, const target::Target& target, const Ends& ends)
      : builder_(builder),
        ends_(ends),
        block_(target.core.num_partitions),
        by_dma_(target::itemsize(ends.loaded) == 2 && emu::generation(target.core) < 3),
        moved_(target::itemsize(ends.loaded) == 1 ? Dtype::bfloat16 : ends.loaded) {
    const std::int64_t bank_bytes = target.core.psum_bytes_per_partition / target.core.psum_num_banks;
    bank_blocks_ = std::max(bank_bytes / (target::itemsize(moved_) * block_), std::int64_t{1});
    const std::int64_t longest = target.core.dma_saturating_bytes / (ends.smallest_itemsize * block_);
    side_ = block_ * std::clamp(longest, std::int64_t{1}, kMostBlocks);
    const bool casts = ends.loaded != ends.stored;
    const std::int64_t loaded_width = by_dma_ ? side_ : side_ / block_ * side_;
    loaded_ = builder.sbuf("loaded", moved_, block_, loaded_width);
    stored_ = by_dma_ && !casts ? loaded_ : builder.sbuf("stored", ends.stored, block_, side_);
    bank_ = by_dma_ ? loaded_ : builder.psum("transposed", moved_, block_, bank_blocks_ * block_);
  }

  void emit(const char* name, const Matrices& all) {
    if (all.count * all.rows * all.cols == 0) {
      return;
    }
    builder_.nest(name);
    auto each = [&](const Index& matrix) {
      const Index base = matrix * (all.rows * all.cols) + all.first;
      builder_.tiles(
          all.rows, side_,
          [&](const Index& row, std::int64_t height) {
            builder_.tiles(
                all.cols, by_dma_ ? block_ : side_,
                [&](const Index& col, std::int64_t width) { turn(all, base, row, height, col, width); }, true);
          },
          true);
    };
    all.count == 1 ? each(Index(0)) : builder_.parallel_loop(all.count, each);
  }

 private:
  static constexpr std::int64_t kMostBlocks = 8;  // along each side of what is loaded at once

  void turn(const Matrices& all, const Index& base, const Index& row, std::int64_t height, const Index& col,
            std::int64_t width) {
    if (by_dma_) {
      const Tile turned = on_chip_tile(loaded_, width, height);
      builder_.emit({.opcode = Opcode::dma_transpose,
                     .dst = turned,
                     .src = {hbm_tile(ends_.src, height, all.cols, {{width, 1}}, base + row * all.cols + col)}});
      if (stored_ != loaded_) {
        builder_.tensor_copy(on_chip_tile(stored_, width, height), turned);
      }
      store(all, base, row, height, col, width);
      return;
    }
    builder_.tiles(height, block_, [&](const Index& at, std::int64_t p) {
      builder_.dma(on_chip_tile(loaded_, p, width, at / block_ * side_),
                   hbm_tile(ends_.src, p, all.cols, {{width, 1}}, base + (row + at) * all.cols + col));
    });
    builder_.tiles(width, block_, [&](const Index& at, std::int64_t p) {
      turn_columns(height, at, p);
      store(all, base, row, height, col + at, p);
    });
  }

  // `p` columns of the blocks that are loaded, by way of one bank after the other.
  void turn_columns(std::int64_t height, const Index& col, std::int64_t p) {
    builder_.tiles(height, bank_blocks_ * block_, [&](const Index& first, std::int64_t in_bank) {
      builder_.tiles(in_bank, block_, [&](const Index& at, std::int64_t rows) {
        builder_.transpose(on_chip_tile(bank_, p, rows, at),
                           on_chip_tile(loaded_, rows, p, (first + at) / block_ * side_ + col));
      });
      builder_.tensor_copy(on_chip_tile(stored_, p, in_bank, first), on_chip_tile(bank_, p, in_bank));
    });
  }

  void store(const Matrices& all, const Index& base, const Index& row, std::int64_t height, const Index& col,
             std::int64_t p) {
    builder_.dma(hbm_tile(ends_.dst, p, all.rows, {{height, 1}}, base + col * all.rows + row),
                 on_chip_tile(stored_, p, height));
  }

  Builder& builder_;
  const Ends& ends_;
  std::int64_t block_;
  bool by_dma_;
  Dtype moved_;
  std::int64_t bank_blocks_ = 1, side_ = 1;
  std::int16_t loaded_ = -1, stored_ = -1, bank_ = -1;
};

// Matrices of unknown size count as one of 128 columns, and what is left as a row.
void transpose(Builder& builder, const target::Target& target, const CopyShape& shape, std::int64_t planes,
               const Ends& ends) {
  Transposition transposition(builder, target, ends);
  const std::int64_t elements = shape.elements * planes;
  if (shape.rows > 0) {
    transposition.emit("body", {0, elements / (shape.rows * shape.cols), shape.rows, shape.cols});
    return;
  }
  const std::int64_t cols = target.core.num_partitions, rows = elements / cols;
  transposition.emit("body", {0, 1, rows, cols});
  transposition.emit("tail", {rows * cols, 1, 1, elements - rows * cols});
}

[[noreturn]] void only_counts(const std::string& rule, const std::string& got) {
  throw Error(Category::unimplemented, "[copy] " + rule + " counted, not executed; got " + got + ".");
}

}  // namespace

program::Program copy(const target::Target& target, const CopyShape& shape) {
  Builder builder("copy");
  const bool dense = shape.src.elements == shape.elements && shape.dst.elements == shape.elements;
  const Dtype src = shape.src.dtype;
  const Dtype dst = shape.dst.dtype;
  const std::int64_t src_planes = target::itemsize(src) / target::itemsize(plane_dtype(src));
  const std::int64_t dst_planes = target::itemsize(dst) / target::itemsize(plane_dtype(dst));
  if (shape.transpose && dense && src_planes == dst_planes) {
    // Both sides are walked in their own order, so both are dense.
    const Ends ends{.src = builder.hbm("src", plane_dtype(src), shape.elements * src_planes),
                    .dst = builder.hbm("dst", plane_dtype(dst), shape.elements * dst_planes, true),
                    .loaded = sbuf_dtype(plane_dtype(src)),
                    .stored = sbuf_dtype(plane_dtype(dst)),
                    .smallest_itemsize = std::min(target::itemsize(src), target::itemsize(dst))};
    transpose(builder, target, shape, src_planes, ends);
    return builder.take();
  }
  Spacing from = dense ? spacing(target, shape.src, false) : Spacing{};
  // A cast to a 64-bit type narrows it in SBUF, and what lies in its gaps with it.
  const bool keeps_gaps = src == dst || sbuf_dtype(dst) == dst;
  Spacing to = dense && keeps_gaps ? spacing(target, shape.dst, true) : Spacing{};
  if (shape.elements % unit_of(from, to) != 0 || unit_of(from, to) > target.core.dma_saturating_bytes) {
    (from.moves_span ? to : from) = {};
  }
  const Ends ends{.src = builder.hbm("src", shape.src, from, false),
                  .dst = builder.hbm("dst", shape.dst, to, true),
                  .loaded = src == dst ? src : sbuf_dtype(src),
                  .stored = src == dst ? dst : sbuf_dtype(dst),
                  .smallest_itemsize = std::min(target::itemsize(src), target::itemsize(dst)),
                  .from = from,
                  .to = to};
  if (dense) {
    stream_copy(builder, target, shape.elements, ends);
  } else if (shape.repeated_elements > 0) {
    Repetition(builder, target, shape, ends).emit();
  } else {
    stream_expand(builder, target, shape.src.elements, shape.dst.elements, ends);
  }
  return builder.take();
}

void require_executable(const CopyShape& shape) {
  const Dtype src = shape.src.dtype, dst = shape.dst.dtype;
  const bool is_complex = plane_dtype(src) != src || plane_dtype(dst) != dst;
  if (is_complex && (src != dst || shape.transpose)) {
    only_counts("casts and transposes of complex elements are",
                std::string(target::name(src)) + " to " + std::string(target::name(dst)));
  }
  if (shape.dst.elements != shape.elements || shape.src.elements > shape.elements) {
    only_counts("a copy that does not write every element once is",
                std::to_string(shape.dst.elements) + " of " + std::to_string(shape.elements));
  }
  if (shape.src.elements < shape.elements &&
      (shape.repeated_elements == 0 || shape.src.elements % shape.repeated_elements != 0 ||
       shape.elements % shape.src.elements != 0)) {
    only_counts("a source that repeats in no known order is", std::to_string(shape.src.elements) + " elements");
  }
  if (shape.transpose && shape.src.elements == shape.elements &&
      (shape.rows * shape.cols == 0 || shape.elements % (shape.rows * shape.cols) != 0)) {
    only_counts("transposes of matrices of unknown size are", std::to_string(shape.elements) + " elements");
  }
}

}  // namespace trn::kernels
