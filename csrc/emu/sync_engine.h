// SyncE: registers of scalars and semaphores.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <string_view>
#include <vector>

#include "emu/view.h"

namespace trn::emu {

class SyncEngine {
 public:
  static constexpr std::int64_t kNumRegisters = 64;      // 32-bit, per engine (nki.isa.register_alloc)
  static constexpr std::int64_t kNumSemaphores = 65536;  // ours: no document gives a number

  // Reading a register that nothing wrote raises (strict mode).
  void set_checks(bool raises_uninitialized) { raises_uninitialized_ = raises_uninitialized; }

  // The next register that has not been given out; who names registers by number sees to it that they differ.
  std::int64_t register_alloc();
  // One element of HBM or SBUF, at most 32 bits.
  void register_load(std::int64_t index, const View& src);
  void register_store(const View& dst, std::int64_t index) const;
  void register_move(std::int64_t index, std::int64_t value);
  void register_copy(std::int64_t index, std::int64_t from);
  std::int64_t register_value(std::int64_t index) const { return at(index); }

  // Instructions run in program order, so that what a wait waits for has been counted before it, or never is. On which
  // queue they stand, program/races.h and program/timeline.h know.
  void semaphore_increment(std::int64_t semaphore, std::int64_t value = 1);
  void semaphore_wait(std::int64_t semaphore, std::int64_t value) const;
  std::int64_t semaphore_value(std::int64_t semaphore) const;

 private:
  void set(std::int64_t index, std::int64_t value);
  const std::int32_t& at(std::int64_t index) const;
  void require_written(std::string_view where, std::int64_t index) const;

  std::array<std::int32_t, kNumRegisters> registers_ = {};
  std::bitset<kNumRegisters> is_written_;
  std::int64_t num_allocated_ = 0;
  bool raises_uninitialized_ = false;
  std::vector<std::int64_t> semaphores_;
};

}  // namespace trn::emu
