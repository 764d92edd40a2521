// ScalarE: one function of one operand, in fp32.
#pragma once

#include "emu/activation.h"
#include "emu/lanes.h"
#include "emu/view.h"
#include "target/isa.h"
#include "target/target.h"

namespace trn::emu {

class ScalarEngine {
 public:
  explicit ScalarEngine(const target::Core& core, const Numerics& numerics = {}) : core_(core), lanes_(numerics) {}

  // function(scale * x + bias)
  void activation(const View& dst, const View& x, Activation function, float scale, float bias);

  StochasticBits& bits() { return lanes_.bits(); }

 private:
  target::Core core_;
  Lanes lanes_;
};

}  // namespace trn::emu
