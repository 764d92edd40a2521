// Prints a program's buffers and loop nests.
#include "program/text.h"

#include <sstream>

#include "program/opcode.h"

namespace trn::program {
namespace {

void print_buffer(std::ostream& out, const Buffer& buffer) {
  out << "  " << name(buffer.memory) << " " << buffer.name << " " << target::name(buffer.dtype);
  if (buffer.memory == Memory::sbuf || buffer.memory == Memory::psum) {
    out << " [" << buffer.partitions << " x " << buffer.elements_per_partition << "] copies " << buffer.copies;
  } else {
    out << " [" << buffer.elements << "]"
        << (buffer.is_output      ? " output"
            : buffer.is_temporary ? " temporary"
                                  : " input");
    if (buffer.run_elements > 0) {
      out << " runs of " << buffer.run_elements;
    }
  }
  out << "\n";
}

// name[partitions x free x ...], with the address terms that differ from a dense tile's left out.
void print_tile(std::ostream& out, const Program& program, const Tile& tile) {
  out << (tile.buffer < 0 ? std::string("?") : program.buffers[static_cast<std::size_t>(tile.buffer)].name) << "["
      << tile.partitions;
  if (tile.start_partition > 0) {
    out << "@" << tile.start_partition;
  }
  for (const auto& dim : tile.free) {
    out << " x " << dim.size;
    if (dim.stride != 1) {
      out << ":" << dim.stride;
    }
  }
  out << "]";
}

void print_instruction(std::ostream& out, const Program& program, const Instruction& instruction) {
  out << name(instruction.engine) << "." << name(instruction.opcode);
  if (instruction.alu0 != Alu::none) {
    out << " " << name(instruction.alu0);
  }
  if (instruction.alu1 != Alu::none) {
    out << " " << name(instruction.alu1);
  }
  if (instruction.opcode == Opcode::activation || instruction.opcode == Opcode::activation_reduce) {
    out << " " << name(instruction.function);
  }
  out << "  ";
  print_tile(out, program, instruction.dst);
  for (std::size_t i = 0; i < instruction.src.size(); ++i) {
    out << (i == 0 ? " <- " : ", ");
    print_tile(out, program, instruction.src[i]);
  }
  if (instruction.accumulate_depth == kAccumulate) {
    out << "  accumulates";
  } else if (instruction.accumulate_depth != kOverwrite) {
    out << "  accumulates over loop " << instruction.accumulate_depth;
    if (instruction.accumulate_loops > 1) {
      out << " to " << instruction.accumulate_depth + instruction.accumulate_loops - 1;
    }
  }
  out << "\n";
}

void print_body(std::ostream& out, const Program& program, const std::vector<Item>& body, int depth) {
  const std::string indent(static_cast<std::size_t>(2 * depth), ' ');
  for (const auto& item : body) {
    if (const auto* instruction = std::get_if<Instruction>(&item)) {
      out << indent;
      print_instruction(out, program, *instruction);
    } else {
      const auto& loop = *std::get<std::unique_ptr<Loop>>(item);
      out << indent << "loop " << loop.trips << (loop.parallel ? " parallel" : "") << "\n";
      print_body(out, program, loop.body, depth + 1);
    }
  }
}

}  // namespace

std::string text(const Program& program) {
  std::ostringstream out;
  out << "program " << program.name << "\n";
  for (const auto& buffer : program.buffers) {
    print_buffer(out, buffer);
  }
  for (const auto& nest : program.nests) {
    out << "nest " << nest.name << "\n";
    print_body(out, program, nest.body, 1);
  }
  return out.str();
}

}  // namespace trn::program
