// The words of the instruction set, named as in nki.isa and nki.language, each with its table of names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>

namespace trn::target {

enum class Engine : std::uint8_t { tensor, vector, scalar, gpsimd, sync, dma };
inline constexpr int kNumEngines = 6;

enum class Memory : std::uint8_t { hbm, sbuf, psum, host };  // host: beyond the chip's host link

// program/opcode.h holds the table that says engine, operands and cycle rule of each.
enum class Opcode : std::uint8_t {
  dma_copy,           // hbm <-> sbuf, one tile
  dma_transpose,      // the same, two-byte elements transposed on the way
  dma_gather,         // hbm rows picked by an index tile -> sbuf
  dma_scatter,        // sbuf rows -> hbm rows picked by an index tile
  nc_matmul,          // psum[M, N] (+)= stationary[K, M]^T @ moving[K, N]
  nc_transpose,       // TensorE transpose through PSUM
  activation,         // func(scale * x + bias) on ScalarE
  activation_reduce,  // the same, summed along the free axis
  activate2,          // func(alu1(alu0(x, imm0), imm1))
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
  rng,                       // pseudo-random bits
  tensor_scalar_reduce,      // the same with one operation, reduced along the free axis
  tensor_scalar_cumulative,  // running reduction of alu(x, scalar)
  select_reduce,             // select with the maximum along the free axis
  range_select,              // elements whose index lies between two bounds
  dropout,                   // zeroes at random
  nc_stream_shuffle,         // partitions exchanged within each quadrant of 32
  quantize_mx,               // 16-bit values to MXFP8 and their scales
  nc_matmul_mx,              // a product of block-scaled tiles
  nc_n_gather,               // elements of each partition by index
  tensor_partition_reduce,   // alu across partitions
  sequence_bounds,           // first and last index of each segment
  set_rng_seed,
  rand_set_state,  // the words of each partition's generators
  rand_get_state,
  rand2,               // uniform between two bounds
  exponential,         // exp(x - maximum) on VectorE
  nonzero_with_count,  // places of elements that are not 0, and how many there are
  topk,                // the largest of each 16 partitions, and their places
  dma_compute,         // sum of up to 16 tensors on the way
  register_load,       // one value into a register
  register_store,
  register_move,
  semaphore_increment,
  semaphore_wait,
  core_barrier,      // both cores of a logical one go on when both have come
  sendrecv,          // tiles that the two send each other
  sendrecv_compute,  // the same, reduced with one's own
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
  abs_max,  // the operand of the larger size, as it is; of one size the second
  abs_min,
  bitwise_and,
  bitwise_or,
  bitwise_xor,
  invert,
  left_shift,
  right_shift,
  logical_and,
  logical_or,
  logical_xor,
  equal,
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
  abs,  // from here on of one operand
  reciprocal,
  rsqrt,  // on GpSimdE
  square,
  relu,
};

constexpr bool is_unary(Alu alu) {
  return alu == Alu::invert || alu >= Alu::abs;
}

// The comparison with its operands changed over; other operations as they are.
constexpr Alu mirrored(Alu alu) {
  switch (alu) {
    case Alu::less:
      return Alu::greater;
    case Alu::less_equal:
      return Alu::greater_equal;
    case Alu::greater:
      return Alu::less;
    case Alu::greater_equal:
      return Alu::less_equal;
    default:
      return alu;
  }
}

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
  gelu_apprx_tanh,
  gelu_apprx_sigmoid,
  silu,
  softplus,
  mish,
  relu,
  abs,
  sign,
  gelu_dx,
  gelu_apprx_sigmoid_dx,
  silu_dx,
  tanh_dx,
  erf_dx,
  prelu,  // with a slope below 0, of activate2
};

template <class Enum>
struct Named {
  Enum value;
  std::string_view name;
};

