// Binds a Program's operands to memories, once per execution.
#include "program/prepared.h"

#include <algorithm>
#include <string>

#include "target/error.h"
#include "target/integers.h"

namespace trn::program {
namespace {

// Elements that a parallel loop must write for a second thread to be worth its start.
constexpr std::int64_t kForkElements = std::int64_t{1} << 16;

bool is_on_chip(Memory memory) {
  return memory == Memory::sbuf || memory == Memory::psum;
}

class Preparation {
 public:
  Preparation(const Program& program, const emu::NeuronCore& core) : program_(program), core_(core) {}

  PreparedProgram run() {
    PreparedProgram prepared{.program = &program_};
    for (const Nest& nest : program_.nests) {
      for (PreparedItem& item : items(nest.body)) {
        prepared.items.push_back(std::move(item));
      }
    }
    prepared.max_depth = max_depth_;
    find_privates(prepared.items);
    return prepared;
  }

 private:
  std::vector<PreparedItem> items(const std::vector<Item>& body) {
    std::vector<PreparedItem> result;
    for (const Item& item : body) {
      if (const auto* instruction = std::get_if<Instruction>(&item)) {
        result.emplace_back(bind(*instruction));
        continue;
      }
      const Loop& loop = *std::get<std::unique_ptr<Loop>>(item);
      auto prepared = std::make_unique<PreparedLoop>();
      prepared->trips = loop.trips;
      prepared->depth = trips_.size();
      prepared->forks = loop.parallel && loop.trips > 1;
      trips_.push_back(loop.trips);
      max_depth_ = std::max(max_depth_, trips_.size());
      prepared->body = items(loop.body);
      trips_.pop_back();
      result.emplace_back(std::move(prepared));
    }
    return result;
  }

  PreparedInstruction bind(const Instruction& instruction) {
    PreparedInstruction result{.instruction = &instruction, .ordinal = num_instructions_++};
    result.dst = bind(instruction.dst);
    for (const Tile& tile : instruction.src) {
      result.src.push_back(bind(tile));
    }
    result.res = bind(instruction.res);
    return result;
  }

  PreparedOperand bind(const Tile& tile) {
    PreparedOperand operand{.buffer = tile.buffer,
                            .partition_stride = tile.partition_stride,
                            .offset = tile.offset,
                            .strides = tile.loop_strides};
    operand.strides.resize(std::min(operand.strides.size(), trips_.size()));
    emu::View& view = operand.view;
    view.partitions = tile.partitions;
    for (const Dim& dim : tile.free) {
      view.free.push_back({dim.size, dim.stride});
    }
    if (tile.buffer < 0) {
      return operand;
    }
    const Buffer& buffer = program_.buffers[static_cast<std::size_t>(tile.buffer)];
    const std::int64_t size = target::itemsize(buffer.dtype);
    const std::int64_t row_bytes = buffer.elements_per_partition * size;
    view.memory = buffer.memory;
    view.dtype = buffer.dtype;
    view.start_partition = tile.start_partition;
    switch (buffer.memory) {
      case Memory::hbm:
        view.partition_bytes = tile.partition_stride * size;
        require_within(tile, buffer, tile.partition_stride, buffer.elements);
        break;
      case Memory::sbuf:
        view.partition_bytes = emu::Sbuf::pitch(row_bytes);
        require_on_chip(tile, buffer);
        break;
      case Memory::psum:
        view.partition_bytes = core_.psum.pitch(row_bytes);
        require_on_chip(tile, buffer);
        break;
      case Memory::host:
        throw Error(Category::unimplemented, "[execute] host transfers are counted, not executed; got " + buffer.name +
                                                 ". Copy it on the host.");
    }
    operand.offset = operand.offset * size + view.start_partition * view.partition_bytes;
    for (std::int64_t& stride : operand.strides) {
      stride *= size;
    }
    return operand;
  }

  void require_on_chip(const Tile& tile, const Buffer& buffer) const {
    const std::int64_t last = tile.start_partition + tile.partitions;
    if (last > core_.core.num_partitions) {
      refuse("a tile of " + buffer.name + " has too many partitions", last, core_.core.num_partitions);
    }
    require_within(tile, buffer, 0, buffer.elements_per_partition);
  }

