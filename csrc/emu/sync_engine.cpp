// SyncE's registers and semaphores.
#include "emu/sync_engine.h"

#include <string>

#include "emu/convert.h"
#include "emu/elements.h"
#include "emu/limits.h"

namespace trn::emu {
namespace {

void require_element(std::string_view where, const View& view) {
  require_equal(where, "a register holds one element", view.elements(), 1, "Pass a tile of shape [1, 1].");
  require_at_most(where, "a register holds 32 bits", target::itemsize(view.dtype) * 8, 32, "Cast to int32.");
  require_memory(where, "the element lies in HBM or SBUF", view,
                 view.memory == Memory::hbm || view.memory == Memory::sbuf, "Copy it to SBUF first.");
}

void require_semaphore(std::string_view where, std::int64_t semaphore) {
  require_index(where, "semaphores are numbered from 0", semaphore, SyncEngine::kNumSemaphores,
                "Use another semaphore.");
}

}  // namespace

void SyncEngine::set(std::int64_t index, std::int64_t value) {
  at(index);
  registers_[static_cast<std::size_t>(index)] = static_cast<std::int32_t>(value);
  is_written_.set(static_cast<std::size_t>(index));
}

const std::int32_t& SyncEngine::at(std::int64_t index) const {
  require_index("register", "an engine has few registers", index, kNumRegisters, "Use another register.");
  return registers_[static_cast<std::size_t>(index)];
}

void SyncEngine::require_written(std::string_view where, std::int64_t index) const {
  at(index);
  if (raises_uninitialized_ && !is_written_[static_cast<std::size_t>(index)]) {
    refuse(where, "registers are written before they are read (strict mode)", "fresh register " + std::to_string(index),
           "Load or move a value into it first.");
  }
}

std::int64_t SyncEngine::register_alloc() {
  require_at_most("register_alloc", "an engine has few registers", num_allocated_ + 1, kNumRegisters,
                  "Use one of them again.");
  return num_allocated_++;
}

void SyncEngine::register_move(std::int64_t index, std::int64_t value) {
  if (value != static_cast<std::int32_t>(value)) {
    refuse("register_move", "a register holds 32 bits", std::to_string(value), "Use a smaller number.");
  }
  set(index, value);
}

void SyncEngine::register_copy(std::int64_t index, std::int64_t from) {
  at(index);
  require_written("register_move", from);
  set(index, at(from));
}

void SyncEngine::register_load(std::int64_t index, const View& src) {
  require_element("register_load", src);
  require_initialized("register_load", src);
  std::int64_t value = 0;
  load(src.dtype, src.data, 0, &value, 1);
  set(index, value);
}

void SyncEngine::register_store(const View& dst, std::int64_t index) const {
  require_element("register_store", dst);
  require_written("register_store", index);
  const std::int64_t value = at(index);
  store(dst.dtype, dst.data, target::itemsize(dst.dtype), &value, 1);
}

void SyncEngine::semaphore_increment(std::int64_t semaphore, std::int64_t value) {
  require_semaphore("semaphore_increment", semaphore);
  if (value < 1) {
    refuse("semaphore_increment", "an increment is at least 1", std::to_string(value), "Count upwards.");
  }
  if (semaphores_.size() <= static_cast<std::size_t>(semaphore)) {
    semaphores_.resize(static_cast<std::size_t>(semaphore) + 1);
  }
  semaphores_[static_cast<std::size_t>(semaphore)] += value;
}

std::int64_t SyncEngine::semaphore_value(std::int64_t semaphore) const {
  return static_cast<std::size_t>(semaphore) < semaphores_.size() ? semaphores_[static_cast<std::size_t>(semaphore)]
                                                                  : 0;
}

void SyncEngine::semaphore_wait(std::int64_t semaphore, std::int64_t value) const {
  require_semaphore("semaphore_wait", semaphore);
  require_at_most("semaphore_wait", "an earlier instruction brings the semaphore to its value", value,
                  semaphore_value(semaphore), "Increment it before; the core would wait forever.");
}

}  // namespace trn::emu