inline constexpr Named<Engine> kEngines[] = {
    {Engine::tensor, "tensor"}, {Engine::vector, "vector"}, {Engine::scalar, "scalar"},
    {Engine::gpsimd, "gpsimd"}, {Engine::sync, "sync"},     {Engine::dma, "dma"},
};

inline constexpr Named<Memory> kMemories[] = {
    {Memory::hbm, "hbm"},
    {Memory::sbuf, "sbuf"},
    {Memory::psum, "psum"},
    {Memory::host, "host"},
};

inline constexpr Named<Opcode> kOpcodeNames[] = {
    {Opcode::dma_copy, "dma_copy"},
    {Opcode::dma_transpose, "dma_transpose"},
    {Opcode::dma_gather, "dma_gather"},
    {Opcode::dma_scatter, "dma_scatter"},
    {Opcode::nc_matmul, "nc_matmul"},
    {Opcode::nc_transpose, "nc_transpose"},
    {Opcode::activation, "activation"},
    {Opcode::activation_reduce, "activation_reduce"},
    {Opcode::activate2, "activate2"},
    {Opcode::tensor_tensor, "tensor_tensor"},
    {Opcode::tensor_scalar, "tensor_scalar"},
    {Opcode::scalar_tensor_tensor, "scalar_tensor_tensor"},
    {Opcode::tensor_copy, "tensor_copy"},
    {Opcode::tensor_copy_predicated, "tensor_copy_predicated"},
    {Opcode::select, "select"},
    {Opcode::reciprocal, "reciprocal"},
    {Opcode::tensor_reduce, "tensor_reduce"},
    {Opcode::tensor_tensor_scan, "tensor_tensor_scan"},
    {Opcode::bn_stats, "bn_stats"},
    {Opcode::bn_aggr, "bn_aggr"},
    {Opcode::memset, "memset"},
    {Opcode::iota, "iota"},
    {Opcode::affine_select, "affine_select"},
    {Opcode::local_gather, "local_gather"},
    {Opcode::max8, "max8"},
    {Opcode::nc_find_index8, "nc_find_index8"},
    {Opcode::nc_match_replace8, "nc_match_replace8"},
    {Opcode::rng, "rng"},
    {Opcode::tensor_scalar_reduce, "tensor_scalar_reduce"},
    {Opcode::tensor_scalar_cumulative, "tensor_scalar_cumulative"},
    {Opcode::select_reduce, "select_reduce"},
    {Opcode::range_select, "range_select"},
    {Opcode::dropout, "dropout"},
    {Opcode::nc_stream_shuffle, "nc_stream_shuffle"},
    {Opcode::quantize_mx, "quantize_mx"},
    {Opcode::nc_matmul_mx, "nc_matmul_mx"},
    {Opcode::nc_n_gather, "nc_n_gather"},
    {Opcode::tensor_partition_reduce, "tensor_partition_reduce"},
    {Opcode::sequence_bounds, "sequence_bounds"},
    {Opcode::set_rng_seed, "set_rng_seed"},
    {Opcode::rand_set_state, "rand_set_state"},
    {Opcode::rand_get_state, "rand_get_state"},
    {Opcode::rand2, "rand2"},
    {Opcode::exponential, "exponential"},
    {Opcode::nonzero_with_count, "nonzero_with_count"},
    {Opcode::topk, "topk"},
    {Opcode::dma_compute, "dma_compute"},
    {Opcode::register_load, "register_load"},
    {Opcode::register_store, "register_store"},
    {Opcode::register_move, "register_move"},
    {Opcode::semaphore_increment, "semaphore_increment"},
    {Opcode::semaphore_wait, "semaphore_wait"},
    {Opcode::core_barrier, "core_barrier"},
    {Opcode::sendrecv, "sendrecv"},
    {Opcode::sendrecv_compute, "sendrecv_compute"},
};
inline constexpr std::size_t kNumOpcodes = std::size(kOpcodeNames);

