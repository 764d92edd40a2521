// Shared construction of Programs: affine indices, loops, tiles and pointwise steps.
#include "kernels/tiling.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "program/opcode.h"
#include "target/error.h"

namespace trn::kernels::tiling {

using program::Buffer;
using program::Item;
using program::Loop;
using program::Memory;
using program::Nest;

Index Index::operator+(const Index& other) const {
  Index sum = *this;
  sum.offset += other.offset;
  sum.strides.resize(std::max(strides.size(), other.strides.size()));
  for (std::size_t d = 0; d < other.strides.size(); ++d) {
    sum.strides[d] += other.strides[d];
  }
  return sum;
}

Index Index::operator*(std::int64_t factor) const {
  Index product = *this;
  product.offset *= factor;
  for (std::int64_t& stride : product.strides) {
    stride *= factor;
  }
  return product;
}

Index Index::operator/(std::int64_t divisor) const {
  Index quotient = *this;
  quotient.offset /= divisor;
  for (std::int64_t& stride : quotient.strides) {
    stride /= divisor;
  }
  return quotient;
}

std::vector<Segment> split(std::int64_t extent, std::int64_t tile) {
  std::vector<Segment> segments;
  const std::int64_t full = extent / tile;
  if (full > 0) {
    segments.push_back({0, full, tile});
  }
  if (extent > full * tile) {
    segments.push_back({full * tile, 1, extent - full * tile});
  }
  return segments;
}

std::vector<RowGroup> row_groups(std::int64_t extent, std::int64_t lanes, std::int64_t tiles) {
  std::vector<RowGroup> groups;
  std::int64_t start = 0;
  const auto add = [&](std::int64_t trips, std::int64_t of_tiles, std::int64_t of_lanes) {
    if (trips > 0 && of_tiles > 0 && of_lanes > 0) {
      groups.push_back({start, trips, of_tiles, of_lanes});
      start += trips * groups.back().rows();
    }
  };
  add(extent / (tiles * lanes), tiles, lanes);
  add(1, (extent - start) / lanes, lanes);
  add(1, 1, extent - start);
  return groups;
}

std::int64_t rows_per_descriptor(const target::Target& target, std::int64_t row_bytes) {
  std::int64_t rows = 1;
  while (rows * row_bytes < target.core.dma_saturating_bytes) {
    rows *= 2;
  }
  return rows;
}

Dtype sbuf_dtype(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64:
      return Dtype::float32;
    case Dtype::int64:
      return Dtype::int32;
    case Dtype::uint64:
      return Dtype::uint32;
    case Dtype::complex128:
      return Dtype::complex64;
    default:
      return dtype;
  }
}

std::int64_t stream_free_elements(const target::Target& target, std::int64_t elements, std::int64_t smallest_itemsize,
                                  std::int64_t bytes_per_element) {
  const std::int64_t shortest = std::max<std::int64_t>(target.core.dma_saturating_bytes / smallest_itemsize, 1);
  const std::int64_t num_tiles = 4 * target.device.num_cores;
  const std::int64_t wanted = std::clamp(elements / (target.core.num_partitions * num_tiles), shortest, 4 * shortest);
  const std::int64_t fitting = target.core.sbuf_bytes_per_partition / std::max<std::int64_t>(bytes_per_element, 1);
  // Even, for the 16-bit performance modes.
  return std::max<std::int64_t>(std::min(wanted, fitting) / 2 * 2, 2);
}

std::int16_t Builder::add(Buffer buffer) {
  constexpr std::size_t kMost = std::numeric_limits<std::int16_t>::max();
  if (program_.buffers.size() >= kMost) {
    throw Error(Category::unsupported, "[program] takes up to " + std::to_string(kMost) + " buffers; got one more.");
  }
  program_.buffers.push_back(std::move(buffer));
  return static_cast<std::int16_t>(program_.buffers.size() - 1);
}

std::int16_t Builder::hbm(std::string name, Dtype dtype, std::int64_t elements, bool is_output,
                          std::int64_t run_elements) {
  return add({.memory = Memory::hbm,
              .dtype = dtype,
              .name = std::move(name),
              .elements = elements,
              .is_output = is_output,
              .run_elements = run_elements < elements ? run_elements : 0});
}

std::int16_t Builder::hbm(std::string name, const Access& access, bool is_output) {
  return hbm(std::move(name), access.dtype, access.elements, is_output, access.contiguous_elements);
}

