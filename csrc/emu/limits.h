// The checks that every engine makes of its operands.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

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

inline void require_equal(std::string_view where, std::string_view rule, std::int64_t got, std::int64_t expected,
                          std::string_view fix) {
  if (got != expected) {
    throw Error(Category::hardware_constraint, "[" + std::string(where) + "] " + std::string(rule) + "; got " +
                                                   std::to_string(got) + ", limit " + std::to_string(expected) + ". " +
                                                   std::string(fix));
  }
}

inline void require_memory(std::string_view where, std::string_view rule, const View& view, bool allowed,
                           std::string_view fix) {
  if (!allowed) {
    throw Error(Category::hardware_constraint, "[" + std::string(where) + "] " + std::string(rule) + "; got " +
                                                   std::string(target::name(view.memory)) + ". " + std::string(fix));
  }
}

// A tile's elements [address, end) lie within a buffer of `elements`.
inline void require_within(std::string_view where, std::string_view tile, std::string_view name,
                           std::string_view buffer, std::int64_t address, std::int64_t end, std::int64_t elements) {
  if (end > elements || address < 0) {
    const std::string what = std::string(tile) + std::string(name) + " must ";
    require_at_most(where, what + "end within " + std::string(buffer), end, elements,
                    "Check the tile's offset and strides.");
    require_at_most(where, what + "start within " + std::string(buffer), -address, 0,
                    "Check the tile's offset and strides.");
  }
}

// An operand of VectorE, ScalarE or GpSimdE: on the chip, within the partitions, shaped like the result.
inline void require_operand(std::string_view where, const target::Core& core, const View& view, const View& dst) {
  require_memory(where, "operands lie in SBUF or PSUM", view,
                 view.memory == Memory::sbuf || view.memory == Memory::psum, "Load them by DMA first.");
  require_at_most(where, "an operand spans at most every partition", view.partitions, core.num_partitions,
                  "Split the tile.");
  require_equal(where, "operands have as many partitions as the result", view.partitions, dst.partitions,
                "Give all tiles one shape.");
  require_equal(where, "operands have as many elements per partition as the result", view.free_elements(),
                dst.free_elements(), "Give all tiles one shape; a stride of 0 repeats an element.");
}

}  // namespace trn::emu