  // Addresses are affine, so the first and the last are those of each loop's and dimension's first or last.
  void require_within(const Tile& tile, const Buffer& buffer, std::int64_t partition_stride, std::int64_t limit) const {
    std::int64_t lowest = tile.offset, highest = tile.offset;
    auto extend = [&](std::int64_t size, std::int64_t stride) {
      const std::int64_t reach = stride * (size - 1);
      (reach < 0 ? lowest : highest) += reach;
    };
    extend(tile.partitions, partition_stride);
    for (const Dim& dim : tile.free) {
      extend(dim.size, dim.stride);
    }
    for (std::size_t d = 0; d < std::min(tile.loop_strides.size(), trips_.size()); ++d) {
      extend(trips_[d], tile.loop_strides[d]);
    }
    if (lowest < 0) {
      refuse("a tile must start within " + buffer.name, lowest, 0);
    }
    if (highest + 1 > limit) {
      refuse("a tile must end within " + buffer.name, highest + 1, limit);
    }
  }

  [[noreturn]] static void refuse(const std::string& rule, std::int64_t got, std::int64_t limit) {
    throw Error(Category::hardware_constraint, "[execute] " + rule + "; got " + std::to_string(got) + ", limit " +
                                                   std::to_string(limit) + ". Check the tile's offset and strides.");
  }

  // ---- Private buffers of parallel loops

  static bool reads_first(const PreparedInstruction& item, std::int16_t buffer) {
    const Instruction& instruction = *item.instruction;
    const bool accumulates = instruction.dst.buffer == buffer && instruction.accumulate_depth == kAccumulate;
    return accumulates || std::ranges::any_of(instruction.src, [&](const Tile& t) { return t.buffer == buffer; });
  }

  template <class Visit>
  static void for_each_instruction(const std::vector<PreparedItem>& items, Visit visit) {
    for (const PreparedItem& item : items) {
      if (const auto* instruction = std::get_if<PreparedInstruction>(&item)) {
        visit(*instruction);
      } else {
        for_each_instruction(std::get<std::unique_ptr<PreparedLoop>>(item)->body, visit);
      }
    }
  }

  void find_privates(std::vector<PreparedItem>& items) {
    order_.clear();
    for_each_instruction(items, [&](const PreparedInstruction& item) { order_.push_back(&item); });
    visit_loops(items);
  }

  void visit_loops(std::vector<PreparedItem>& items) {
    for (PreparedItem& item : items) {
      if (auto* loop = std::get_if<std::unique_ptr<PreparedLoop>>(&item)) {
        if ((*loop)->forks) {
          privatise(**loop);
        }
        if (!(*loop)->forks) {  // too small: its inner loops are smaller, and must not fork on shared buffers either
          visit_loops((*loop)->body);
        }
      }
    }
  }

  static std::int64_t elements_of(const std::vector<PreparedItem>& items) {
    std::int64_t sum = 0;
    for (const PreparedItem& item : items) {
      if (const auto* instruction = std::get_if<PreparedInstruction>(&item)) {
        sum += instruction->dst.view.elements();
      } else {
        const PreparedLoop& loop = *std::get<std::unique_ptr<PreparedLoop>>(item);
        sum += loop.trips * elements_of(loop.body);
      }
    }
    return sum;
  }

