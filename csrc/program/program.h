// A Program: loop nests of engine instructions over tiles, the one object that is both counted and executed.
#pragma once

#include <cstdint>
#include <memory>
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
};

inline constexpr std::int16_t kOverwrite = -1;
inline constexpr std::int16_t kAccumulate = -2;  // on every trip: the K remainder that follows a loop of full K tiles

struct Instruction {
  Opcode opcode = Opcode::dma_copy;
  Engine engine = Engine::dma;
  Tile dst = {};
  std::vector<Tile> src = {};
  Alu alu0 = Alu::none;
  Alu alu1 = Alu::none;
  Activation function = Activation::copy;
  float scalar0 = 0;
  float scalar1 = 0;
  // nc_matmul: depth of the loop whose first trip overwrites PSUM and whose later trips accumulate.
  std::int16_t accumulate_depth = kOverwrite;
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
};

}  // namespace trn::program
