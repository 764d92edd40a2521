// Walks a Program's loops and hands each instruction's operands to its engine.
#include "program/execute.h"

#include <string>
#include <vector>

#include "program/instruction_cost.h"
#include "program/opcode.h"
#include "target/error.h"

namespace trn::program {
namespace {

class Execution {
 public:
  Execution(const Program& program, emu::NeuronCore& core, std::span<const emu::HbmTensor> tensors, Counts* counts)
      : program_(program), core_(core), counts_(counts) {
    core.sbuf.reset();
    core.psum.reset();
    bind(tensors);
    allocate();
  }

  void run() {
    for (const Nest& nest : program_.nests) {
      run_items(nest.body);
    }
  }

 private:
  // Where a buffer lives: a tensor in HBM, or an offset on the chip.
  struct Place {
    emu::HbmTensor tensor;
    std::int64_t offset = 0;
  };

  void bind(std::span<const emu::HbmTensor> tensors) {
    std::size_t num_bound = 0;
    for (const Buffer& buffer : program_.buffers) {
      Place place;
      if (buffer.memory == Memory::hbm && buffer.is_temporary) {
        const auto bytes = static_cast<std::size_t>(buffer.elements * target::itemsize(buffer.dtype));
        temporaries_.emplace_back(bytes, std::byte{0xFF});
        place.tensor = {temporaries_.back().data(), buffer.elements, buffer.dtype};
      } else if (buffer.memory == Memory::hbm) {
        if (num_bound == tensors.size()) {
          refuse("every HBM buffer needs a tensor", std::to_string(tensors.size()), "Bind " + buffer.name + ".");
        }
        place.tensor = tensors[num_bound++];
        if (place.tensor.elements != buffer.elements || place.tensor.dtype != buffer.dtype) {
          refuse("the tensor bound to " + buffer.name + " must be the one that the program was built for",
                 std::to_string(place.tensor.elements) + " of " + std::string(target::name(place.tensor.dtype)) +
                     ", limit " + std::to_string(buffer.elements) + " of " + std::string(target::name(buffer.dtype)),
                 "Build a program for these shapes.");
        }
      }
      places_.push_back(std::move(place));
    }
    if (num_bound != tensors.size()) {
      refuse("tensors and HBM buffers must pair up",
             std::to_string(tensors.size()) + " tensors, limit " + std::to_string(num_bound), "Bind each buffer once.");
    }
  }

  void allocate() {
    for (std::size_t b = 0; b < program_.buffers.size(); ++b) {
      const Buffer& buffer = program_.buffers[b];
      const std::int64_t bytes = buffer.elements_per_partition * target::itemsize(buffer.dtype);
      if (buffer.memory == Memory::sbuf) {
        places_[b].offset = core_.sbuf.allocate(bytes, buffer.name);
      } else if (buffer.memory == Memory::psum) {
        places_[b].offset = core_.psum.allocate(bytes, buffer.name);
      }
    }
  }

  void run_items(const std::vector<Item>& items) {
    for (const Item& item : items) {
      if (const auto* instruction = std::get_if<Instruction>(&item)) {
        run(*instruction);
        continue;
      }
      const Loop& loop = *std::get<std::unique_ptr<Loop>>(item);
      indices_.push_back(0);
      for (std::int64_t i = 0; i < loop.trips; ++i) {
        indices_.back() = i;
        run_items(loop.body);
      }
      indices_.pop_back();
    }
  }

  std::int64_t address(const Tile& tile) const {
    std::int64_t sum = tile.offset;
    for (std::size_t d = 0; d < tile.loop_strides.size() && d < indices_.size(); ++d) {
      sum += tile.loop_strides[d] * indices_[d];
    }
    return sum;
  }

  static std::vector<emu::Extent> extents(const Tile& tile) {
    std::vector<emu::Extent> free;
    for (const Dim& dim : tile.free) {
      free.push_back({dim.size, dim.stride});
    }
    return free;
  }

