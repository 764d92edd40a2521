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
                                     const ScalarOperand& bias, const View* reduce_res) {
  run("activation_reduce", dst, x, function, scale, bias, ReduceCmd::reset_reduce, reduce_res);
}

void ScalarEngine::activate2(const View& dst, const View& x, const Activate2& how, const ScalarOperand& imm0,
                             const ScalarOperand& imm1, const ScalarOperand& relu_param, const View* reduce_res) {
  constexpr std::string_view where = "activate2";
  require_generation(where, core_, 4);
  const bool is_scale = how.op0 == Alu::multiply, is_shift = how.op0 == Alu::add || how.op0 == Alu::subtract;
  const bool is_listed = how.op1 == Alu::none ? is_scale || is_shift || how.op0 == Alu::none
                                              : is_scale && (how.op1 == Alu::add || how.op1 == Alu::subtract);
  if (!is_listed) {
    refuse(where, "op0 and op1 are multiply with add, subtract or bypass, or add, subtract or bypass alone",
           std::string(target::name(how.op0)) + " and " + std::string(target::name(how.op1)), "Use tensor_scalar.");
  }
  if ((how.reverse0 && how.op0 == Alu::none) || (how.reverse1 && how.op1 == Alu::none)) {
    refuse(where, "an operation is reversed", "bypass", "Leave out reverse0 and reverse1.");
  }
  if (how.reduce_op != Alu::add && how.reduce_op != Alu::maximum && how.reduce_op != Alu::minimum &&
      how.reduce_op != Alu::abs_max && how.reduce_op != Alu::abs_min) {
    refuse(where, "reduce_op is add, maximum, minimum, abs_max or abs_min", target::name(how.reduce_op),
           "Use tensor_reduce.");
  }
  require_operand(where, core_, dst, dst);
  require_operand(where, core_, x, dst);
  require_elements(where, dst);
  require_elements(where, x);
  require_no_load(where, how.cmd);
  for (const ScalarOperand* operand : {&imm0, &imm1, &relu_param}) {
    require_scalar(where, core_, *operand, dst.partitions);
  }
  if (imm0.vector != nullptr && imm1.vector != nullptr) {
    require_dtype(where, "imm0 and imm1 have one dtype", *imm1.vector, imm0.vector->dtype == imm1.vector->dtype,
                  "Cast one of them.");
  }
  if (reduce_res != nullptr) {
    require_vector(where, core_, *reduce_res, dst.partitions);
  }
  float first[kMostPartitions], second[kMostPartitions], slopes[kMostPartitions];
  lanes_.read_scalars(imm0, dst.partitions, first);
  lanes_.read_scalars(imm1, dst.partitions, second);
  lanes_.read_scalars(relu_param, dst.partitions, slopes);
  registers_.begin(dst, how.cmd, identity(how.reduce_op));
  lanes_.run<float, 1>(dst, {&x}, [&](auto in, float* out, std::int64_t n, std::int64_t p) {
    auto stage = [&](Alu op, const float* from, float value, bool is_reversed) {
      if (op == Alu::none) {
        std::copy(from, from + n, out);
      } else if (is_reversed) {
        apply(op, value, from, out, n);
      } else {
        apply(op, from, value, out, n);
      }
    };
    stage(how.op0, in[0], first[p], how.reverse0);
    stage(how.op1, out, second[p], how.reverse1);
    if (how.function == Activation::prelu) {
      std::transform(out, out + n, out, [&](float v) { return v < 0 ? slopes[p] * v : v; });
    } else {
      evaluate(how.function, lanes_.numerics(), out, 1.0F, 0.0F, out, n);
    }
    if (reduces(how.cmd)) {
      registers_.reduce(dst, p, how.reduce_op, fold(how.reduce_op, out, n));
    }
  });
  registers_.store(lanes_, dst, reduce_res);
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
