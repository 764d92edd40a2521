// A Program: loop nests of engine instructions over tiles, the one object that is both counted and executed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "target/dtype.h"

namespace trn::program {

using target::Dtype;

enum class Engine : std::uint8_t { tensor, vector, scalar, gpsimd, sync, dma };
inline constexpr int kNumEngines = 6;

enum class Memory : std::uint8_t { hbm, sbuf, psum };

// Named as in nki.isa. opcode.h holds the table that says engine, operands and cycle rule of each.
enum class Opcode : std::uint8_t {
  dma_copy,           // hbm <-> sbuf, one tile
  dma_transpose,      // the same, two-byte elements transposed on the way
  dma_gather,         // hbm rows picked by an index tile -> sbuf
  dma_scatter,        // sbuf rows -> hbm rows picked by an index tile
  nc_matmul,          // psum[M, N] (+)= stationary[K, M]^T @ moving[K, N]
  nc_transpose,       // TensorE transpose through PSUM
  activation,         // func(scale * x + bias) on ScalarE
  activation_reduce,  // the same, summed along the free axis
  tensor_tensor,      // alu(a, b)
  tensor_scalar,      // alu1(alu0(x, scalar0), scalar1)
  scalar_tensor_tensor,
  tensor_copy,  // also the cast
  tensor_copy_predicated,
  select,
  reciprocal,
  tensor_reduce,  // alu along the free axis
  tensor_tensor_scan,
  bn_stats,
  bn_aggr,
  memset,
  iota,
  affine_select,
  local_gather,
  max8,
  nc_find_index8,
  nc_match_replace8,
  rng,  // pseudo-random bits
};

// AluOp of nki.isa for VectorE and GpSimdE; `none` where the instruction takes no second operation.
enum class Alu : std::uint8_t {
  none,
  add,
  subtract,
  multiply,
  divide,
  maximum,
  minimum,
  power,
  modulo,
  abs_max,
  bitwise_and,
  bitwise_or,
  bitwise_xor,
  bitwise_not,
  shift_left,
  shift_right,
  logical_and,
  logical_or,
  logical_xor,
  equal,
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
};

// Functions of ScalarE's piecewise-polynomial unit, by nki.language's names.
enum class Activation : std::uint8_t {
  copy,
  square,
  sqrt,
  rsqrt,
  reciprocal,
  exp,
  log,
  sin,
  arctan,
  tanh,
  sigmoid,
  erf,
  gelu,
  gelu_tanh,
  silu,
  softplus,
  mish,
  relu,
  abs,
  sign,
  gelu_grad,
  silu_grad,
  tanh_grad,
};

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
  // HBM: index of the operator's tensor argument (inputs first, then outputs), or -1 for a device temporary.
  std::int64_t elements = 0;
  bool is_output = false;
};

struct Instruction {
  Opcode opcode = Opcode::dma_copy;
  Engine engine = Engine::dma;
  Tile dst;
  std::vector<Tile> src;
  Alu alu0 = Alu::none;
  Alu alu1 = Alu::none;
  Activation function = Activation::copy;
  float scalar0 = 0;
  float scalar1 = 0;
  // nc_matmul: depth of the loop whose first trip overwrites PSUM and whose later trips accumulate; -1 overwrites.
  std::int16_t accumulate_depth = -1;
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
