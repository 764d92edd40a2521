// ScalarE: one function of one operand, in fp32.
#pragma once

#include <cstdint>

#include "emu/activation.h"
#include "emu/alu.h"
#include "emu/lanes.h"
#include "emu/reduce_registers.h"
#include "emu/view.h"
#include "target/isa.h"
#include "target/target.h"

namespace trn::emu {

class ScalarEngine {
 public:
  explicit ScalarEngine(const target::Core& core, const Numerics& numerics = {}) : core_(core), lanes_(numerics) {}

  // function(scale * x + bias). The sum of each row goes to the registers as `cmd` says, they to reduce_res [P, 1],
  // which may be null.
  void activation(const View& dst, const View& x, Activation function, const ScalarOperand& scale,
                  const ScalarOperand& bias, ReduceCmd cmd = ReduceCmd::idle, const View* reduce_res = nullptr);
  // The same with reset_reduce.
  void activation_reduce(const View& dst, const View& x, Activation function, const ScalarOperand& scale,
                         const ScalarOperand& bias, const View* reduce_res);
  // function(op1(op0(x, imm0), imm1)), the results reduced by `reduce_op` into the registers as `cmd` says.
  struct Activate2 {
    Activation function = Activation::copy;
    Alu op0 = Alu::none, op1 = Alu::none;
    bool reverse0 = false, reverse1 = false;
    Alu reduce_op = Alu::add;
    ReduceCmd cmd = ReduceCmd::idle;
  };
  void activate2(const View& dst, const View& x, const Activate2& how, const ScalarOperand& imm0,
                 const ScalarOperand& imm1, const ScalarOperand& relu_param, const View* reduce_res);
  // multiply, add, or multiply then add (Alu::none: one operation), as ScalarE has them.
  void tensor_scalar(const View& dst, const View& x, Alu op0, const ScalarOperand& operand0, Alu op1,
                     const ScalarOperand& operand1);
  // The cast, through fp32; from NeuronCore-v3 on, bits are kept where the dtype is.
  void tensor_copy(const View& dst, const View& src);

  StochasticBits& bits() { return lanes_.bits(); }

 private:
  // Whether integers pass unchanged, where they compute as such.
  bool copies_integers(const View& dst, const View& x, Activation function, const ScalarOperand& scale,
                       const ScalarOperand& bias) const;
  void run(std::string_view where, const View& dst, const View& x, Activation function, const ScalarOperand& scale,
           const ScalarOperand& bias, ReduceCmd cmd, const View* reduce_res);

  target::Core core_;
  Lanes lanes_;
  ReduceRegisters registers_;
};

}  // namespace trn::emu
