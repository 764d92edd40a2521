// Walks a prepared Program's loops and hands each instruction's operands to its engine.
#include "program/execute.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <string>

#include "program/hazards.h"
#include "program/instruction_cost.h"
#include "program/opcode.h"
#include "program/prepared.h"
#include "target/error.h"

namespace trn::program {
namespace {

[[noreturn]] void refuse(const std::string& rule, const std::string& got, const std::string& fix) {
  throw Error(Category::invalid_argument, "[execute] " + rule + "; got " + got + ". " + fix);
}

// A column of scalars, or one for all.
struct Scalar {
  emu::View column;
  bool is_column = false;
  float constant = 0;

  operator emu::ScalarOperand() const { return is_column ? emu::ScalarOperand(column) : emu::ScalarOperand(constant); }
};

// One host thread's walk: its core, the indices of the loops around it, and where it finds each buffer.
class Worker {
 public:
  Worker(const PreparedProgram& prepared, const Workers& workers, std::vector<std::byte*> bases, Counts* counts)
      : prepared_(prepared),
        workers_(workers),
        core_(workers.cores.front()),
        bases_(std::move(bases)),
        counts_(counts),
        indices_(prepared.max_depth) {}

  void run_items(const std::vector<PreparedItem>& items) {
    for (const PreparedItem& item : items) {
      if (const auto* instruction = std::get_if<PreparedInstruction>(&item)) {
        run(*instruction);
        continue;
      }
      const PreparedLoop& loop = *std::get<std::unique_ptr<PreparedLoop>>(item);
      if (loop.forks && !is_forked_ && workers_.cores.size() > 1) {
        fork(loop);
      } else {
        run_trips(loop, 0, loop.trips);
      }
    }
  }

 private:
  void run_trips(const PreparedLoop& loop, std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      indices_[loop.depth] = i;
      run_items(loop.body);
    }
    indices_[loop.depth] = 0;
  }

  void fork(const PreparedLoop& loop) {
    const std::int64_t n = std::min(loop.trips, static_cast<std::int64_t>(workers_.cores.size()));
    std::vector<Worker> forked;
    for (std::int64_t w = 0; w < n; ++w) {
      Worker worker = *this;
      worker.is_forked_ = true;
      worker.core_ = workers_.cores[static_cast<std::size_t>(w)];
      const auto& own = prepared_.bases[static_cast<std::size_t>(w)];
      for (const PrivateBuffer& one : loop.privates) {
        const auto b = static_cast<std::size_t>(one.buffer);
        if (one.copy_in && own[b] != bases_[b]) {
          std::memcpy(own[b], bases_[b], one.bytes);
        }
        worker.bases_[b] = own[b];
      }
      forked.push_back(std::move(worker));
    }
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(n));
    std::vector<Counts> counts(counts_ != nullptr ? static_cast<std::size_t>(n) : 0);
    for (std::size_t w = 0; w < counts.size(); ++w) {
      forked[w].counts_ = &counts[w];
    }
    workers_.run(n, [&](std::int64_t w) {
      try {
        forked[static_cast<std::size_t>(w)].run_trips(loop, loop.trips * w / n, loop.trips * (w + 1) / n);
      } catch (...) {
        errors[static_cast<std::size_t>(w)] = std::current_exception();
      }
    });
    for (const auto& error : errors) {
      if (error) {
        std::rethrow_exception(error);
      }
    }
    for (const Counts& one : counts) {
      *counts_ += one;
    }
    for (const PrivateBuffer& one : loop.privates) {
      const auto b = static_cast<std::size_t>(one.buffer);
      if (one.copy_out && forked.back().bases_[b] != bases_[b]) {
        std::memcpy(bases_[b], forked.back().bases_[b], one.bytes);
      }
    }
  }

  std::int64_t address(const PreparedOperand& operand) const {
    std::int64_t sum = operand.offset;
    for (std::size_t d = 0; d < operand.strides.size(); ++d) {
      sum += operand.strides[d] * indices_[d];
    }
    return sum;
  }

  emu::View view(const PreparedOperand& operand) const {
    emu::View view = operand.view;
    const std::int64_t at = address(operand);
    view.data = bases_[static_cast<std::size_t>(operand.buffer)] + at;
    if (view.memory == Memory::psum) {
      view.bank_offset_bytes = at % core_->psum.bank_bytes();  // buffers begin on a bank
    }
    return view;
  }

  emu::IndexPattern pattern(const PreparedOperand& operand) const {
    return {address(operand), operand.partition_stride, operand.view.free};
  }

  // A number of its own for each instruction that runs, whichever thread runs it.
  std::uint64_t position(const PreparedInstruction& item) const {
    std::uint64_t hash = workers_.launch * 0x9E3779B97F4A7C15ULL + static_cast<std::uint64_t>(item.ordinal);
    for (const std::int64_t index : indices_) {
      hash = (hash ^ static_cast<std::uint64_t>(index)) * 0xD6E8FEB86659FD93ULL;
      hash ^= hash >> 32;
    }
    return hash;
  }

