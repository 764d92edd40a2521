// Retypes on-chip buffers by what reads and writes them.
#include "kernels/precision.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "emu/alu.h"

namespace trn::kernels {
namespace {

using program::Buffer;
using program::Instruction;
using program::Item;
using program::Loop;
using program::Memory;
using program::Opcode;
using program::Program;
using program::Tile;

using Set = std::vector<bool>;  // by buffer

bool contains(const Set& set, std::int16_t buffer) {
  return buffer >= 0 && set[static_cast<std::size_t>(buffer)];
}

void put(Set& set, std::int16_t buffer, bool value = true) {
  if (buffer >= 0) {
    set[static_cast<std::size_t>(buffer)] = value;
  }
}

void collect(const std::vector<Item>& items, std::vector<const Instruction*>& into) {
  for (const Item& item : items) {
    if (const auto* instruction = std::get_if<Instruction>(&item)) {
      into.push_back(instruction);
    } else {
      collect(std::get<std::unique_ptr<Loop>>(item)->body, into);
    }
  }
}

std::vector<const Instruction*> instructions_of(const Program& program) {
  std::vector<const Instruction*> all;
  for (const program::Nest& nest : program.nests) {
    collect(nest.body, all);
  }
  return all;
}

// The tiles of a program, and which of them change.
class Retyping {
 public:
  explicit Retyping(Program& program)
      : program_(program), all_(instructions_of(program)), chosen_(program.buffers.size()) {}

  const std::vector<const Instruction*>& instructions() const { return all_; }
  const Buffer& buffer(const Tile& tile) const { return program_.buffers[static_cast<std::size_t>(tile.buffer)]; }
  bool is_on_chip(const Tile& tile, Dtype dtype) const {
    return tile.buffer >= 0 && buffer(tile).dtype == dtype && buffer(tile).memory != Memory::hbm &&
           buffer(tile).memory != Memory::host;
  }
  bool is_operand(const Tile& tile, std::initializer_list<Dtype> dtypes) const {
    return tile.buffer >= 0 && buffer(tile).memory == Memory::hbm && !buffer(tile).is_temporary &&
           std::ranges::find(dtypes, buffer(tile).dtype) != dtypes.end();
  }
  bool is_chosen(const Tile& tile) const { return contains(chosen_, tile.buffer); }
  void choose(const Tile& tile) { put(chosen_, tile.buffer); }
  void drop(const Tile& tile) { put(chosen_, tile.buffer, false); }
  template <class Visit>
  void choose_if(Visit visit) {
    for (std::size_t b = 0; b < chosen_.size(); ++b) {
      chosen_[b] = visit(program_.buffers[b]);
    }
  }
  std::int64_t sbuf_bytes(Dtype to) const {
    std::int64_t bytes = 0;
    for (std::size_t b = 0; b < chosen_.size(); ++b) {
      const Buffer& one = program_.buffers[b];
      if (one.memory == Memory::sbuf) {
        bytes += one.copies * one.elements_per_partition * target::itemsize(chosen_[b] ? to : one.dtype);
      }
    }
    return bytes;
  }
  void apply(Dtype to) {
    for (std::size_t b = 0; b < chosen_.size(); ++b) {
      program_.buffers[b].dtype = chosen_[b] ? to : program_.buffers[b].dtype;
    }
  }

