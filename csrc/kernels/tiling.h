// What the families share to write a Program: buffers, affine loops, DMA tiles, and streaming a flat tensor.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/shapes.h"
#include "program/program.h"
#include "target/integers.h"
#include "target/target.h"

namespace trn::kernels {

inline std::int64_t product(const std::vector<std::int64_t>& sizes) {
  std::int64_t result = 1;
  for (const std::int64_t size : sizes) {
    result *= size;
  }
  return result;
}

}  // namespace trn::kernels

namespace trn::kernels::tiling {

using program::Dim;
using program::Engine;
using program::Instruction;
using program::Opcode;
using program::Tile;
using target::ceil_div;
using target::round_up;

// An element index that is affine in the enclosing loops: offset + sum(strides[d] * i_d), outermost loop first.
struct Index {
  std::int64_t offset = 0;
  std::vector<std::int64_t> strides;

  Index() = default;
  Index(std::int64_t constant) : offset(constant) {}
  Index(std::int64_t constant, std::vector<std::int64_t> loop_strides)
      : offset(constant), strides(std::move(loop_strides)) {}
  Index operator+(const Index& other) const;
  Index operator*(std::int64_t factor) const;
  Index operator/(std::int64_t divisor) const;  // exact: the divisor divides the offset and all strides
};

// `trips` tiles of `size` from `start`. split() covers an extent by at most two: full tiles, then the remainder.
struct Segment {
  std::int64_t start = 0, trips = 0, size = 0;
};
std::vector<Segment> split(std::int64_t extent, std::int64_t tile);

// Short rows of HBM go several to a descriptor: lane p of a group has its rows p * tiles to p * tiles + tiles - 1, side
// by side, and tile t of the group is the t-th row of every lane. With one tile a lane is a row.
struct RowGroup {
  std::int64_t start = 0, trips = 0, tiles = 1, lanes = 0;  // `trips` groups, one behind the other

  std::int64_t rows() const { return tiles * lanes; }
};
// Of `extent` rows, `lanes` of them to a tile, at most `tiles` to a group: whole groups, one of fewer tiles, then what
// does not fill a tile. All but the last begin at a whole number of tiles.
std::vector<RowGroup> row_groups(std::int64_t extent, std::int64_t lanes, std::int64_t tiles);
// Rows that make a run which saturates the DMA engines, a power of two.
std::int64_t rows_per_descriptor(const target::Target& target, std::int64_t row_bytes);

// The dtype that a tensor has in SBUF: 64-bit types are narrowed to 32 bits, and a DMA converts on the way.
Dtype sbuf_dtype(Dtype dtype);

// Elements per partition of a streaming tile. From `dma_saturating_bytes` per run (of the smallest element) to four
// times that, as few as give every core four tiles, never more than fit: `bytes_per_element` is the sum over all
// SBUF tiles of the kernel, copies included.
std::int64_t stream_free_elements(const target::Target& target, std::int64_t elements, std::int64_t smallest_itemsize,
                                  std::int64_t bytes_per_element);

struct Spacing;

class Builder {
 public:
  explicit Builder(std::string name) { program_.name = std::move(name); }

  // Declare HBM buffers in the order of the operator's tensors: inputs, then outputs, then temporaries. Zero elements
  // is allowed. `run_elements` is the length of contiguous runs of a tensor that is not dense, else 0.
  std::int16_t hbm(std::string name, Dtype dtype, std::int64_t elements, bool is_output = false,
                   std::int64_t run_elements = 0);
  std::int16_t hbm(std::string name, const Access& access, bool is_output = false);
  std::int16_t hbm(std::string name, const Access& access, const Spacing& spacing, bool is_output);
  std::int16_t temporary(std::string name, Dtype dtype, std::int64_t elements);
  // copies = 2: double buffered, so that loading the next tile overlaps with using this one; 1: resident.
  std::int16_t sbuf(std::string name, Dtype dtype, std::int64_t partitions, std::int64_t elements_per_partition,
                    std::int64_t copies = 2);
  std::int16_t psum(std::string name, Dtype dtype, std::int64_t partitions, std::int64_t elements_per_partition,
                    std::int64_t copies = 2);

  // Starts a nest; whatever follows belongs to it.
  void nest(std::string name);

