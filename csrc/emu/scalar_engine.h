// ScalarE: one function of one operand, in fp32.
#pragma once

#include <vector>

#include "emu/view.h"
#include "target/isa.h"
#include "target/target.h"

namespace trn::emu {

using target::Activation;

float evaluate(Activation function, float x);

class ScalarEngine {
 public:
  explicit ScalarEngine(const target::Core& core) : core_(core) {}

  // function(scale * x + bias)
  void activation(const View& dst, const View& x, Activation function, float scale, float bias);

 private:
  target::Core core_;
  std::vector<float> row_;
};

}  // namespace trn::emu
