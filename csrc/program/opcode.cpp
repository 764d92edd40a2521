// The table of instructions, one row each.
#include "program/opcode.h"

#include <iterator>

namespace trn::program {
namespace {

constexpr OpcodeTraits kTraits[] = {
    {Opcode::dma_copy, Engine::dma, 1, CycleRule::none,
     "dst, src, [priority], [oob_mode], [dge_mode], [engine], [dst_rmw_op], [queue]",
     "HBM or SBUF, as many elements; casts through fp32, not with hwdge; dst_rmw_op is add; priority 0 to 3 from v4; "
     "dge_mode unknown, none, swdge or hwdge (from v3), engine sync or scalar with hwdge: hints without a cost of "
     "their own"},
    {Opcode::dma_transpose, Engine::dma, 1, CycleRule::none,
     "dst, src, [axes], [priority], [dge_mode], [oob_mode], [queue]",
     "dst in SBUF; 2 or 4 bytes; axes (1, 0), (2, 1, 0) or (3, 1, 2, 0)"},
    {Opcode::dma_gather, Engine::dma, 2, CycleRule::none, "dst, src, index, [oob_mode], [queue]",
     "src in HBM, index 32-bit in SBUF; out of bounds: error or skip"},
    {Opcode::dma_scatter, Engine::dma, 2, CycleRule::none, "dst, src, index, [dst_rmw_op], [oob_mode], [queue]",
     "dst in HBM, index 32-bit in SBUF; indices need not be unique with add"},
    {Opcode::nc_matmul, Engine::tensor, 2, CycleRule::matmul,
     "dst, stationary, moving, [is_stationary_onezero], [is_moving_onezero], [is_transpose], [accumulate], "
     "[tile_position], [tile_size], [perf_mode]",
     "stationary [K <= 128, M <= 128] and moving [K, N <= 512] in SBUF, dst in one PSUM bank, fp32 (from v4: up to all "
     "of PSUM, fp32 or bf16); fp32 and tf32 pair with each other; float8_e4m3fn from v4, not with float8_e4m3; "
     "double_row: FP8 [K, 2, M], [K, 2, N], from v3, at twice the rate; without accumulate: onto what was written "
     "there, else over it; is_transpose: moving is the identity; onezero is a hint"},
    {Opcode::nc_transpose, Engine::tensor, 1, CycleRule::transpose, "dst, data, [engine]",
     "TensorE: up to 128x128, SBUF to PSUM (v2 spreads NaN and Inf); VectorE: up to 32x32; one dtype"},
    {Opcode::activation, Engine::scalar, 1, CycleRule::activation,
     "dst, op, data, [bias], [scale], [reduce_op], [reduce_res], [reduce_cmd]",
     "scale fp32, bias not tf32, scalars (bias from v3) or [P, 1]; reduce_op is add; GpSimdE from v4, in SBUF and "
     "without a reduction"},
    {Opcode::activation_reduce, Engine::scalar, 1, CycleRule::activation,
     "dst, op, data, reduce_op, [reduce_res], [bias], [scale]", "as activation; reduce_res [P, 1]"},
    {Opcode::activate2, Engine::scalar, 1, CycleRule::activation,
     "dst, op, data, imm0, imm1, op0, op1, [relu_param], [reverse0], [reverse1], [reduce_op], [reduce_res], "
     "[reduce_cmd], [engine]",
     "op0 and op1 multiply with add, subtract or bypass, or add, subtract or bypass alone; imm0, imm1 and relu_param "
     "scalars or [P, 1]; reduce_op add, maximum, minimum, abs_max or abs_min; GpSimdE in SBUF and without a reduction",
     4},
    {Opcode::tensor_tensor, Engine::vector, 2, CycleRule::tensor_tensor, "dst, data1, data2, op, [engine]",
     "not both inputs in PSUM; power, and int32 and uint32 unless asked otherwise, on GpSimdE, which takes SBUF only "
     "and "
     "computes integers as such; bitwise operations take integers"},
    {Opcode::tensor_scalar, Engine::vector, 1, CycleRule::copy,
     "dst, data, op0, operand0, [reverse0], [op1], [operand1], [reverse1], [engine]",
     "operands scalars or [P, 1]; both operations bitwise or neither; ScalarE before v4: multiply, add, multiply and "
     "add; reciprocal in 8 N; rsqrt alone on GpSimdE, in 4 N, in SBUF; abs_max, abs_min, square and relu from v4"},
    {Opcode::scalar_tensor_tensor, Engine::vector, 2, CycleRule::scalar_tensor,
     "dst, data, op0, operand0, op1, operand1, [reverse0], [reverse1]",
     "not both inputs in PSUM; no bitwise operations"},
    {Opcode::tensor_copy, Engine::vector, 1, CycleRule::copy, "dst, src, [engine]",
     "bits kept where the dtype is; GpSimdE not in PSUM; ScalarE from v3"},
    {Opcode::tensor_copy_predicated, Engine::vector, 1, CycleRule::predicated, "dst, src, predicate, [reverse_pred]",
     "predicate unsigned, one dtype, not both inputs in PSUM; reverse_pred with a scalar only"},
    {Opcode::select, Engine::vector, 2, CycleRule::full, "dst, predicate, on_true, on_false", "", 2, true},
    {Opcode::reciprocal, Engine::vector, 1, CycleRule::reciprocal, "dst, data", ""},
    {Opcode::tensor_reduce, Engine::vector, 1, CycleRule::reduce, "dst, op, data, axis, [negate], [keepdims]",
     "the innermost free axes; bitwise operations take integers"},
    {Opcode::tensor_tensor_scan, Engine::vector, 1, CycleRule::half_rate,
     "dst, data0, data1, initial, op0, op1, [reverse0], [reverse1]",
     "not both inputs in PSUM; initial a scalar or [P, 1]; no bitwise operations"},
    {Opcode::bn_stats, Engine::vector, 1, CycleRule::full, "dst, data",
     "at most 512 elements per partition; dst [P, 6]"},
    {Opcode::bn_aggr, Engine::vector, 1, CycleRule::bn_aggr, "dst, data",
     "a multiple of 3 elements per partition; dst [P, 2]"},
    {Opcode::memset, Engine::vector, 0, CycleRule::memset, "dst, value, [engine]",
     "integers of integer tiles; x4 tiles: 0"},
    {Opcode::iota, Engine::gpsimd, 0, CycleRule::gpsimd, "dst, pattern, [offset], [channel_multiplier]",
     "SBUF; pattern of at most 4 [step, num] pairs; int32"},
    {Opcode::affine_select, Engine::gpsimd, 1, CycleRule::gpsimd,
     "dst, pattern, channel_multiplier, on_true_tile, on_false_value, [cmp_op], [offset]",
     "SBUF; pattern of at most 4 [step, num] pairs; int32; cmp_op is a comparison"},
    {Opcode::local_gather, Engine::gpsimd, 2, CycleRule::local_gather,
     "dst, src_buffer, index, [num_elem_per_idx], [num_valid_indices]",
     "SBUF; partitions a multiple of 16; index uint16, at most 4096 per 16 partitions; num_elem_per_idx 1, 2, 4, 8, 16 "
     "or 32; one dtype"},
    {Opcode::max8, Engine::vector, 1, CycleRule::full, "dst, src", "8 to 16384 elements per partition; dst [P, 8]"},
    {Opcode::nc_find_index8, Engine::vector, 1, CycleRule::full, "dst, data, vals",
     "8 to 16384 elements per partition; vals [P, 8]; dst [P, 8], uint16 or uint32"},
    {Opcode::nc_match_replace8, Engine::vector, 1, CycleRule::full, "dst, data, vals, imm, [dst_idx]",
     "at most 16384 elements per partition; vals [P, 8]; dst_idx uint16 or uint32"},
    {Opcode::rng, Engine::vector, 0, CycleRule::full, "dst, [engine]", "integers; GpSimdE from v3, in SBUF, in 150 + N",
     2, true},
    {Opcode::tensor_scalar_reduce, Engine::vector, 1, CycleRule::plus_reduce,
     "dst, data, op0, operand0, reduce_op, [reduce_res], [reverse0], [reduce_cmd], [reduce_init], [reduce_res_negate]",
     "no bitwise operations; reduce_op add, multiply, maximum or minimum; reduce_res [P, 1]; reduce_init with "
     "load_reduce"},
    {Opcode::tensor_scalar_cumulative, Engine::vector, 1, CycleRule::half_rate,
     "dst, src, op0, op1, imm0, [imm1], [reduce_cmd]",
     "op1 add, subtract, multiply, maximum or minimum; no 32-bit integers; imm1 with load_reduce", 2, true},
    {Opcode::select_reduce, Engine::vector, 2, CycleRule::full,
     "dst, predicate, on_true, on_false, [reduce_res], [reduce_cmd], [reduce_op], [reverse_pred]",
     "predicate 8- or 16-bit integers, on_true no 32-bit integers, not both in PSUM; on_false a scalar or [P, 1]", 2,
     true},
    {Opcode::range_select, Engine::vector, 1, CycleRule::full,
     "dst, on_true_tile, comp_op0, comp_op1, bound0, bound1, [reduce_cmd], [reduce_res], [reduce_op], [range_start], "
     "[on_false_value]",
     "floating; bounds fp32 [P, 1]; comparisons; on_false_value is the lowest fp32", 3},
    {Opcode::dropout, Engine::vector, 1, CycleRule::full, "dst, data, prob",
     "prob 0 to 1, a scalar or [P, 1] (of integers: fp32); one dtype"},
    {Opcode::nc_stream_shuffle, Engine::vector, 1, CycleRule::full, "dst, src, shuffle_mask",
     "mask of 32, 255 leaves a partition alone; one dtype"},
    {Opcode::quantize_mx, Engine::vector, 1, CycleRule::quarter, "dst, src, dst_scale",
     "SBUF; src bf16 or fp16, partitions a multiple of 32, columns of 4; dst x4 FP8; dst_scale uint8, in the first 16 "
     "partitions of each quadrant",
     4},
    {Opcode::nc_matmul_mx, Engine::tensor, 4, CycleRule::matmul,
     "dst, stationary, moving, stationary_scale, moving_scale, [tile_position], [tile_size], [accumulate]",
     "x4 dtypes in SBUF, K a multiple of 32, M even; scales uint8 as quantize_mx lays them; N as nc_matmul's", 4},
    {Opcode::nc_n_gather, Engine::gpsimd, 2, CycleRule::gather_512, "dst, data, indices",
     "SBUF; indices uint32; one dtype", 2, true},
    {Opcode::tensor_partition_reduce, Engine::gpsimd, 1, CycleRule::gpsimd, "dst, op, data",
     "SBUF; add, maximum, bitwise_or or bitwise_and; dst [1, N]", 2, true},
    {Opcode::sequence_bounds, Engine::gpsimd, 1, CycleRule::gpsimd, "dst, segment_ids",
     "SBUF, one partition; fp32 or int32; dst [1, 2 N]", 2, true},
    {Opcode::set_rng_seed, Engine::vector, 1, CycleRule::full, "src_seeds", "[1, 1] of 32 bits", 2, true},
    {Opcode::rand_set_state, Engine::gpsimd, 1, CycleRule::gpsimd, "src_seeds, [engine]",
     "uint32, [P, 6] in SBUF for GpSimdE's generators, [P, 24] for VectorE's (from v4)", 3, true},
    {Opcode::rand_get_state, Engine::gpsimd, 0, CycleRule::gpsimd, "dst, [engine]", "as rand_set_state", 3, true},
    {Opcode::rand2, Engine::vector, 0, CycleRule::quarter, "dst, min, max", "bounds scalars or [P, 1]", 4, true},
    {Opcode::exponential, Engine::vector, 1, CycleRule::quarter,
     "dst, src, [max_value], [reduce_res], [reduce_cmd], [reduce_init]",
     "max_value and reduce_init scalars or fp32 [P, 1]; reduce_init with load_reduce only; reduce_res [P, 1]", 4, true},
    {Opcode::nonzero_with_count, Engine::gpsimd, 1, CycleRule::gpsimd, "dst, src, [index_offset], [padding_val]",
     "SBUF; of partitions 0, 16, 32, ... only; src fp32 or int32, dst [P, N + 1] int32", 3, true},
    {Opcode::topk, Engine::gpsimd, 1, CycleRule::topk, "val_dst, idx_dst, src, n",
     "SBUF, whole groups of 16 partitions; src and val_dst bf16, idx_dst uint32; 8 to 65535 elements n of a group, K "
     "up "
     "to n and 32767",
     3},
    {Opcode::dma_compute, Engine::dma, 1, CycleRule::none,
     "dst, srcs, reduce_op, [scales], [unique_indices], [oob_mode], [queue]", "at most 16 sources; scales of 1; add"},
    {Opcode::register_load, Engine::sync, 1, CycleRule::none, "dst, src",
     "64 registers; one element of at most 32 bits"},
    {Opcode::register_store, Engine::sync, 0, CycleRule::none, "dst, src",
     "64 registers; one element of at most 32 bits"},
    {Opcode::register_move, Engine::sync, 0, CycleRule::none, "dst, src",
     "64 registers; another one, or a number of 32 bits"},
    {Opcode::semaphore_increment, Engine::sync, 0, CycleRule::none, "semaphore, [value], [engine], [queue]",
     "after all that the engine or DMA queue was given before", 2, true},
    {Opcode::semaphore_wait, Engine::sync, 0, CycleRule::none, "semaphore, value, [engine], [queue]",
     "holds all that the engine or DMA queue is given after it; a value that no instruction before it can have reached "
     "raises",
     2, true},
    {Opcode::core_barrier, Engine::gpsimd, 1, CycleRule::none, "data, cores, [engine]",
     "both cores of a logical one; data in HBM; cores (0, 1); holds up the engine", 3, true},
    {Opcode::sendrecv, Engine::dma, 1, CycleRule::gpsimd_dma,
     "src, dst, send_to_rank, recv_from_rank, pipe_id, [dma_engine], [queue]",
     "both cores of a logical one; SBUF, one dtype and shape on both; gpsimd_dma: at most 1024, 512 or "
     "256 bytes per partition of 32, 16 or 8 bits",
     3, true},
    {Opcode::sendrecv_compute, Engine::dma, 1, CycleRule::none,
     "src, dst, send_to_rank, recv_from_rank, reduce_op, [queue]",
     "as sendrecv, SBUF or HBM; reduce_op add, maximum or minimum", 3, true},
};

constexpr bool is_complete() {
  for (std::size_t i = 0; i < std::size(kTraits); ++i) {
    if (static_cast<std::size_t>(kTraits[i].opcode) != i) {
      return false;
    }
  }
  return std::size(kTraits) == target::kNumOpcodes;
}
static_assert(is_complete());

}  // namespace

const OpcodeTraits& traits(Opcode opcode) {
  return kTraits[static_cast<std::size_t>(opcode)];
}

std::string_view formula(CycleRule rule) {
  switch (rule) {
    case CycleRule::none:
      return "-";
    case CycleRule::matmul:
      return "passes * max(min(64, M), N)";
    case CycleRule::transpose:
      return "TensorE max(P, min(64, F)); VectorE max(64, N)";
    case CycleRule::activation:
      return "max(64, N), and 64 to read a sum out; on GpSimdE 150 + N";
    case CycleRule::plus_reduce:
      return "max(64, N) + 64";
    case CycleRule::copy:
      return "max(64, N / performance mode); GpSimdE 150 + N";
    case CycleRule::full:
      return "max(64, N)";
    case CycleRule::tensor_tensor:
      return "max(64, N) with an input in PSUM; else max(64, 2 N), in 16 bits over the core's speed-up S: 2 N / S, and "
             "N / S of contiguous add, subtract, multiply; max(64, 8 N) where it divides wider ones; GpSimdE 150 + N";
    case CycleRule::scalar_tensor:
      return "max(64, N) for an even N of 16 bits where op1 adds, subtracts or multiplies; max(64, 8 N) where it "
             "divides wider ones; max(64, 2 N)";
    case CycleRule::half_rate:
      return "max(64, 2 N)";
    case CycleRule::predicated:
      return "max(64, N) in 16 bits; max(64, 2 N)";
    case CycleRule::reduce:
      return "max(64, N / 2) for 16-bit add, maximum; max(64, N)";
    case CycleRule::reciprocal:
      return "max(64, 8 N)";
    case CycleRule::bn_aggr:
      return "max(64, 13 N / 3)";
    case CycleRule::memset:
      return "max(64, N / 2) for 16-bit zero; max(64, N); GpSimdE 150 + N";
    case CycleRule::gpsimd:
      return "150 + N";
    case CycleRule::local_gather:
      return "150 + N e / C";
    case CycleRule::gather_512:
      return "150 * ceil(N / 512) + N";
    case CycleRule::topk:
      return "4 n + K";
    case CycleRule::gpsimd_dma:
      return "-; GpSimdE 150 + bytes at the rate of its DMA";
    case CycleRule::quarter:
      return "max(64, N / 4)";
  }
  return "-";
}

}  // namespace trn::program