  // for i in 0..trips: body(i), where i is an Index to compute addresses with. Zero trips emit nothing.
  template <std::invocable<const Index&> Body>
  void loop(std::int64_t trips, Body body, bool parallel = false) {
    if (trips > 0) {
      const Index index = open(trips, parallel);
      body(index);
      close();
    }
  }
  template <std::invocable<const Index&> Body>
  void parallel_loop(std::int64_t trips, Body body) {
    loop(trips, std::move(body), true);
  }
  // for each tile of an extent: body(first element, tile size), one loop per Segment.
  template <std::invocable<const Index&, std::int64_t> Body>
  void tiles(std::int64_t extent, std::int64_t tile, Body body, bool parallel = false) {
    for (const Segment& segment : split(extent, tile)) {
      loop(segment.trips, [&](const Index& i) { body(i * segment.size + segment.start, segment.size); }, parallel);
    }
  }
  // for each group: body(first row, group).
  template <std::invocable<const Index&, const RowGroup&> Body>
  void groups(const std::vector<RowGroup>& groups, Body body, bool parallel = false) {
    for (const RowGroup& group : groups) {
      loop(group.trips, [&](const Index& i) { body(i * group.rows() + group.start, group); }, parallel);
    }
  }
  // The same for sums over rows: body(first row, group, share), where each of `num_shares` cores has a share of its
  // own; groups that do not divide evenly go to share 0.
  template <class Body>
  void shared_groups(const std::vector<RowGroup>& groups, std::int64_t num_shares, Body body) {
    for (const RowGroup& group : groups) {
      const std::int64_t each = group.trips / num_shares, rows = group.rows();
      if (each > 0) {
        parallel_loop(num_shares, [&](const Index& share) {
          loop(each, [&](const Index& i) { body(share * (each * rows) + i * rows + group.start, group, share); });
        });
      }
      loop(group.trips - each * num_shares,
           [&](const Index& i) { body(i * rows + (group.start + each * num_shares * rows), group, Index(0)); });
    }
  }
  // for i in 0..count: body(i), without a loop for a single one.
  template <std::invocable<const Index&> Body>
  void each(std::int64_t count, Body body) {
    if (count == 1) {
      body(Index(0));
    } else {
      loop(count, std::move(body));
    }
  }
  // Number of loops that are open here; the innermost has depth() - 1.
  int depth() const { return static_cast<int>(stack_.size()) - 1; }

  void emit(Instruction instruction);
  // dst and src may be in any memory; the DMA converts dtypes.
  void dma(const Tile& dst, const Tile& src) { emit({.opcode = Opcode::dma_copy, .dst = dst, .src = {src}}); }
  void matmul(const Tile& psum, const Tile& stationary, const Tile& moving,
              std::int16_t accumulate_depth = program::kOverwrite, std::int16_t accumulate_loops = 1);
  // src [P, F] -> dst [F, P] in PSUM.
  void transpose(const Tile& psum, const Tile& src);
  void activation(const Tile& dst, const Tile& src, Activation function, float scale = 1, float bias = 0);
  void tensor_copy(const Tile& dst, const Tile& src, Engine engine = Engine::vector);
  void tensor_tensor(const Tile& dst, const Tile& a, const Tile& b, Alu alu);
  void tensor_scalar(const Tile& dst, const Tile& src, Alu alu0, float scalar0, Alu alu1 = Alu::none,
                     float scalar1 = 0);
  void tensor_reduce(const Tile& dst, const Tile& src, Alu alu);
  void memset(const Tile& dst, float value);

  const std::string& name(std::int16_t buffer) const { return program_.buffers[static_cast<std::size_t>(buffer)].name; }
  Dtype dtype(std::int16_t buffer) const { return program_.buffers[static_cast<std::size_t>(buffer)].dtype; }
  program::Program take() { return std::move(program_); }

 private:
  Index open(std::int64_t trips, bool parallel);
  void close();
  std::int16_t add(program::Buffer buffer);

