// A Program: loop nests of engine instructions over tiles, the one object that is both counted and executed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "target/dtype.h"
#include "target/isa.h"

namespace trn::program {

using target::Dtype;

using target::Activation;
using target::Alu;
using target::Engine;
using target::kNumEngines;
using target::Memory;
using target::Opcode;

struct Dim {
  std::int64_t size = 1;
  std::int64_t stride = 1;  // elements of the buffer
};

// A rectangular operand whose address is affine in the indices of the enclosing loops, outermost first.
// HBM:        element address = offset + sum(loop_strides[d] * i_d) + p * partition_stride + sum(free[j].stride * f_j)
// SBUF, PSUM: partition p, element offset + sum(loop_strides[d] * i_d) + sum(free[j].stride * f_j) of that partition's
// row.
struct Tile {
  std::int16_t buffer = -1;  // index into Program::buffers
  std::int64_t partitions = 1;
  std::int64_t partition_stride = 0;  // HBM only; 0 broadcasts one row to all partitions
  std::int64_t start_partition = 0;   // SBUF and PSUM: where `partitions` begin; DMA alone may start anywhere
  std::vector<Dim> free;              // outermost first; empty is one element
  std::int64_t offset = 0;
  std::vector<std::int64_t> loop_strides;

  std::int64_t free_elements() const {
    std::int64_t product = 1;
    for (const auto& dim : free)
      product *= dim.size;
    return product;
  }
  std::int64_t elements() const { return partitions * free_elements(); }
};

struct Buffer {
  Memory memory = Memory::hbm;
  Dtype dtype = Dtype::float32;
  std::string name;  // "a", "b", "out", "stationary", ...
  // SBUF and PSUM: one copy's extent; `copies` of them rotate, so that loading the next overlaps using this one.
  std::int64_t partitions = 0;
  std::int64_t elements_per_partition = 0;
  std::int64_t copies = 1;
  // HBM buffers in order are the operator's tensor arguments, inputs first, then outputs; temporaries are the device's
  // own. Addresses are logical: a tensor that is not dense states how long its contiguous runs are.
  std::int64_t elements = 0;
  bool is_output = false;
  bool is_temporary = false;
  std::int64_t run_elements = 0;  // 0: dense
  std::int16_t shares_with = -1;  // the buffer whose bytes these are too, as another dtype; -1: its own
};

inline constexpr std::int16_t kOverwrite = -1;
inline constexpr std::int16_t kAccumulate = -2;  // on every trip: the K remainder that follows a loop of full K tiles

// A queue of a core: an engine's instructions in order, or one of its DMA queues.
struct Place {
  std::int16_t core = 0;
  Engine engine = Engine::dma;
  std::int8_t queue = -1;  // as an Instruction's
};

// Sources by opcode, where they are not simply the tiles of its formula. A [P, 1] tile gives each partition a scalar of
// its own; a tile of no buffer in its place, or none, stands for the constant in brackets.
//   activation, activation_reduce  x, scale [scalar0], bias [scalar1]
//   tensor_scalar                  x, operand0 [scalar0], operand1 [scalar1]
//   scalar_tensor_tensor           x, y, operand0 [scalar0]: alu1(alu0(x, operand0), y)
//   tensor_tensor_scan             data0, data1, initial [scalar0]: v = alu1(alu0(data0, v), data1)
//   affine_select                  x, pattern: x where alu0(pattern, 0), else scalar0
//   iota, rng                      pattern: a tile of no buffer, each element the affine value of its place
//   nc_match_replace8              x, values: each value's first match becomes scalar0
//   dma_gather                     rows (a tile of the whole tensor, a row per partition), indices
//   dma_scatter                    x, indices: dst has the rows; alu0 add: they accumulate
//   sendrecv, sendrecv_compute     both cores' tiles: what the first gets is dst, what the other gets is res
struct Instruction {
  Opcode opcode = Opcode::dma_copy;
  Engine engine = Engine::dma;
  Tile dst = {};
  std::vector<Tile> src = {};
  Tile res = {};  // activation_reduce, select_reduce, tensor_scalar_reduce: [P, 1], the reduction of dst
  Alu alu0 = Alu::none;
  Alu alu1 = Alu::none;
  Activation function = Activation::copy;
  float scalar0 = 0;
  float scalar1 = 0;
  // nc_matmul: depth of the loop whose first trip overwrites PSUM and whose later trips accumulate; with
  // accumulate_loops of them nested, the first trip of all.
  std::int16_t accumulate_depth = kOverwrite;
  std::int16_t accumulate_loops = 1;
  std::int8_t queue = -1;      // DMA: the queue; -1: one of the on-chip tile's own
  std::int32_t semaphore = 0;  // semaphore_increment, semaphore_wait: on `engine`, in the order of its instructions
  std::int64_t value = 0;      // of a semaphore; local_gather: elements per index, 0 for one; topk: n
  bool is_single_row = false;  // nc_matmul of FP8 at the rate of 16 bits: without the mode that doubles it
  std::int16_t core = -1;      // of a program recorded on several cores; -1: of the loops' split, or the only one
  std::optional<Place> joined = {};  // where it stands on the other core too: both run it together
};

struct Loop;
using Item = std::variant<Instruction, std::unique_ptr<Loop>>;

struct Loop {
  std::int64_t trips = 1;
  bool parallel = false;  // trips are independent: split over cores and host threads
  std::vector<Item> body;
};

// One nest: in steady state its engines and DMA overlap, and the slowest sets the period.
struct Nest {
  std::string name;  // "body", "right_edge", ...
  std::vector<Item> body;
};

struct Program {
  std::string name;
  std::vector<Buffer> buffers;
  std::vector<Nest> nests;

  // The buffer that stands for all those of the same bytes.
  std::int16_t owner(std::int16_t buffer) const {
    const std::int16_t shared = buffers[static_cast<std::size_t>(buffer)].shares_with;
    return shared < 0 ? buffer : shared;
  }
};

}  // namespace trn::program
