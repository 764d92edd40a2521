// Cycle rules, bytes and descriptors of single instructions.
#include "program/instruction_cost.h"

#include <algorithm>
#include <cmath>

#include "emu/limits.h"
#include "emu/microscaling.h"
#include "program/opcode.h"
#include "target/integers.h"

namespace trn::program {

using target::ceil_div;

namespace {

const Buffer& buffer_of(const Program& program, const Tile& tile) {
  return program.buffers[static_cast<std::size_t>(tile.buffer)];
}

// Elements of the longest contiguous run of a tile's free dimensions; broadcast dimensions hold one element.
std::int64_t run_length(const Tile& tile) {
  std::int64_t run = 1;
  for (auto dim = tile.free.rbegin(); dim != tile.free.rend(); ++dim) {
    if (dim->size == 1 || dim->stride == 0) {
      continue;
    }
    if (dim->stride != run) {
      break;
    }
    run *= dim->size;
  }
  return run;
}

// The innermost dimension that has several elements, along which an access streams; of one element, that one.
Dim innermost(const Tile& tile) {
  const auto dim = std::find_if(tile.free.rbegin(), tile.free.rend(), [](const Dim& d) { return d.size > 1; });
  return dim == tile.free.rend() ? Dim{1, 0} : *dim;
}

// What the performance modes ask of what an instruction streams; an operand of one element per partition does not
// count.
struct Operands {
  bool low_precision = true;  // all in two bytes, from NeuronCore-v4 on also in one
  bool contiguous = true;     // the innermost dimension of every operand
  bool inputs_in_sbuf = true;
  int num_in_psum = 0;

  Operands(const Program& program, const Instruction& instruction, const target::Core& core)
      : least_bytes_(emu::generation(core) >= 4 ? 1 : 2) {
    for (const Tile& tile : instruction.src) {
      const bool is_per_partition = tile.free_elements() == 1 && instruction.dst.free_elements() > 1;
      if (!is_per_partition) {
        add(program, tile);
      }
    }
    inputs_in_sbuf = num_in_psum == 0;
    add(program, instruction.dst);
  }

 private:
  std::int64_t least_bytes_;