 private:
  Program& program_;
  const std::vector<const Instruction*> all_;
  Set chosen_;
};

bool is_plain_copy(const Instruction& i) {
  return i.opcode == Opcode::tensor_copy || i.opcode == Opcode::dma_copy ||
         (i.opcode == Opcode::activation && i.function == Activation::copy && i.src.size() == 1 && i.scalar0 == 1 &&
          i.scalar1 == 0);
}

// The tiles of an instruction that give each partition a scalar of its own.
template <class Visit>
void for_each_scalar(const Instruction& i, Visit visit) {
  std::size_t first = i.src.size();
  switch (i.opcode) {
    case Opcode::activation:
    case Opcode::activation_reduce:
    case Opcode::tensor_scalar:
    case Opcode::tensor_scalar_reduce:
      first = 1;
      break;
    case Opcode::scalar_tensor_tensor:
    case Opcode::tensor_tensor_scan:
      first = 2;
      break;
    default:
      break;
  }
  for (std::size_t s = first; s < i.src.size(); ++s) {
    visit(i.src[s]);
  }
}

// TensorE pairs fp32 only with fp32, and a transpose keeps its dtype: drops what would break that, until nothing does.
void keep_legal(Retyping& tiles) {
  for (bool changed = true; changed;) {
    changed = false;
    for (const Instruction* i : tiles.instructions()) {
      if (i->opcode == Opcode::nc_matmul || i->opcode == Opcode::nc_transpose || i->opcode == Opcode::dma_transpose) {
        const Tile& other = i->opcode == Opcode::nc_matmul ? i->src[1] : i->dst;
        if (tiles.is_chosen(i->src[0]) != tiles.is_chosen(other)) {
          tiles.drop(i->src[0]);
          tiles.drop(other);
          changed = true;
        }
      }
    }
  }
}

// A pure move into the set, on the chip.
bool moves_into(const Retyping& tiles, const Instruction& i) {
  return (is_plain_copy(i) || i.opcode == Opcode::nc_transpose) && tiles.is_chosen(i.dst);
}

bool is_whole(float value) {
  return std::isinf(value) || std::trunc(value) == value;
}

// Whether the engines compute the instruction on integer tiles as they do on integers.
bool computes_integers(const Instruction& i) {
  bool has_scalar_tiles = false;
  for_each_scalar(i, [&](const Tile& tile) { has_scalar_tiles = has_scalar_tiles || tile.buffer >= 0; });
  if (has_scalar_tiles || !is_whole(i.scalar0) || !is_whole(i.scalar1) || !emu::has_integer_form(i.alu0) ||
      !emu::has_integer_form(i.alu1)) {
    return false;
  }
  switch (i.opcode) {
    case Opcode::activation:
      return is_plain_copy(i);
    case Opcode::dma_copy:
    case Opcode::dma_gather:
    case Opcode::dma_scatter:
    case Opcode::nc_matmul:
    case Opcode::nc_transpose:
    case Opcode::tensor_tensor:
    case Opcode::tensor_scalar:
    case Opcode::scalar_tensor_tensor:
    case Opcode::tensor_copy:
    case Opcode::tensor_copy_predicated:
    case Opcode::select:
    case Opcode::tensor_reduce:
    case Opcode::memset:
    case Opcode::iota:
      return true;
    default:
      return false;
  }
}

bool is_signed_or_small(Dtype dtype) {
  switch (dtype) {
    case Dtype::int8:
    case Dtype::int16:
    case Dtype::int32:
    case Dtype::int64:
    case Dtype::uint8:
    case Dtype::uint16:
    case Dtype::boolean:
      return true;
    default:
      return false;
  }
}

bool is_of_integers(const Program& program, const Retyping& tiles) {
  const bool has_integers = std::ranges::all_of(program.buffers, [](const Buffer& buffer) {
    return buffer.memory != Memory::hbm || is_signed_or_small(buffer.dtype);
  });
  return has_integers &&
         std::ranges::all_of(tiles.instructions(), [](const Instruction* i) { return computes_integers(*i); });
}

}  // namespace

void cast_products(Program& program, Dtype to) {
  Retyping tiles(program);
  Set multiplied(program.buffers.size()), sums(program.buffers.size());
  for (const Instruction* i : tiles.instructions()) {
    if (i->opcode == Opcode::nc_matmul) {
      put(sums, i->dst.buffer);
      for (const std::size_t s : {0U, 1U}) {
        put(multiplied, i->src[s].buffer, tiles.is_on_chip(i->src[s], Dtype::float32));
      }
    }
  }
  tiles.choose_if([&](const Buffer& buffer) {
    const auto b = static_cast<std::size_t>(&buffer - program.buffers.data());
    return buffer.dtype == Dtype::float32 && buffer.memory != Memory::hbm && buffer.memory != Memory::host && !sums[b];
  });
  // Everything else stays only while each read of it is a move into what is cast.
  Set is_read(program.buffers.size());
  for (const Instruction* i : tiles.instructions()) {
    for (const Tile& tile : i->src) {
      put(is_read, tile.buffer);
    }
  }
  for (bool changed = true; changed;) {
    changed = false;
    auto drop = [&](const Tile& tile) {
      if (tiles.is_chosen(tile) && !contains(multiplied, tile.buffer)) {
        tiles.drop(tile);
        changed = true;
      }
    };
    for (const Instruction* i : tiles.instructions()) {
      if (i->opcode != Opcode::nc_matmul && !moves_into(tiles, *i)) {
        std::ranges::for_each(i->src, drop);
      }
      if (!contains(is_read, i->dst.buffer)) {
        drop(i->dst);
      }
      drop(i->res);
      if (i->opcode == Opcode::nc_transpose && !tiles.is_chosen(i->src[0])) {
        drop(i->dst);
      }
    }
  }
  keep_legal(tiles);
  tiles.apply(to);
}

void cast_operands(Program& program, Dtype to, bool casts_results) {
  Retyping tiles(program);
  auto is_fp32 = [&](const Tile& tile) { return tiles.is_operand(tile, {Dtype::float32, Dtype::float64}); };
  auto is_tile = [&](const Tile& tile) {
    return tiles.is_on_chip(tile, Dtype::float32) && tiles.buffer(tile).memory == Memory::sbuf;
  };
  Set accumulates(program.buffers.size());
  for (const Instruction* i : tiles.instructions()) {
    if (i->opcode == Opcode::dma_copy && is_fp32(i->src[0]) && is_tile(i->dst)) {
      tiles.choose(i->dst);
    }
    if (i->opcode == Opcode::dma_copy && is_fp32(i->dst) && is_tile(i->src[0])) {
      tiles.choose(i->src[0]);
    }
    const bool in_place = std::ranges::any_of(i->src, [&](const Tile& tile) { return tile.buffer == i->dst.buffer; });
    const bool reduces = i->opcode == Opcode::tensor_reduce || i->opcode == Opcode::tensor_tensor_scan ||
                         i->opcode == Opcode::bn_stats || i->opcode == Opcode::bn_aggr;
    if (i->opcode != Opcode::dma_copy && !casts_results && (in_place || reduces)) {
      put(accumulates, i->dst.buffer);
    }
  }
  for (const Instruction* i : tiles.instructions()) {
    for_each_scalar(*i, [&](const Tile& tile) { tiles.drop(tile); });
    tiles.drop(i->res);
    if (contains(accumulates, i->dst.buffer)) {
      tiles.drop(i->dst);
    }
    const bool keeps_bits = i->opcode == Opcode::dma_gather || i->opcode == Opcode::dma_scatter ||
                            i->opcode == Opcode::dma_compute || i->opcode == Opcode::dma_transpose;
    if (keeps_bits) {
      tiles.drop(i->dst);
      std::ranges::for_each(i->src, [&](const Tile& tile) { tiles.drop(tile); });
    }
  }
  // What a chosen tile meets on TensorE goes with it.
  for (const Instruction* i : tiles.instructions()) {
    if (i->opcode == Opcode::nc_transpose && tiles.is_chosen(i->src[0]) && tiles.is_on_chip(i->dst, Dtype::float32)) {
      tiles.choose(i->dst);
    }
    if (i->opcode == Opcode::nc_matmul && (tiles.is_chosen(i->src[0]) || tiles.is_chosen(i->src[1]))) {
      for (const std::size_t s : {0U, 1U}) {
        if (is_tile(i->src[s])) {
          tiles.choose(i->src[s]);
        }
      }
    }
  }
  for (const Instruction* i : tiles.instructions()) {
    if (i->opcode == Opcode::nc_matmul) {
      tiles.drop(i->dst);
    }
  }
  keep_legal(tiles);
  tiles.apply(to);
}

void widen_integers(Program& program, const target::Core& core) {
  Retyping tiles(program);
  for (const Instruction* i : tiles.instructions()) {
    if (i->opcode == Opcode::dma_copy && tiles.is_operand(i->src[0], {Dtype::int64}) &&
        tiles.is_on_chip(i->dst, Dtype::int32)) {
      tiles.choose(i->dst);
    }
    if (i->opcode == Opcode::dma_copy && tiles.is_operand(i->dst, {Dtype::int64}) &&
        tiles.is_on_chip(i->src[0], Dtype::int32)) {
      tiles.choose(i->src[0]);
    }
  }
  const bool is_exact = is_of_integers(program, tiles);
  for (const Instruction* i : tiles.instructions()) {
    for (const Tile* tile : {&i->dst, &i->res}) {
      if (is_exact && tiles.is_on_chip(*tile, Dtype::float32)) {
        tiles.choose(*tile);
      }
    }
    if (i->engine == target::Engine::tensor) {
      return;  // TensorE and PSUM have no integers of 64 bits
    }
  }
  if (tiles.sbuf_bytes(Dtype::int64) <= core.sbuf_bytes_per_partition) {
    tiles.apply(Dtype::int64);
  }
}

bool exact_integers(Program& program) {
  Retyping tiles(program);
  if (!is_of_integers(program, tiles)) {
    return false;
  }
  tiles.choose_if([](const Buffer& buffer) {
    return buffer.dtype == Dtype::float32 && (buffer.memory == Memory::sbuf || buffer.memory == Memory::psum);
  });
  tiles.apply(Dtype::int32);
  return true;
}

std::vector<Dtype> narrowed_dtypes(const Program& program) {
  std::vector<Dtype> found;
  auto add = [&](const Tile& hbm, const Tile& chip) {
    if (hbm.buffer < 0 || chip.buffer < 0) {
      return;
    }
    const Buffer& wide = program.buffers[static_cast<std::size_t>(hbm.buffer)];
    const Buffer& tile = program.buffers[static_cast<std::size_t>(chip.buffer)];
    if (wide.memory == Memory::hbm && tile.memory != Memory::hbm && !wide.is_temporary &&
        target::is_narrowed(wide.dtype) && !target::is_narrowed(tile.dtype) &&
        std::ranges::find(found, wide.dtype) == found.end()) {
      found.push_back(wide.dtype);
    }
  };
  for (const Instruction* i : instructions_of(program)) {
    if (i->opcode == Opcode::dma_copy || i->opcode == Opcode::dma_gather || i->opcode == Opcode::dma_scatter) {
      add(i->src[0], i->dst);
      add(i->dst, i->src[0]);
    }
  }
  return found;
}

}  // namespace trn::kernels
