// VectorE: element by element in fp32, with the cast to the result's dtype on the way out.
#pragma once

#include <cstdint>

#include "emu/alu.h"
#include "emu/lanes.h"
#include "emu/view.h"
#include "target/target.h"

namespace trn::emu {

// All operands have the result's shape; a stride of 0 repeats an element.
class VectorEngine {
 public:
  explicit VectorEngine(const target::Core& core, const Numerics& numerics = {}) : core_(core), lanes_(numerics) {}

  void tensor_tensor(const View& dst, const View& a, const View& b, Alu alu);
  // alu1(alu0(x, scalar0), scalar1)
  void tensor_scalar(const View& dst, const View& x, Alu alu0, float scalar0, Alu alu1, float scalar1);
  // alu1(alu0(a, scalar0), b)
  void scalar_tensor_tensor(const View& dst, const View& a, const View& b, Alu alu0, float scalar0, Alu alu1);
  // The cast; bits are kept where the dtype is.
  void tensor_copy(const View& dst, const View& src);
  void tensor_copy_predicated(const View& dst, const View& x, const View& predicate, float scalar);
  void select(const View& dst, const View& condition, const View& x, const View& y);
  void select(const View& dst, const View& condition, const View& x, float y);
  void reciprocal(const View& dst, const View& src);
  void memset(const View& dst, float value);

  StochasticBits& bits() { return lanes_.bits(); }

 private:
  // Checks the operands, then lanes_.run.
  template <class T, std::size_t S, class Body>
  void run(std::string_view where, const View& dst, const std::array<const View*, S>& sources, Body body);

  target::Core core_;
  Lanes lanes_;
};

}  // namespace trn::emu