std::int16_t Builder::hbm(std::string name, const Access& access, const Spacing& spacing, bool is_output) {
  return spacing.moves_span ? hbm(std::move(name), access.dtype, spacing.span(access.elements), is_output)
                            : hbm(std::move(name), access, is_output);
}

std::int16_t Builder::temporary(std::string name, Dtype dtype, std::int64_t elements) {
  return add(
      {.memory = Memory::hbm, .dtype = dtype, .name = std::move(name), .elements = elements, .is_temporary = true});
}

std::int16_t Builder::sbuf(std::string name, Dtype dtype, std::int64_t partitions, std::int64_t elements_per_partition,
                           std::int64_t copies) {
  return add({.memory = Memory::sbuf,
              .dtype = dtype,
              .name = std::move(name),
              .partitions = partitions,
              .elements_per_partition = elements_per_partition,
              .copies = copies});
}

std::int16_t Builder::psum(std::string name, Dtype dtype, std::int64_t partitions, std::int64_t elements_per_partition,
                           std::int64_t copies) {
  return add({.memory = Memory::psum,
              .dtype = dtype,
              .name = std::move(name),
              .partitions = partitions,
              .elements_per_partition = elements_per_partition,
              .copies = copies});
}

void Builder::nest(std::string name) {
  program_.nests.push_back(Nest{std::move(name), {}});
  stack_.assign(1, &program_.nests.back().body);
}

Index Builder::open(std::int64_t trips, bool parallel) {
  auto loop = std::make_unique<Loop>();
  loop->trips = trips;
  loop->parallel = parallel;
  auto* body = &loop->body;
  Index index;
  index.strides.resize(static_cast<std::size_t>(depth()));
  index.strides.push_back(1);
  stack_.back()->push_back(std::move(loop));
  stack_.push_back(body);
  return index;
}

void Builder::close() {
  stack_.pop_back();
}

void Builder::emit(Instruction instruction) {
  const auto& traits = program::traits(instruction.opcode);
  if (static_cast<int>(instruction.src.size()) < traits.num_operands) {
    throw Error(Category::internal, "[" + std::string(program::name(instruction.opcode)) +
                                        "] an instruction needs its operands; got " +
                                        std::to_string(instruction.src.size()) + ", limit " +
                                        std::to_string(traits.num_operands) + ". Pass every source tile.");
  }
  if (instruction.engine == Engine::dma) {
    instruction.engine = traits.engine;
  }
  stack_.back()->push_back(std::move(instruction));
}

void Builder::matmul(const Tile& psum, const Tile& stationary, const Tile& moving, std::int16_t accumulate_depth,
                     std::int16_t accumulate_loops) {
  emit({.opcode = Opcode::nc_matmul,
        .dst = psum,
        .src = {stationary, moving},
        .accumulate_depth = accumulate_depth,
        .accumulate_loops = accumulate_loops});
}

void Builder::transpose(const Tile& psum, const Tile& src) {
  emit({.opcode = Opcode::nc_transpose, .dst = psum, .src = {src}});
}

void Builder::activation(const Tile& dst, const Tile& src, Activation function, float scale, float bias) {
  emit({.opcode = Opcode::activation,
        .dst = dst,
        .src = {src},
        .function = function,
        .scalar0 = scale,
        .scalar1 = bias});
}

void Builder::tensor_copy(const Tile& dst, const Tile& src, Engine engine) {
  emit({.opcode = Opcode::tensor_copy, .engine = engine, .dst = dst, .src = {src}});
}

void Builder::tensor_tensor(const Tile& dst, const Tile& a, const Tile& b, Alu alu) {
  emit({.opcode = Opcode::tensor_tensor, .dst = dst, .src = {a, b}, .alu0 = alu});
}

void Builder::tensor_scalar(const Tile& dst, const Tile& src, Alu alu0, float scalar0, Alu alu1, float scalar1) {
  emit({.opcode = Opcode::tensor_scalar,
        .dst = dst,
        .src = {src},
        .alu0 = alu0,
        .alu1 = alu1,
        .scalar0 = scalar0,
        .scalar1 = scalar1});
}

void Builder::tensor_reduce(const Tile& dst, const Tile& src, Alu alu) {
  emit({.opcode = Opcode::tensor_reduce, .dst = dst, .src = {src}, .alu0 = alu});
}

void Builder::memset(const Tile& dst, float value) {
  emit({.opcode = Opcode::memset, .dst = dst, .scalar0 = value});
}

