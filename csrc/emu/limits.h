// The checks that every engine makes of its operands.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "emu/lanes.h"
#include "emu/microscaling.h"
#include "emu/view.h"
#include "target/error.h"
#include "target/target.h"

namespace trn::emu {

inline void require_at_most(std::string_view where, std::string_view rule, std::int64_t got, std::int64_t limit,
                            std::string_view fix) {
  if (got > limit) {
    throw Error(Category::hardware_constraint, "[" + std::string(where) + "] " + std::string(rule) + "; got " +
                                                   std::to_string(got) + ", limit " + std::to_string(limit) + ". " +
                                                   std::string(fix));
  }
}

inline void require_at_least(std::string_view where, std::string_view rule, std::int64_t got, std::int64_t limit,
                             std::string_view fix) {
  if (got < limit) {
    throw Error(Category::hardware_constraint, "[" + std::string(where) + "] " + std::string(rule) + "; got " +
                                                   std::to_string(got) + ", limit " + std::to_string(limit) + ". " +
                                                   std::string(fix));
  }
}

inline void require_equal(std::string_view where, std::string_view rule, std::int64_t got, std::int64_t expected,
                          std::string_view fix) {
  if (got != expected) {
    throw Error(Category::hardware_constraint, "[" + std::string(where) + "] " + std::string(rule) + "; got " +
                                                   std::to_string(got) + ", limit " + std::to_string(expected) + ". " +
                                                   std::string(fix));
  }
}

inline void require_multiple(std::string_view where, std::string_view rule, std::int64_t got, std::int64_t factor,
                             std::string_view fix) {
  if (factor < 1 || got % factor != 0) {
    throw Error(Category::hardware_constraint, "[" + std::string(where) + "] " + std::string(rule) + "; got " +
                                                   std::to_string(got) + ", limit a multiple of " +
                                                   std::to_string(factor) + ". " + std::string(fix));
  }
}

// One of `count` things, numbered from 0.
inline void require_index(std::string_view where, std::string_view rule, std::int64_t got, std::int64_t count,
                          std::string_view fix) {
  if (got < 0 || got >= count) {
    throw Error(Category::hardware_constraint,
                "[" + std::string(where) + "] " + std::string(rule) + "; got " + std::to_string(got) + ", limit " +
                    (got < 0 ? "0" : std::to_string(count - 1)) + ". " + std::string(fix));
  }
}

inline void require_int32(std::string_view where, std::string_view name, std::int64_t got) {
  if (got != static_cast<std::int32_t>(got)) {
    throw Error(Category::hardware_constraint,
                "[" + std::string(where) + "] " + std::string(name) + " is an int32; got " + std::to_string(got) +
                    ", limit " + (got < 0 ? "-2147483648" : "2147483647") + ". Use a smaller number.");
  }
}

inline void require_memory(std::string_view where, std::string_view rule, const View& view, bool allowed,
                           std::string_view fix) {
  if (!allowed) {
    throw Error(Category::hardware_constraint, "[" + std::string(where) + "] " + std::string(rule) + "; got " +
                                                   std::string(target::name(view.memory)) + ". " + std::string(fix));
  }
}

[[noreturn]] inline void refuse(std::string_view where, std::string_view rule, std::string_view got,
                                std::string_view fix) {
  throw Error(Category::hardware_constraint, "[" + std::string(where) + "] " + std::string(rule) + "; got " +
                                                 std::string(got) + ". " + std::string(fix));
}

inline void require_dtype(std::string_view where, std::string_view rule, const View& view, bool allowed,
                          std::string_view fix) {
  if (!allowed) {
    refuse(where, rule, target::name(view.dtype), fix);
  }
}

// 2 for NeuronCore-v2 and so on, from the name's last digit.
inline int generation(const target::Core& core) {
  const char digit = core.generation.empty() ? '0' : core.generation.back();
  return digit >= '0' && digit <= '9' ? digit - '0' : 0;
}

inline void require_generation(std::string_view where, const target::Core& core, int first) {
  if (generation(core) < first) {
    refuse(where, "the instruction exists from NeuronCore-v" + std::to_string(first) + " on", core.generation,
           "Use a newer target.");
  }
}

inline void require_generation_of(std::string_view where, const target::Core& core, Dtype dtype, std::string_view fix) {
  if ((is_block_scaled(dtype) || dtype == Dtype::float8_e4m3fn) && generation(core) < 4) {
    refuse(where, std::string(target::name(dtype)) + " exists from NeuronCore-v4 on", core.generation, fix);
  }
}

// Of tiles on the chip: the engines hold 32 bits, but for int64 where the compiler is told to keep it.
inline void require_chip_dtype(std::string_view where, const target::Core& core, const Numerics& numerics,
                               Dtype dtype) {
  const bool is_native = dtype == Dtype::int64 && numerics.native_int64;
  if ((target::is_narrowed(dtype) || target::is_complex(dtype)) && !is_native) {
    refuse(where, "an element on the chip has at most 32 bits", target::name(dtype), "Let the DMA narrow it.");
  }
  require_generation_of(where, core, dtype, "Use float8_e4m3 or float8_e5m2, or a newer target.");
}

// Where 64 and more partitions start: 0; more than 32: 0 or 64; fewer: 0, 32, 64 or 96 (NKI architecture guide).
inline void require_start_partition(std::string_view where, const View& view) {
  const std::int64_t step = view.partitions > 64 ? kMostPartitions : (view.partitions > 32 ? 64 : 32);
  if (view.start_partition % step != 0) {
    refuse(
        where,
        "a tile of " + std::to_string(view.partitions) + " partitions starts at a multiple of " + std::to_string(step),
        std::to_string(view.start_partition), "Move the tile.");
  }
}

[[noreturn]] inline void refuse_fresh(std::string_view where, const View& view) {
  refuse(where, "sources are written before they are read (strict mode)",
         "fresh memory in " + std::string(target::name(view.memory)), "Write the tile first.");
}

inline void require_initialized(std::string_view where, const View& view) {
  if (view.raises_unwritten && has_unwritten(view)) {
    refuse_fresh(where, view);
  }
}

// The scales of a block-scaled tile of so many partitions, as quantize_mx lays them.
inline void require_scales(std::string_view where, const View& scales, std::int64_t partitions) {
  if (scales.partitions != partitions && (partitions != kQuadrant || scales.partitions != 4)) {
    refuse(where, "scales have the tile's partitions, or 4 for 32", std::to_string(scales.partitions),
           "Give them the documented layout.");
  }
}

inline void require_elements(std::string_view where, const View& view) {
  require_dtype(where, "x4 tiles are quantized, copied, multiplied, and set to 0", view, !is_block_scaled(view.dtype),
                "Use another dtype.");
}

// What one instruction streams per partition: 64 Ki elements of SBUF, 4 Ki of PSUM, from NeuronCore-v4 on all of it
// (NKI's architecture guides).
inline void require_free_size(std::string_view where, const target::Core& core, const View& view) {
  constexpr std::int64_t kMostOfSbuf = 64 * 1024, kMostOfPsum = 4 * 1024;
  const bool is_psum = view.memory == Memory::psum;
  const std::int64_t most_of_psum =
      generation(core) >= 4 ? core.psum_bytes_per_partition / target::itemsize(view.dtype) : kMostOfPsum;
  require_at_most(where, is_psum ? "a partition of an operand in PSUM is short" : "a partition of an operand is short",
                  view.free_elements(), is_psum ? most_of_psum : kMostOfSbuf, "Split the tile.");
}

// On the chip, within the partitions; of any shape.
inline void require_tile(std::string_view where, const target::Core& core, const View& view) {
  require_memory(where, "operands lie in SBUF or PSUM", view,
                 view.memory == Memory::sbuf || view.memory == Memory::psum, "Load them by DMA first.");
  require_at_most(where, "an operand spans at most every partition", view.partitions, core.num_partitions,
                  "Split the tile.");
  require_start_partition(where, view);
  require_free_size(where, core, view);
}

inline void require_source(std::string_view where, const target::Core& core, const View& view) {
  require_tile(where, core, view);
  require_initialized(where, view);
}

inline void require_one_shape(std::string_view where, const View& a, const View& b) {
  const bool is_one = a.dtype == b.dtype && a.partitions == b.partitions &&
                      std::ranges::equal(a.free, b.free, {}, &Extent::size, &Extent::size);
  if (is_one) {
    return;
  }
  auto shape = [](const View& view) {
    std::string text = std::string(target::name(view.dtype)) + " [" + std::to_string(view.partitions);
    for (const Extent& extent : view.free) {
      text += ", " + std::to_string(extent.size);
    }
    return text + "]";
  };
  refuse(where, "all tiles have one dtype and shape", shape(a) + " and " + shape(b), "Give them one.");
}

inline void require_sbuf(std::string_view where, const View& view) {
  require_memory(where, "operands lie in SBUF", view, view.memory == Memory::sbuf, "Copy them to SBUF first.");
}

inline void require_not_both_in_psum(std::string_view where, const View& a, const View& b) {
  if (a.memory == Memory::psum && b.memory == Memory::psum) {
    refuse(where, "at most one of the two inputs lies in PSUM", "both", "Copy one of them to SBUF first.");
  }
}

inline void require_partitions(std::string_view where, const View& view, std::int64_t partitions) {
  require_equal(where, "operands have as many partitions as the result", view.partitions, partitions,
                "Give all tiles one shape.");
}

// One element per partition.
inline void require_vector(std::string_view where, const target::Core& core, const View& view,
                           std::int64_t partitions) {
  require_tile(where, core, view);
  require_partitions(where, view, partitions);
  require_equal(where, "a per-partition operand has one element per partition", view.free_elements(), 1,
                "Give it the shape [P, 1].");
}

inline void require_scalar(std::string_view where, const target::Core& core, const ScalarOperand& operand,
                           std::int64_t partitions) {
  if (operand.vector != nullptr) {
    require_vector(where, core, *operand.vector, partitions);
    require_initialized(where, *operand.vector);
  }
}

// For errors; tiles without a name of their own are called "tile".
inline std::string tile_called(std::string_view name) {
  return name == "tile" ? "a tile" : "tile " + std::string(name);
}

// A tile holds at least one element and lies within a buffer of `elements` from `address` on. Of each memory, where it
// makes views: what engines are given is in bounds.
inline void require_within(std::string_view where, std::string_view name, std::string_view buffer,
                           std::int64_t partitions, const Extents& free, std::int64_t address, std::int64_t elements) {
  constexpr std::int64_t kMostElements = (std::int64_t{1} << 31) - 1;
  require_at_least(where, "a tile has partitions", partitions, 1, "Give it a partition.");
  std::int64_t count = 1;
  for (const Extent& extent : free) {
    require_at_least(where, "every dimension of a tile has elements", extent.size, 1, "Give it an element.");
    count = bounded_product(count, extent.size);
  }
  require_at_most(where, "a partition of a tile has 32-bit indices", count, kMostElements, "Repeat fewer elements.");
  const Reach touched = reach(free);
  const std::string what = std::string(name) + " must ";
  const std::int64_t start = bounded_product(address, 1);
  require_at_most(where, what + "end within " + std::string(buffer), start + touched.highest + 1, elements,
                  "Check the tile's offset and strides.");
  require_at_least(where, what + "start within " + std::string(buffer), start + touched.lowest, 0,
                   "Check the tile's offset and strides.");
}

// Partitions [start, start + partitions) of a memory that has `most`.
inline void require_partitions_within(std::string_view where, std::int64_t start, std::int64_t partitions,
                                      std::int64_t most) {
  require_at_least(where, "a tile starts at a partition", start, 0, "Count partitions from 0.");
  require_at_most(where, "a tile has at most " + std::to_string(most) + " partitions",
                  bounded_product(start, 1) + bounded_product(partitions, 1), most, "Split the tile.");
}

// An operand of VectorE, ScalarE or GpSimdE: on the chip, within the partitions, shaped like the result.
inline void require_operand(std::string_view where, const target::Core& core, const View& view, const View& dst) {
  require_tile(where, core, view);
  require_partitions(where, view, dst.partitions);
  require_equal(where, "operands have as many elements per partition as the result", view.free_elements(),
                dst.free_elements(), "Give all tiles one shape; a stride of 0 repeats an element.");
  if (&view != &dst) {
    require_initialized(where, view);
  }
}

}  // namespace trn::emu