  void run(const PreparedInstruction& item) {
    const Instruction& i = *item.instruction;
    emu::NeuronCore& core = *core_;
    if (core.numerics.stochastic_rounding) {
      core.seek_stochastic_bits(position(item));
    }
    const emu::View dst = view(item.dst);
    auto src = [&](std::size_t s) { return view(item.src[s]); };
    auto scalar = [&](std::size_t s, float constant) {
      const bool is_tile = s < item.src.size() && item.src[s].buffer >= 0;
      return is_tile ? Scalar{src(s), true} : Scalar{{}, false, constant};
    };
    switch (i.opcode) {
      case Opcode::dma_copy:
        core.dma.copy(dst, src(0));
        break;
      case Opcode::dma_transpose:
        core.dma.transpose(dst, src(0), std::array{1, 0});
        break;
      case Opcode::dma_gather:
        core.dma.gather(dst, src(0), src(1));
        break;
      case Opcode::dma_scatter:
        core.dma.scatter(dst, src(0), src(1), i.alu0 == Alu::add);
        break;
      case Opcode::dma_compute: {
        std::vector<emu::View> sources;
        for (std::size_t s = 0; s < item.src.size(); ++s) {
          sources.push_back(src(s));
        }
        core.dma.compute(dst, sources);
        break;
      }
      case Opcode::nc_matmul:
        core.tensor.nc_matmul(dst, src(0), src(1), accumulates(i, indices_));
        break;
      case Opcode::nc_transpose:
        if (i.engine == Engine::vector) {
          core.vector.nc_transpose(dst, src(0));
        } else {
          core.tensor.nc_transpose(dst, src(0));
        }
        break;
      case Opcode::activation:
        core.scalar.activation(dst, src(0), i.function, scalar(1, i.scalar0), scalar(2, i.scalar1));
        break;
      case Opcode::activation_reduce: {
        const emu::View sums = view(item.res);
        core.scalar.activation_reduce(dst, src(0), i.function, scalar(1, i.scalar0), scalar(2, i.scalar1), &sums);
        break;
      }
      case Opcode::tensor_tensor:
        core.vector.tensor_tensor(dst, src(0), src(1), i.alu0);
        break;
      case Opcode::tensor_scalar:
        if (i.engine == Engine::scalar) {
          core.scalar.tensor_scalar(dst, src(0), i.alu0, scalar(1, i.scalar0), i.alu1, scalar(2, i.scalar1));
        } else {
          core.vector.tensor_scalar(dst, src(0), i.alu0, scalar(1, i.scalar0), i.alu1, scalar(2, i.scalar1));
        }
        break;
      case Opcode::scalar_tensor_tensor:
        core.vector.scalar_tensor_tensor(dst, src(0), src(1), i.alu0, scalar(2, i.scalar0), i.alu1);
        break;
      case Opcode::tensor_copy:
        if (i.engine == Engine::scalar) {
          core.scalar.tensor_copy(dst, src(0));
        } else {
          core.vector.tensor_copy(dst, src(0));
        }
        break;
      case Opcode::tensor_copy_predicated:
        core.vector.tensor_copy_predicated(dst, src(0), src(1), i.scalar0);
        break;
      case Opcode::select:
        if (i.src.size() > 2) {
          core.vector.select(dst, src(0), src(1), src(2));
        } else {
          core.vector.select(dst, src(0), src(1), i.scalar0);
        }
        break;
      case Opcode::reciprocal:
        core.vector.reciprocal(dst, src(0));
        break;
      case Opcode::memset:
        core.vector.memset(dst, i.scalar0);
        break;
      case Opcode::tensor_reduce:
        core.vector.tensor_reduce(dst, i.alu0, src(0));
        break;
      case Opcode::tensor_scalar_reduce: {
        const emu::View reduced = view(item.res);
        core.vector.tensor_scalar_reduce(dst, src(0), i.alu0, scalar(1, i.scalar0), i.alu1, &reduced);
        break;
      }
      case Opcode::tensor_tensor_scan:
        core.vector.tensor_tensor_scan(dst, src(0), src(1), scalar(2, i.scalar0), i.alu0, i.alu1);
        break;
      case Opcode::bn_stats:
        core.vector.bn_stats(dst, src(0));
        break;
      case Opcode::bn_aggr:
        core.vector.bn_aggr(dst, src(0));
        break;
      case Opcode::max8:
        core.vector.max8(dst, src(0));
        break;
      case Opcode::nc_find_index8:
        core.vector.nc_find_index8(dst, src(0), src(1));
        break;
      case Opcode::nc_match_replace8: {
        const bool has_places = item.res.buffer >= 0;
        const emu::View places = has_places ? view(item.res) : emu::View{};
        core.vector.nc_match_replace8(dst, src(0), src(1), i.scalar0, has_places ? &places : nullptr);
        break;
      }
      case Opcode::iota:
        core.gpsimd.iota(dst, pattern(item.src[0]), i.scalar0);
        break;
      case Opcode::rng:
        core.gpsimd.rng(dst, pattern(item.src[0]));
        break;
      case Opcode::affine_select:
        core.gpsimd.affine_select(dst, pattern(item.src[1]), src(0), i.scalar0, i.alu0);
        break;
      case Opcode::local_gather:
        core.gpsimd.local_gather(dst, src(0), src(1), 1, 0);
        break;
      case Opcode::nc_n_gather:
        core.gpsimd.nc_n_gather(dst, src(0), src(1));
        break;
      case Opcode::tensor_partition_reduce:
        core.gpsimd.tensor_partition_reduce(dst, i.alu0, src(0));
        break;
      default:
        throw Error(Category::unimplemented, "[execute] this instruction is counted, not executed; got " +
                                                 std::string(name(i.opcode)) + ". Use reference numerics for it.");
    }
    if (counts_ != nullptr) {
      add_instruction(*counts_, *prepared_.program, i, core.core, 1);
    }
  }