  void add(const Program& program, const Tile& tile) {
    if (tile.buffer < 0) {
      return;
    }
    const Buffer& buffer = buffer_of(program, tile);
    low_precision =
        low_precision && target::is_small_float(buffer.dtype) && target::itemsize(buffer.dtype) >= least_bytes_;
    num_in_psum += buffer.memory == Memory::psum ? 1 : 0;
    const Dim streamed = innermost(tile);
    contiguous = contiguous && (streamed.stride == 0 || run_length(tile) >= streamed.size);
  }
};

std::int64_t speed_up(std::int64_t n, std::int64_t factor) {
  return ceil_div(n, std::max<std::int64_t>(factor, 1));
}

double passes(const Program& program, const Instruction& instruction, const target::Core& core) {
  double most = 0;
  for (std::size_t s = 0; s < 2; ++s) {  // scales come after the two tiles
    const Dtype dtype = buffer_of(program, instruction.src[s]).dtype;
    // A block-scaled tile holds four K-tiles of values.
    const double of_dtype = emu::is_block_scaled(dtype)                                 ? 4 * core.mx_passes
                            : dtype == Dtype::tfloat32                                  ? core.bf16_passes
                            : target::itemsize(dtype) >= 4                              ? core.fp32_passes
                            : target::itemsize(dtype) == 2 || instruction.is_single_row ? core.bf16_passes
                                                                                        : core.fp8_passes;
    most = std::max(most, of_dtype);
  }
  return most;
}

bool is_any(Alu alu, std::initializer_list<Alu> list) {
  return std::find(list.begin(), list.end(), alu) != list.end();
}

constexpr std::int64_t kFullRateStrideBytes = 16;  // between elements; a longer one halves an access's rate

bool is_far_apart(const Program& program, const Tile& tile) {
  return std::abs(innermost(tile).stride) * target::itemsize(buffer_of(program, tile).dtype) > kFullRateStrideBytes;
}

// Per partition. A complex element is two.
std::int64_t elements(const Program& program, const Tile& tile) {
  const Dtype dtype = buffer_of(program, tile).dtype;
  const bool is_complex = dtype == Dtype::complex32 || dtype == Dtype::complex64 || dtype == Dtype::complex128;
  return tile.free_elements() * (is_complex ? 2 : 1);
}

// Cycles that reading or writing a tile takes at one element per partition and cycle.
std::int64_t access_cycles(const Program& program, const Tile& tile) {
  return elements(program, tile) * (is_far_apart(program, tile) ? 2 : 1);
}

// The longest of the instruction's operands.
std::int64_t longest(const Program& program, const Instruction& instruction,
                     std::int64_t (*length_of)(const Program&, const Tile&)) {
  auto length = [&](const Tile& tile) { return length_of(program, tile); };
  std::int64_t n = length(instruction.dst);
  for (const Tile& tile : instruction.src) {
    if (tile.buffer >= 0) {
      n = std::max(n, length(tile));
    }
  }
  return n;
}

// N of the cycle rules: what the instruction streams.
std::int64_t streamed(const Program& program, const Instruction& instruction) {
  return longest(program, instruction, access_cycles);
}

// N of the rules that wait for the arithmetic, however far apart its operands lie.
std::int64_t computed(const Program& program, const Instruction& instruction) {
  return longest(program, instruction, elements);
}

std::int64_t tensor_tensor_cycles(std::int64_t n, Alu alu, const Operands& operands, const target::Core& core) {
  if (!operands.inputs_in_sbuf) {
    return n;
  }
  if (!operands.low_precision) {
    return 2 * n;
  }
  const bool fast = operands.contiguous && is_any(alu, {Alu::add, Alu::subtract, Alu::multiply});
  return speed_up(fast ? n : 2 * n, core.vector_tensor_tensor_bf16_speedup);
}

// Copies and scalar forms: the full performance mode from SBUF to SBUF; half of it where either only the places are
// scattered, or only one end lies in PSUM.
std::int64_t copy_cycles(std::int64_t n, const Operands& operands, const target::Core& core) {
  const int hindrances = operands.num_in_psum + (operands.contiguous ? 0 : 1);
  if (!operands.low_precision || hindrances > 1) {
    return n;
  }
  const std::int64_t mode = core.vector_copy_bf16_speedup;
  return speed_up(n, hindrances == 0 ? mode : mode / 2);
}

// n indices of e elements each: n e / C with C = ((28 + t e) / (t e)) / min(4 / size, e), t = 4 (NKI ISA, SDK 2.26),
// rounded up.
std::int64_t local_gather_cycles(const Program& program, const Instruction& instruction) {
  const Tile& dst = instruction.dst;
  const std::int64_t e = std::max<std::int64_t>(instruction.value, 1);
  const std::int64_t size = std::min<std::int64_t>(target::itemsize(buffer_of(program, dst).dtype), 4);
  const std::int64_t narrow = std::min<std::int64_t>(4 / size, e);
  return ceil_div(dst.free_elements() * 4 * e * narrow, 28 + 4 * e);
}

std::int64_t vector_cycles(const Program& program, const Instruction& instruction, const target::Core& core) {
  const Operands operands(program, instruction, core);
  const std::int64_t n = streamed(program, instruction), num_values = computed(program, instruction);
  const Alu alu = instruction.alu0;
  // An iterative division is the reciprocal's 8N; in 16 bits it keeps up with the other two-operand forms.
  auto divides = [&](Alu operation) { return operation == Alu::divide && !operands.low_precision; };
  switch (traits(instruction.opcode).rule) {
    case CycleRule::activation:
      return instruction.res.buffer >= 0 ? std::max(core.min_instruction_cycles, n) + core.min_instruction_cycles : n;
    case CycleRule::copy:
      return is_any(Alu::reciprocal, {alu, instruction.alu1}) ? 8 * num_values : copy_cycles(n, operands, core);
    case CycleRule::tensor_tensor:
      return divides(alu) ? 8 * num_values : tensor_tensor_cycles(n, alu, operands, core);
    case CycleRule::scalar_tensor: {
      if (divides(instruction.alu1)) {
        return 8 * num_values;
      }
      const bool fast = operands.low_precision && num_values % 2 == 0 &&
                        is_any(instruction.alu1, {Alu::add, Alu::subtract, Alu::multiply});
      return fast ? n : 2 * n;
    }
    case CycleRule::half_rate:
      return 2 * n;
    case CycleRule::predicated:
      return operands.low_precision ? n : 2 * n;
    case CycleRule::reduce:
      return operands.low_precision && is_any(alu, {Alu::add, Alu::maximum}) ? ceil_div(n, 2) : n;
    case CycleRule::reciprocal:
      return 8 * num_values;
    case CycleRule::quarter:
      return ceil_div(n, 4);
    case CycleRule::bn_aggr:
      return ceil_div(13 * num_values, 3);
    case CycleRule::memset:
      return operands.low_precision && instruction.scalar0 == 0 ? ceil_div(n, 2) : n;
    default:
      return n;
  }
}

std::int64_t tensor_cycles(const Program& program, const Instruction& instruction, const target::Core& core) {
  const std::int64_t least = core.min_instruction_cycles;
  if (instruction.opcode == Opcode::nc_transpose) {
    const Tile& src = instruction.src[0];
    return std::max(src.partitions, std::min(least, src.free_elements()));
  }
  const std::int64_t stationary = instruction.src[0].free_elements();
  const std::int64_t moving = instruction.src[1].free_elements();
  const auto one_pass = static_cast<double>(std::max(std::min(least, stationary), moving));
  const auto busy = static_cast<std::int64_t>(std::ceil(one_pass * passes(program, instruction, core)));
  const bool is_far = is_far_apart(program, instruction.src[1]) || is_far_apart(program, instruction.dst);
  return is_far ? std::max(busy, 2 * moving) : busy;
}

}  // namespace

bool is_indexed(Opcode opcode) {
  return opcode == Opcode::dma_gather || opcode == Opcode::dma_scatter;
}

namespace {

std::int64_t picked_elements(const Instruction& instruction) {
  return (instruction.opcode == Opcode::dma_gather ? instruction.dst : instruction.src[0]).elements();
}

// Distinct bytes of HBM behind a tile: broadcast partitions and dimensions are read once. Of a tensor whose rows an
// index picks, what lies at the other end: a row as often as it is picked.
std::int64_t hbm_bytes(const Program& program, const Instruction& instruction, const Tile& tile) {
  std::int64_t elements = 1;
  if (is_indexed(instruction.opcode)) {
    elements = picked_elements(instruction);
  } else {
    elements = tile.partition_stride == 0 && tile.partitions > 1 ? 1 : tile.partitions;
    for (const Dim& dim : tile.free) {
      elements *= dim.stride == 0 ? 1 : dim.size;
    }
  }
  return elements * target::itemsize(buffer_of(program, tile).dtype);
}

std::int64_t descriptors(const Program& program, const Instruction& instruction, const Tile& tile) {
  if (is_indexed(instruction.opcode)) {  // a row for each index, in as many runs as it has
    const Tile& rows = instruction.opcode == Opcode::dma_gather ? instruction.src[0] : instruction.dst;
    return instruction.src[1].elements() * (rows.free_elements() / std::max<std::int64_t>(run_length(rows), 1));
  }
  const Buffer& buffer = buffer_of(program, tile);
  const std::int64_t row = run_length(tile);
  const std::int64_t num_rows = tile.elements() / std::max<std::int64_t>(row, 1);
  return buffer.run_elements > 0 ? num_rows * ceil_div(row, buffer.run_elements) : num_rows;
}

void add_bytes(std::int64_t Counts::* hbm, std::int64_t Counts::* sbuf, std::int64_t Counts::* psum, Counts& counts,
               const Program& program, const Instruction& instruction, const Tile& tile, std::int64_t times) {
  if (tile.buffer < 0) {
    return;
  }
  const Buffer& buffer = buffer_of(program, tile);
  switch (buffer.memory) {
    case Memory::hbm:
      counts.*hbm += times * hbm_bytes(program, instruction, tile);
      break;
    case Memory::sbuf:
      counts.*sbuf += times * tile.elements() * target::itemsize(buffer.dtype);
      break;
    case Memory::psum:
      counts.*psum += times * tile.elements() * target::itemsize(buffer.dtype);
      break;
    case Memory::host:
      break;
  }
}

}  // namespace

std::int64_t cycles(const Program& program, const Instruction& instruction, const target::Core& core) {
  if (instruction.engine == Engine::dma || traits(instruction.opcode).rule == CycleRule::none) {
    return 0;
  }
  if (instruction.engine == Engine::tensor) {
    return tensor_cycles(program, instruction, core);
  }
  const CycleRule rule = traits(instruction.opcode).rule;
  if (rule == CycleRule::local_gather) {
    return core.gpsimd_fixed_cycles + local_gather_cycles(program, instruction);
  }
  if (rule == CycleRule::gpsimd_dma) {
    const Tile& tile = instruction.src.front();
    const auto bytes = static_cast<double>(tile.elements() * target::itemsize(buffer_of(program, tile).dtype));
    const double seconds = bytes / core.gpsimd_dma_bytes_per_second;
    return core.gpsimd_fixed_cycles + static_cast<std::int64_t>(std::ceil(seconds * core.gpsimd_clock_hz));
  }
  if (rule == CycleRule::topk) {
    return 4 * instruction.value + instruction.dst.free_elements();
  }
  if (rule == CycleRule::gather_512) {
    const std::int64_t n = streamed(program, instruction);
    return core.gpsimd_fixed_cycles * ceil_div(n, 512) + n;
  }
  if (rule == CycleRule::gpsimd || instruction.engine == Engine::gpsimd) {
    // A quarter of ScalarE's rate, at the same clock (NKI's page of engines for operators on several).
    const bool is_rsqrt = is_any(Alu::rsqrt, {instruction.alu0, instruction.alu1});
    return core.gpsimd_fixed_cycles + streamed(program, instruction) * (is_rsqrt ? 4 : 1);
  }
  if (instruction.engine == Engine::scalar && rule == CycleRule::copy) {
    const bool low_precision = Operands(program, instruction, core).low_precision;
    return std::max(core.min_instruction_cycles,
                    speed_up(streamed(program, instruction), low_precision ? core.scalar_bf16_speedup : 1));
  }
  const std::int64_t busy = std::max(core.min_instruction_cycles, vector_cycles(program, instruction, core));
  return rule == CycleRule::plus_reduce ? busy + core.min_instruction_cycles : busy;
}

double clock_hz(Engine engine, const target::Target& target) {
  const target::Core& core = target.core;
  switch (engine) {
    case Engine::tensor:
      return core.tensor_clock_hz * target.device.tensor_efficiency;
    case Engine::vector:
      return core.vector_clock_hz;
    case Engine::scalar:
      return core.scalar_clock_hz;
    default:
      return core.gpsimd_clock_hz;
  }
}

double result_latency_seconds(Engine engine, const target::Target& target) {
  const target::Core& core = target.core;
  const std::int64_t cycles = engine == Engine::vector   ? core.vector_result_cycles
                              : engine == Engine::scalar ? core.scalar_result_cycles
                                                         : core.access_overhead_cycles;
  return static_cast<double>(cycles) / clock_hz(engine, target);
}

bool holds(const Port& port, const Program& program, const Instruction& instruction, const target::Core& core) {
  if (emu::generation(core) != 2 || std::ranges::find(port.engines, instruction.engine) == port.engines.end()) {
    return false;
  }
  auto lies_there = [&](const Tile& tile) {
    return tile.buffer >= 0 && buffer_of(program, tile).memory == port.memory;
  };
  return lies_there(instruction.dst) || lies_there(instruction.res) || std::ranges::any_of(instruction.src, lies_there);
}

bool is_exchange(Opcode opcode) {
  return opcode == Opcode::sendrecv || opcode == Opcode::sendrecv_compute;
}

bool adds_in_place(const Instruction& instruction) {
  return (instruction.opcode == Opcode::dma_scatter || instruction.opcode == Opcode::dma_copy) &&
         instruction.alu0 == Alu::add;
}

int transfer_passes(const Program& program, const Instruction& instruction, const target::Core& core) {
  const bool is_near_memory = emu::generation(core) >= 4 && buffer_of(program, instruction.dst).memory == Memory::sbuf;
  return adds_in_place(instruction) && !is_near_memory ? 2 : 1;
}

Transfer transfer(const Program& program, const Instruction& instruction) {
  Transfer result;
  if (instruction.dst.buffer < 0) {
    return result;
  }
  const auto end = [&](const Tile& tile) {
    const std::int64_t elements = is_indexed(instruction.opcode) ? picked_elements(instruction) : tile.elements();
    return Transfer{descriptors(program, instruction, tile),
                    elements * target::itemsize(buffer_of(program, tile).dtype)};
  };
  const auto add = [&](const Tile& tile) {
    if (tile.buffer >= 0 && buffer_of(program, tile).memory == Memory::hbm) {
      const Transfer moved = end(tile);
      result.descriptors = std::max(result.descriptors, moved.descriptors);
      result.bytes = std::max(result.bytes, moved.bytes);
    }
  };
  // The engines take in every source, wherever it lies; those of both cores where both reduce.
  if (instruction.opcode == Opcode::dma_compute || is_exchange(instruction.opcode)) {
    const int times = instruction.opcode == Opcode::sendrecv_compute ? 2 : 1;
    for (const Tile& tile : instruction.src) {
      const Transfer moved = end(tile);
      result.descriptors += times * moved.descriptors;
      result.bytes += times * moved.bytes;
    }
  }
  add(instruction.dst);
  for (const Tile& tile : instruction.src) {
    add(tile);
  }
  if (result.descriptors == 0) {  // between two places on the chip: a run per partition
    result.descriptors = instruction.dst.partitions;
    result.bytes = instruction.dst.elements() * target::itemsize(buffer_of(program, instruction.dst).dtype);
  }
  return result;
}

namespace {

// Rows picked by a 64-bit index come one at a time, however short they are.
double indexing_seconds(const Program& program, const Instruction& instruction, const target::Target& target) {
  if (!is_indexed(instruction.opcode) || target::itemsize(buffer_of(program, instruction.src[1]).dtype) < 8) {
    return 0;
  }
  const Tile& tile = instruction.opcode == Opcode::dma_gather ? instruction.dst : instruction.src[0];
  return static_cast<double>(descriptors(program, instruction, tile)) * target.device.gather_int64_seconds_per_index;
}

}  // namespace

double dma_seconds(const Program& program, const Instruction& instruction, const target::Target& target,
                   double num_cores) {
  const Transfer moved = transfer(program, instruction);
  if (moved.descriptors == 0) {
    return 0;
  }
  const auto saturating = static_cast<double>(target.core.dma_saturating_bytes);
  const double run = static_cast<double>(moved.bytes) / static_cast<double>(moved.descriptors);
  const double charged = static_cast<double>(moved.descriptors) * std::max(run, (run + saturating) / 2);
  double rate = std::min(target.device.hbm_bytes_per_second * target.device.hbm_efficiency,
                         num_cores * target.core.dma_bytes_per_second);
  for (const Tile* tile : {&instruction.dst, &instruction.src.front()}) {
    if (buffer_of(program, *tile).memory == Memory::host) {
      rate = std::min(rate, target.device.host_bytes_per_second);
    }
  }
  if (instruction.opcode == Opcode::dma_transpose) {
    const bool is_on_chip = buffer_of(program, instruction.src.front()).memory == Memory::sbuf;
    rate *= is_on_chip ? target.core.dma_transpose_on_chip_efficiency : target.core.dma_transpose_efficiency;
  }
  return std::max(charged / rate, indexing_seconds(program, instruction, target));
}

void add_instruction(Counts& counts, const Program& program, const Instruction& instruction, const target::Core& core,
                     std::int64_t times) {
  const auto engine = static_cast<std::size_t>(instruction.engine);
  counts.instructions[engine] += times;
  counts.busy_cycles[engine] += times * cycles(program, instruction, core);
  if (instruction.opcode == Opcode::core_barrier) {
    return;  // moves nothing
  }
  add_bytes(&Counts::hbm_write_bytes, &Counts::sbuf_write_bytes, &Counts::psum_write_bytes, counts, program,
            instruction, instruction.dst, times);
  add_bytes(&Counts::hbm_write_bytes, &Counts::sbuf_write_bytes, &Counts::psum_write_bytes, counts, program,
            instruction, instruction.res, times);
  for (const Tile& tile : instruction.src) {
    add_bytes(&Counts::hbm_read_bytes, &Counts::sbuf_read_bytes, &Counts::psum_read_bytes, counts, program, instruction,
              tile, times);
  }
  if (adds_in_place(instruction) && buffer_of(program, instruction.dst).memory == Memory::hbm) {
    counts.hbm_read_bytes += times * hbm_bytes(program, instruction, instruction.dst);
  }
  if (instruction.engine == Engine::dma && instruction.dst.buffer >= 0) {
    counts.dma_transfers += times;
    counts.dma_descriptors += times * transfer(program, instruction).descriptors;
  }
  if (instruction.engine == Engine::tensor && !instruction.src.empty()) {
    // The array is busy as a whole, whatever part of it the tile fills.
    const bool moves_data = instruction.opcode == Opcode::nc_transpose;
    const Tile& moving = instruction.src[moves_data ? 0 : 1];
    const std::int64_t columns = moves_data ? moving.partitions : moving.free_elements();
    const std::int64_t flops = times * 2 * core.num_partitions * core.stationary_free_max_elements * columns;
    const Dtype dtype = buffer_of(program, moving).dtype;
    counts.hardware_flops[moves_data ? Dtype::bfloat16 : dtype] += flops;  // one pass, whatever is moved
    counts.transpose_flops += moves_data ? flops : 0;
  }
}

}  // namespace trn::program