  void privatise(PreparedLoop& loop) {
    if (loop.trips * elements_of(loop.body) < kForkElements) {
      loop.forks = false;
      return;
    }
    std::int64_t first = -1, last = -1;
    std::vector<bool> seen(program_.buffers.size()), is_private(program_.buffers.size());
    std::vector<bool> reads(program_.buffers.size());
    for_each_instruction(loop.body, [&](const PreparedInstruction& item) {
      first = first < 0 ? item.ordinal : first;
      last = item.ordinal;
      auto touch = [&](std::int16_t buffer) {
        if (buffer >= 0 && !seen[static_cast<std::size_t>(buffer)]) {
          seen[static_cast<std::size_t>(buffer)] = true;
          reads[static_cast<std::size_t>(buffer)] = reads_first(item, buffer);
        }
      };
      std::ranges::for_each(item.src, [&](const PreparedOperand& operand) { touch(operand.buffer); });
      for (const PreparedOperand* result : {&item.dst, &item.res}) {
        touch(result->buffer);
        const bool moves = loop.depth < result->strides.size() && result->strides[loop.depth] != 0;
        const auto b = static_cast<std::size_t>(result->buffer);
        if (result->buffer >= 0 && is_on_chip(program_.buffers[b].memory) && !moves) {
          is_private[b] = true;
        }
      }
    });
    for (std::size_t b = 0; b < is_private.size(); ++b) {
      if (is_private[b]) {
        const auto buffer = static_cast<std::int16_t>(b);
        const Buffer& one = program_.buffers[b];
        const std::int64_t row_bytes = one.elements_per_partition * target::itemsize(one.dtype);
        const std::int64_t pitch =
            one.memory == Memory::sbuf ? emu::Sbuf::pitch(row_bytes) : core_.psum.pitch(row_bytes);
        loop.privates.push_back({.buffer = buffer,
                                 .bytes = static_cast<std::size_t>(pitch * core_.core.num_partitions),
                                 .copy_in = reads[b],
                                 .copy_out = is_read_next(buffer, last)});
      }
    }
  }

  // Is the first use of a buffer after instruction `last` a read?
  bool is_read_next(std::int16_t buffer, std::int64_t last) const {
    for (auto at = static_cast<std::size_t>(last) + 1; at < order_.size(); ++at) {
      if (reads_first(*order_[at], buffer)) {
        return true;
      }
      if (order_[at]->dst.buffer == buffer || order_[at]->res.buffer == buffer) {
        return false;
      }
    }
    return false;
  }

  const Program& program_;
  const emu::NeuronCore& core_;
  std::vector<std::int64_t> trips_;
  std::size_t max_depth_ = 0;
  std::int64_t num_instructions_ = 0;
  std::vector<const PreparedInstruction*> order_;
};

}  // namespace

bool fits_on_chip(const Program& program, const target::Core& core) {
  const std::int64_t bank_bytes = core.psum_bytes_per_partition / core.psum_num_banks;
  std::int64_t sbuf_bytes = 0, psum_bytes = 0;
  for (const Buffer& buffer : program.buffers) {
    const std::int64_t bytes = buffer.elements_per_partition * target::itemsize(buffer.dtype);
    if (buffer.memory == Memory::sbuf) {
      sbuf_bytes += emu::Sbuf::pitch(bytes);
    } else if (buffer.memory == Memory::psum) {
      psum_bytes += target::round_up(bytes, bank_bytes);
    }
  }
  return sbuf_bytes <= core.sbuf_bytes_per_partition && psum_bytes <= core.psum_bytes_per_partition;
}

PreparedProgram prepare(const Program& program, std::span<emu::NeuronCore* const> cores) {
  PreparedProgram prepared = Preparation(program, *cores.front()).run();
  for (emu::NeuronCore* core : cores) {
    core->sbuf.reset();
    core->psum.reset();
    prepared.bases.emplace_back(program.buffers.size(), nullptr);
    for (std::size_t b = 0; b < program.buffers.size(); ++b) {
      const Buffer& buffer = program.buffers[b];
      const std::int64_t elements = buffer.elements_per_partition;
      const std::int64_t bytes = elements * target::itemsize(buffer.dtype);
      if (buffer.memory == Memory::sbuf) {
        const auto offset = core->sbuf.allocate(bytes, buffer.name);
        prepared.bases.back()[b] = core->sbuf.view(offset, elements, buffer.dtype, 1, 0, {}, buffer.name).data;
      } else if (buffer.memory == Memory::psum) {
        const auto offset = core->psum.allocate(bytes, buffer.name);
        prepared.bases.back()[b] = core->psum.view(offset, elements, buffer.dtype, 1, 0, {}, buffer.name).data;
      }
    }
  }
  return prepared;
}

}  // namespace trn::program