  emu::View view(const Tile& tile) const {
    const auto b = static_cast<std::size_t>(tile.buffer);
    const Buffer& buffer = program_.buffers[b];
    const Place& place = places_[b];
    switch (buffer.memory) {
      case Memory::hbm:
        return place.tensor.view(tile.partitions, tile.partition_stride, address(tile), extents(tile), buffer.name);
      case Memory::sbuf:
        return core_.sbuf.view(place.offset, buffer.elements_per_partition, buffer.dtype, tile.partitions,
                               address(tile), extents(tile), buffer.name);
      case Memory::psum:
        return core_.psum.view(place.offset, buffer.elements_per_partition, buffer.dtype, tile.partitions,
                               address(tile), extents(tile), buffer.name);
      case Memory::host:
        break;
    }
    throw Error(Category::unimplemented,
                "[execute] host transfers are counted, not executed; got " + buffer.name + ". Copy it on the host.");
  }

  emu::IndexPattern pattern(const Tile& tile) const { return {address(tile), tile.partition_stride, extents(tile)}; }

  bool accumulates(const Instruction& instruction) const {
    if (instruction.accumulate_depth < 0) {
      return instruction.accumulate_depth == kAccumulate;
    }
    return indices_[static_cast<std::size_t>(instruction.accumulate_depth)] > 0;
  }

  void run(const Instruction& i) {
    const emu::View dst = view(i.dst);
    auto src = [&](std::size_t s) { return view(i.src[s]); };
    switch (i.opcode) {
      case Opcode::dma_copy:
        core_.dma.copy(dst, src(0));
        break;
      case Opcode::nc_matmul:
        core_.tensor.nc_matmul(dst, src(0), src(1), accumulates(i));
        break;
      case Opcode::nc_transpose:
        core_.tensor.nc_transpose(dst, src(0));
        break;
      case Opcode::activation:
        core_.scalar.activation(dst, src(0), i.function, i.scalar0, i.scalar1);
        break;
      case Opcode::tensor_tensor:
        core_.vector.tensor_tensor(dst, src(0), src(1), i.alu0);
        break;
      case Opcode::tensor_scalar:
        core_.vector.tensor_scalar(dst, src(0), i.alu0, i.scalar0, i.alu1, i.scalar1);
        break;
      case Opcode::scalar_tensor_tensor:
        core_.vector.scalar_tensor_tensor(dst, src(0), src(1), i.alu0, i.scalar0, i.alu1);
        break;
      case Opcode::tensor_copy:
        core_.vector.tensor_copy(dst, src(0));
        break;
      case Opcode::tensor_copy_predicated:
        core_.vector.tensor_copy_predicated(dst, src(0), src(1), i.scalar0);
        break;
      case Opcode::select:
        if (i.src.size() > 2) {
          core_.vector.select(dst, src(0), src(1), src(2));
        } else {
          core_.vector.select(dst, src(0), src(1), i.scalar0);
        }
        break;
      case Opcode::reciprocal:
        core_.vector.reciprocal(dst, src(0));
        break;
      case Opcode::memset:
        core_.vector.memset(dst, i.scalar0);
        break;
      case Opcode::iota:
        core_.gpsimd.iota(dst, pattern(i.src[0]), i.scalar0);
        break;
      case Opcode::rng:
        core_.gpsimd.rng(dst, pattern(i.src[0]));
        break;
      default:
        throw Error(Category::unimplemented, "[execute] this instruction is counted, not executed; got " +
                                                 std::string(name(i.opcode)) + ". Use reference numerics for it.");
    }
    if (counts_ != nullptr) {
      add_instruction(*counts_, program_, i, core_.core, 1);
    }
  }

  [[noreturn]] static void refuse(const std::string& rule, const std::string& got, const std::string& fix) {
    throw Error(Category::invalid_argument, "[execute] " + rule + "; got " + got + ". " + fix);
  }

  const Program& program_;
  emu::NeuronCore& core_;
  Counts* counts_;
  std::vector<Place> places_;
  std::vector<std::vector<std::byte>> temporaries_;
  std::vector<std::int64_t> indices_;
};

}  // namespace

void execute(const Program& program, emu::NeuronCore& core, std::span<const emu::HbmTensor> tensors) {
  Execution(program, core, tensors, nullptr).run();
}

Counts execute_counted(const Program& program, emu::NeuronCore& core, std::span<const emu::HbmTensor> tensors) {
  Counts counts;
  const std::int64_t read = core.dma.hbm_read_bytes(), written = core.dma.hbm_write_bytes();
  Execution(program, core, tensors, &counts).run();
  counts.hbm_read_bytes = core.dma.hbm_read_bytes() - read;
  counts.hbm_write_bytes = core.dma.hbm_write_bytes() - written;
  return counts;
}

}  // namespace trn::program