std::vector<Dim> dims(std::int64_t tiles, std::int64_t pitch, std::int64_t count) {
  return tiles == 1 ? std::vector<Dim>{{count, 1}} : std::vector<Dim>{{tiles, pitch}, {count, 1}};
}

Tile hbm_tile(std::int16_t buffer, std::int64_t partitions, std::int64_t partition_stride, std::vector<Dim> free,
              const Index& address) {
  return {.buffer = buffer,
          .partitions = partitions,
          .partition_stride = partition_stride,
          .free = std::move(free),
          .offset = address.offset,
          .loop_strides = address.strides};
}

Tile on_chip_tile(std::int16_t buffer, std::int64_t partitions, std::vector<Dim> free, const Index& address) {
  return hbm_tile(buffer, partitions, 0, std::move(free), address);
}

Tile on_chip_tile(std::int16_t buffer, std::int64_t partitions, std::int64_t free, const Index& address) {
  return on_chip_tile(buffer, partitions, std::vector<Dim>{{free, 1}}, address);
}

Tile StreamTile::hbm(std::int16_t buffer, std::int64_t unit) const {
  return hbm_tile(buffer, partitions, free * unit, {{free * unit, 1}}, first * unit);
}

Tile Spacing::hbm(std::int16_t buffer, const StreamTile& tile) const {
  return hbm_tile(buffer, tile.partitions, span(tile.free), {{span(tile.free), 1}}, tile.first / run * pitch);
}

Tile Spacing::loaded(std::int16_t buffer, const StreamTile& tile) const {
  return on_chip_tile(buffer, tile.partitions, span(tile.free));
}

Tile Spacing::picked(std::int16_t buffer, const StreamTile& tile) const {
  if (!has_gaps()) {
    return loaded(buffer, tile);
  }
  std::vector<Dim> dims{{tile.free / run, pitch}};
  if (run > 1) {
    dims.push_back({run, 1});
  }
  return on_chip_tile(buffer, tile.partitions, std::move(dims));
}

Spacing spacing(const target::Target& target, const Access& access, bool is_output) {
  const std::int64_t run = access.contiguous_elements;
  if (run <= 0 || run >= access.elements || access.span_elements < access.elements || access.elements % run != 0 ||
      access.span_elements % (access.elements / run) != 0) {
    return {};
  }
  const std::int64_t pitch = access.span_elements / (access.elements / run);
  const std::int64_t size = target::itemsize(access.dtype);
  const std::int64_t passes = is_output && pitch > run ? 2 : 1;
  const std::int64_t descriptor = std::max(run * size, (run * size + target.core.dma_saturating_bytes) / 2);
  return passes * pitch * size < descriptor ? Spacing{true, run, pitch} : Spacing{};
}

namespace {

// The operands that steps consume: a running value, then inputs in order, then the first input again.
class Operands {
 public:
  Operands(const std::vector<Tile>& inputs, const Tile& scratch) : inputs_(inputs), scratch_(scratch) {}

  const Tile& next() {
    if (position_ < inputs_.size()) {
      return inputs_[position_++];
    }
    return inputs_.empty() ? scratch_ : inputs_.front();
  }
  const Tile& value() { return value_ ? *value_ : next(); }
  std::size_t num_left() const { return inputs_.size() - position_; }
  void set(const Tile& tile) { value_ = &tile; }

 private:
  const std::vector<Tile>& inputs_;
  const Tile& scratch_;
  std::size_t position_ = 0;
  const Tile* value_ = nullptr;
};

Instruction lower(const Step& step, Operands& operands, const Tile& position) {
  Instruction instruction{.opcode = step.opcode, .engine = program::traits(step.opcode).engine};
  instruction.alu0 = step.alu;
  instruction.function = step.function;
  instruction.scalar0 = step.scalar;
  switch (step.opcode) {
    case Opcode::memset:
      break;
    case Opcode::iota:
    case Opcode::rng:
      instruction.src = {position};
      break;
    case Opcode::affine_select:
      instruction.src = {operands.value(), position};
      break;
    case Opcode::activation:
    case Opcode::activation_reduce:
      instruction.src = {operands.value()};
      instruction.scalar0 = 1;
      instruction.scalar1 = step.scalar;
      break;
    case Opcode::tensor_tensor:
    case Opcode::tensor_copy_predicated:
    case Opcode::local_gather:
      instruction.src = {operands.value()};
      instruction.src.push_back(operands.next());
      break;
    case Opcode::scalar_tensor_tensor: {
      // alu1(alu0(src0, scalar0), src1), so the scaled operand comes first.
      const Tile value = operands.value();
      const Tile other = operands.next();
      instruction.alu0 = Alu::multiply;
      instruction.alu1 = step.alu;
      instruction.src = {other, value};
      if (step.alu == Alu::subtract) {
        instruction.alu1 = Alu::add;
        instruction.scalar0 = -step.scalar;
      } else if (step.alu == Alu::divide) {
        instruction.src = {value, other};
        instruction.scalar0 = 1 / step.scalar;
      }
      break;
    }
    case Opcode::select:
      instruction.src = {operands.value()};
      instruction.src.push_back(operands.next());
      if (operands.num_left() > 0) {
        instruction.src.push_back(operands.next());
      }
      break;
    default:
      instruction.src = {operands.value()};
  }
  return instruction;
}

bool names_operands(const std::vector<Step>& steps) {
  return !steps.empty() && steps.front().dst != Step::kUnnamed;
}

// A step whose operands are named.
class NamedStep {
 public:
  NamedStep(const std::vector<Tile>& inputs, const std::vector<Tile>& outputs, const std::vector<Tile>& temporaries,
            const Tile& position)
      : inputs_(inputs), outputs_(outputs), temporaries_(temporaries), position_(position) {}