  program::Program program_;
  std::vector<std::vector<program::Item>*> stack_;  // the nest's body, then each open loop's
};

// `count` elements of each of several tiles that lie `pitch` elements apart.
std::vector<Dim> dims(std::int64_t tiles, std::int64_t pitch, std::int64_t count);
// [partitions, free...] at `address` of an HBM buffer, partitions `partition_stride` elements apart.
Tile hbm_tile(std::int16_t buffer, std::int64_t partitions, std::int64_t partition_stride, std::vector<Dim> free,
              const Index& address = {});
// The first `partitions` partitions of an SBUF or PSUM buffer, from element `address` of each.
Tile on_chip_tile(std::int16_t buffer, std::int64_t partitions, std::vector<Dim> free, const Index& address = {});
Tile on_chip_tile(std::int16_t buffer, std::int64_t partitions, std::int64_t free, const Index& address = {});

// One tile of a streamed flat tensor: `partitions` rows of `free` consecutive elements, from element `first`.
struct StreamTile {
  std::int64_t partitions = 0, free = 0;
  Index first = {};
  // The same elements of a flat HBM tensor, each counting for `unit` consecutive ones.
  Tile hbm(std::int16_t buffer, std::int64_t unit = 1) const;
  Tile position() const { return hbm(-1); }
};

// How a kernel moves a flat operand whose elements lie in runs. Short runs with short gaps move as one span, gaps
// included, and engines pick the elements on the chip: `run` of every `pitch`. Else each run is a descriptor of its
// own.
struct Spacing {
  bool moves_span = false;
  std::int64_t run = 1, pitch = 1;

  bool has_gaps() const { return pitch > run; }
  std::int64_t span(std::int64_t elements) const { return elements / run * pitch; }
  // A tile's first element and width are multiples of `run`.
  Tile hbm(std::int16_t buffer, const StreamTile& tile) const;
  Tile loaded(std::int16_t buffer, const StreamTile& tile) const;
  Tile picked(std::int16_t buffer, const StreamTile& tile) const;
};
// A span that is written is read first, for what lies in its gaps.
Spacing spacing(const target::Target& target, const Access& access, bool is_output);

// Covers `elements` of a flat tensor by 128 x F tiles in at most three nests: "body" (full tiles), "remainder" (one
// tile of 128 x less) and "tail" (under 128 elements, on one partition if they fit). `segments` such tensors lie one
// behind the other: each gets the same tiles. Loops are parallel. body(const StreamTile&) emits the instructions of one
// tile.
template <std::invocable<const StreamTile&> Body>
void stream(Builder& builder, const target::Target& target, std::int64_t elements, std::int64_t free_elements,
            Body body, std::int64_t segments = 1, const std::string& prefix = "") {
  const std::int64_t num_partitions = target.core.num_partitions;
  auto emit = [&](const char* name, std::int64_t start, std::int64_t trips, std::int64_t partitions,
                  std::int64_t free) {
    if (trips == 0 || free == 0) {
      return;
    }
    builder.nest(prefix + name);
    auto tiles = [&](const Index& base) {
      builder.parallel_loop(
          trips, [&](const Index& i) { body(StreamTile{partitions, free, base + i * (partitions * free)}); });
    };
    if (segments == 1) {
      tiles(start);
    } else {
      builder.parallel_loop(segments, [&](const Index& s) { tiles(s * elements + start); });
    }
  };
  const std::int64_t tile = num_partitions * free_elements;
  const std::int64_t full = elements / tile;
  const std::int64_t rest = elements - full * tile;
  const std::int64_t narrow = rest / num_partitions;
  const std::int64_t tail = rest - narrow * num_partitions;
  emit("body", 0, full, num_partitions, free_elements);
  emit("remainder", full * tile, 1, num_partitions, narrow);
  const bool one_row = tail <= free_elements;
  emit("tail", elements - tail, 1, one_row ? 1 : tail, one_row ? tail : 1);
}

// Runs `steps` on loaded operand tiles of one shape (or broadcast to it), as shapes.h defines at Step. The last
// outputs.size() steps write the outputs in order; the others write `scratch` (fp32, may be updated in place).
// `position` has the place of each element in its tensor, for iota, rng and affine_select: a tile of no buffer.
// `temporaries`, as many as num_temporaries() says, are the scratch tile's shape.
void apply_steps(Builder& builder, const std::vector<Step>& steps, const std::vector<Tile>& inputs,
                 const std::vector<Tile>& outputs, const std::vector<Tile>& temporaries, const Tile& position = {});
// At least 1.
std::int64_t num_temporaries(const std::vector<Step>& steps);

}  // namespace trn::kernels::tiling