inline constexpr Named<Alu> kAlus[] = {
    {Alu::none, "none"},
    {Alu::add, "add"},
    {Alu::subtract, "subtract"},
    {Alu::multiply, "multiply"},
    {Alu::divide, "divide"},
    {Alu::maximum, "maximum"},
    {Alu::minimum, "minimum"},
    {Alu::power, "power"},
    {Alu::modulo, "modulo"},
    {Alu::abs_max, "abs_max"},
    {Alu::abs_min, "abs_min"},
    {Alu::bitwise_and, "bitwise_and"},
    {Alu::bitwise_or, "bitwise_or"},
    {Alu::bitwise_xor, "bitwise_xor"},
    {Alu::invert, "invert"},
    {Alu::left_shift, "left_shift"},
    {Alu::right_shift, "right_shift"},
    {Alu::logical_and, "logical_and"},
    {Alu::logical_or, "logical_or"},
    {Alu::logical_xor, "logical_xor"},
    {Alu::equal, "equal"},
    {Alu::not_equal, "not_equal"},
    {Alu::less, "less"},
    {Alu::less_equal, "less_equal"},
    {Alu::greater, "greater"},
    {Alu::greater_equal, "greater_equal"},
    {Alu::abs, "abs"},
    {Alu::reciprocal, "reciprocal"},
    {Alu::rsqrt, "rsqrt"},
    {Alu::square, "square"},
    {Alu::relu, "relu"},
};

inline constexpr Named<Activation> kActivations[] = {
    {Activation::copy, "copy"},
    {Activation::square, "square"},
    {Activation::sqrt, "sqrt"},
    {Activation::rsqrt, "rsqrt"},
    {Activation::reciprocal, "reciprocal"},
    {Activation::exp, "exp"},
    {Activation::log, "log"},
    {Activation::sin, "sin"},
    {Activation::arctan, "arctan"},
    {Activation::tanh, "tanh"},
    {Activation::sigmoid, "sigmoid"},
    {Activation::erf, "erf"},
    {Activation::gelu, "gelu"},
    {Activation::gelu_apprx_tanh, "gelu_apprx_tanh"},
    {Activation::gelu_apprx_sigmoid, "gelu_apprx_sigmoid"},
    {Activation::silu, "silu"},
    {Activation::softplus, "softplus"},
    {Activation::mish, "mish"},
    {Activation::relu, "relu"},
    {Activation::abs, "abs"},
    {Activation::sign, "sign"},
    {Activation::gelu_dx, "gelu_dx"},
    {Activation::gelu_apprx_sigmoid_dx, "gelu_apprx_sigmoid_dx"},
    {Activation::silu_dx, "silu_dx"},
    {Activation::tanh_dx, "tanh_dx"},
    {Activation::erf_dx, "erf_dx"},
    {Activation::prelu, "prelu"},
};

// The table of an enumeration, reached by type.
inline constexpr const auto& names(Engine) {
  return kEngines;
}
inline constexpr const auto& names(Memory) {
  return kMemories;
}
inline constexpr const auto& names(Opcode) {
  return kOpcodeNames;
}
inline constexpr const auto& names(Alu) {
  return kAlus;
}
inline constexpr const auto& names(Activation) {
  return kActivations;
}

template <class Enum>
constexpr bool is_in_order(const Enum last) {
  std::size_t index = 0;
  for (const auto& row : names(Enum{})) {
    if (static_cast<std::size_t>(row.value) != index++) {
      return false;
    }
  }
  return index == static_cast<std::size_t>(last) + 1;
}
static_assert(is_in_order(Engine::dma) && std::size(kEngines) == kNumEngines);
static_assert(is_in_order(Memory::host));
static_assert(is_in_order(Opcode::sendrecv_compute));
static_assert(is_in_order(Alu::relu));
static_assert(is_in_order(Activation::prelu));

template <class Enum>
  requires requires { names(Enum{}); }
constexpr std::string_view name(Enum value) {
  return names(Enum{})[static_cast<std::size_t>(value)].name;
}

}  // namespace trn::target