  Instruction lower(const Step& step) const {
    Instruction result{.opcode = step.opcode, .engine = program::traits(step.opcode).engine};
    result.dst = tile(step.dst);
    result.alu0 = step.alu;
    result.alu1 = step.alu1;
    result.function = step.function;
    result.scalar0 = step.scalar;
    result.scalar1 = step.scalar1;
    for (const std::int64_t operand : {step.a, step.b, step.c}) {
      if (operand != Step::kUnnamed) {
        result.src.push_back(tile(operand));
      }
    }
    switch (step.opcode) {
      case Opcode::iota:
      case Opcode::rng:
      case Opcode::affine_select:
        result.src.push_back(position_);
        break;
      case Opcode::activation:
        result.scalar0 = step.scalar1;
        result.scalar1 = step.scalar;
        break;
      default:
        break;
    }
    return result;
  }

 private:
  const Tile& tile(std::int64_t operand) const {
    const auto& [tiles, first] = operand >= Step::kOutput      ? std::pair(&outputs_, Step::kOutput)
                                 : operand >= Step::kTemporary ? std::pair(&temporaries_, Step::kTemporary)
                                                               : std::pair(&inputs_, Step::kInput);
    const auto index = static_cast<std::size_t>(operand - first);
    if (operand < first || index >= tiles->size()) {
      throw Error(Category::invalid_argument, "[steps] an operand names an input, a temporary or an output; got " +
                                                  std::to_string(operand) + ". Name one that exists.");
    }
    return (*tiles)[index];
  }

  const std::vector<Tile>&inputs_, &outputs_, &temporaries_;
  const Tile& position_;
};

}  // namespace

void apply_steps(Builder& builder, const std::vector<Step>& steps, const std::vector<Tile>& inputs,
                 const std::vector<Tile>& outputs, const std::vector<Tile>& temporaries, const Tile& position) {
  if (names_operands(steps)) {
    const NamedStep named(inputs, outputs, temporaries, position);
    for (const Step& step : steps) {
      builder.emit(named.lower(step));
    }
    return;
  }
  const Tile& scratch = temporaries.front();
  Operands operands(inputs, scratch);
  const std::size_t num_steps = steps.size();
  const std::size_t num_outputs = outputs.size();
  std::size_t num_written = 0;
  for (std::size_t s = 0; s < num_steps; ++s) {
    Instruction instruction = lower(steps[s], operands, position);
    const bool writes_output = s + num_outputs >= num_steps && num_written < num_outputs;
    const Tile& dst = writes_output ? outputs[num_written++] : scratch;
    instruction.dst = dst;
    builder.emit(std::move(instruction));
    operands.set(dst);
  }
  for (; num_written < num_outputs; ++num_written) {
    if (inputs.empty() && num_steps == 0) {
      builder.memset(outputs[num_written], 0);
    } else {
      builder.tensor_copy(outputs[num_written], operands.value());
    }
  }
}

std::int64_t num_temporaries(const std::vector<Step>& steps) {
  std::int64_t most = 1;
  for (const Step& step : steps) {
    if (step.dst >= Step::kTemporary && step.dst < Step::kOutput) {
      most = std::max<std::int64_t>(most, step.dst - Step::kTemporary + 1);
    }
  }
  return most;
}

}  // namespace trn::kernels::tiling