  const PreparedProgram& prepared_;
  const Workers& workers_;
  emu::NeuronCore* core_;
  std::vector<std::byte*> bases_;
  Counts* counts_;
  std::vector<std::int64_t> indices_;
  bool is_forked_ = false;
};

// Tensors of the operator in order, and memory for the program's own.
class Binding {
 public:
  Binding(const Program& program, std::span<const emu::HbmTensor> tensors, std::vector<std::byte*>& bases) {
    std::size_t num_bound = 0;
    for (std::size_t b = 0; b < program.buffers.size(); ++b) {
      const Buffer& buffer = program.buffers[b];
      if (buffer.memory != Memory::hbm) {
        continue;
      }
      if (buffer.is_temporary) {
        const auto bytes = static_cast<std::size_t>(buffer.elements * target::itemsize(buffer.dtype));
        temporaries_.emplace_back(new std::byte[bytes]);
        std::memset(temporaries_.back().get(), 0xFF, bytes);
        bases[b] = temporaries_.back().get();
        continue;
      }
      if (num_bound == tensors.size()) {
        refuse("every HBM buffer needs a tensor", std::to_string(tensors.size()), "Bind " + buffer.name + ".");
      }
      const emu::HbmTensor& tensor = tensors[num_bound++];
      if (tensor.elements != buffer.elements || tensor.dtype != buffer.dtype) {
        refuse("the tensor bound to " + buffer.name + " must be the one that the program was built for",
               std::to_string(tensor.elements) + " of " + std::string(target::name(tensor.dtype)) + ", limit " +
                   std::to_string(buffer.elements) + " of " + std::string(target::name(buffer.dtype)),
               "Build a program for these shapes.");
      }
      bases[b] = static_cast<std::byte*>(tensor.data);
    }
    if (num_bound != tensors.size()) {
      refuse("tensors and HBM buffers must pair up",
             std::to_string(tensors.size()) + " tensors, limit " + std::to_string(num_bound), "Bind each buffer once.");
    }
  }

 private:
  std::vector<std::unique_ptr<std::byte[]>> temporaries_;
};

void run(const Program& program, const Workers& workers, std::span<const emu::HbmTensor> tensors, Counts* counts) {
  const PreparedProgram prepared = prepare(program, workers.cores);
  std::vector<std::byte*> bases = prepared.bases.front();
  const Binding binding(program, tensors, bases);
  for (emu::NeuronCore* core : workers.cores) {
    core->gpsimd.set_draws(workers.draws);
  }
  Worker(prepared, workers, std::move(bases), counts).run_items(prepared.items);
}

}  // namespace

void execute(const Program& program, const Workers& workers, std::span<const emu::HbmTensor> tensors) {
  run(program, workers, tensors, nullptr);
}

Counts execute_counted(const Program& program, const Workers& workers, std::span<const emu::HbmTensor> tensors) {
  std::int64_t read = 0, written = 0;
  for (const emu::NeuronCore* core : workers.cores) {
    read -= core->dma.hbm_read_bytes();
    written -= core->dma.hbm_write_bytes();
  }
  Counts counts;
  run(program, workers, tensors, &counts);
  for (const emu::NeuronCore* core : workers.cores) {
    read += core->dma.hbm_read_bytes();
    written += core->dma.hbm_write_bytes();
  }
  counts.hbm_read_bytes = read;
  counts.hbm_write_bytes = written;
  return counts;
}

}  // namespace trn::program
