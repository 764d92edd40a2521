// ScalarE's instructions.
#include "emu/scalar_engine.h"

#include <algorithm>
#include <string>

#include "emu/convert.h"
#include "emu/limits.h"
#include "emu/transfer.h"

namespace trn::emu {

bool ScalarEngine::copies_integers(const View& dst, const View& x, Activation function, const ScalarOperand& scale,
                                   const ScalarOperand& bias) const {
  const bool has_64_bits = target::itemsize(dst.dtype) == 8 || target::itemsize(x.dtype) == 8;
  return lanes_.numerics().computes_integers(has_64_bits) && function == Activation::copy && is_integer(dst.dtype) &&
         is_integer(x.dtype) && scale.vector == nullptr && bias.vector == nullptr && scale.value == 1 &&
         bias.value == 0;
}

void ScalarEngine::run(std::string_view where, const View& dst, const View& x, Activation function,
                       const ScalarOperand& scale, const ScalarOperand& bias, ReduceCmd cmd, const View* reduce_res) {
  require_operand(where, core_, dst, dst);
  require_operand(where, core_, x, dst);
  require_elements(where, dst);
  require_elements(where, x);
  require_no_load(where, cmd);
  require_scalar(where, core_, scale, dst.partitions);
  require_scalar(where, core_, bias, dst.partitions);
  if (scale.vector != nullptr) {
    require_dtype(where, "a vector scale is float32", *scale.vector, scale.vector->dtype == Dtype::float32, "Cast it.");
  }
  if (bias.vector != nullptr) {
    require_elements(where, *bias.vector);
    require_dtype(where, "a vector bias is not tfloat32", *bias.vector, bias.vector->dtype != Dtype::tfloat32,
                  "Cast it.");
  }
  if (reduce_res != nullptr) {
    require_vector(where, core_, *reduce_res, dst.partitions);
  }
  const bool has_registers = cmd != ReduceCmd::idle || reduce_res != nullptr;
  if (!has_registers && copies_integers(dst, x, function, scale, bias)) {
    lanes_.run<std::int64_t, 1>(dst, {&x},
                                [&](auto in, std::int64_t* out, std::int64_t n) { std::copy(in[0], in[0] + n, out); });
    return;
  }
  if (!has_registers && scale.vector == nullptr && bias.vector == nullptr) {
    lanes_.run<float, 1>(dst, {&x}, [&](auto in, float* out, std::int64_t n) {
      evaluate(function, lanes_.numerics(), in[0], static_cast<float>(scale.value), static_cast<float>(bias.value), out,
               n);
    });
    return;
  }
  float scales[kMostPartitions], biases[kMostPartitions];
  lanes_.read_scalars(scale, dst.partitions, scales);
  lanes_.read_scalars(bias, dst.partitions, biases);
  registers_.begin(dst, cmd, 0);
  lanes_.run<float, 1>(dst, {&x}, [&](auto in, float* out, std::int64_t n, std::int64_t p) {
    evaluate(function, lanes_.numerics(), in[0], scales[p], biases[p], out, n);
    if (reduces(cmd)) {
      registers_.reduce(dst, p, Alu::add, fold(Alu::add, out, n));
    }
  });
  registers_.store(lanes_, dst, reduce_res);
}

void ScalarEngine::activation(const View& dst, const View& x, Activation function, const ScalarOperand& scale,
                              const ScalarOperand& bias, ReduceCmd cmd, const View* reduce_res) {
  run("activation", dst, x, function, scale, bias, cmd, reduce_res);
}

void ScalarEngine::activation_reduce(const View& dst, const View& x, Activation function, const ScalarOperand& scale,
                                     const ScalarOperand& bias, const View& reduce_res) {
  run("activation_reduce", dst, x, function, scale, bias, ReduceCmd::reset_reduce, &reduce_res);
}

void ScalarEngine::tensor_scalar(const View& dst, const View& x, Alu op0, const ScalarOperand& operand0, Alu op1,
                                 const ScalarOperand& operand1) {
  constexpr std::string_view where = "tensor_scalar";
  if (op0 == Alu::multiply && (op1 == Alu::add || op1 == Alu::none)) {
    run(where, dst, x, Activation::copy, operand0, op1 == Alu::add ? operand1 : ScalarOperand(0.0F), ReduceCmd::idle,
        nullptr);
  } else if (op0 == Alu::add && op1 == Alu::none) {
    run(where, dst, x, Activation::copy, 1.0F, operand0, ReduceCmd::idle, nullptr);
  } else {
    refuse(where, "ScalarE multiplies, adds, or multiplies and adds",
           std::string(target::name(op0)) + " and " + std::string(target::name(op1)), "Use VectorE.");
  }
}

void ScalarEngine::tensor_copy(const View& dst, const View& src) {
  if (dst.dtype == src.dtype && generation(core_) >= 3) {
    require_operand("tensor_copy", core_, dst, dst);
    require_operand("tensor_copy", core_, src, dst);
    transfer(dst, src);
    return;
  }
  run("tensor_copy", dst, src, Activation::copy, 1.0F, 0.0F, ReduceCmd::idle, nullptr);
}

}  // namespace trn::emu
