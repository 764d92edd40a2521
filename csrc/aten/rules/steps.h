// The engine instructions of a pointwise function, spelled compactly and constexpr.
#pragma once

#include <cstdint>
#include <limits>
#include <numbers>
#include <string_view>
#include <vector>

#include "kernels/shapes.h"

namespace trn::aten::rules {

using kernels::Activation;
using kernels::Alu;
using kernels::Step;
using program::Opcode;

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr auto kPi = std::numbers::pi_v<float>;

// `times` instructions of one kind in a row, as kernels::Step defines them; 0 ends a recipe.
struct Run {
  Opcode opcode = Opcode::tensor_tensor;
  Alu alu = Alu::none;
  Activation function = Activation::copy;
  float scalar = 0;
  std::uint8_t times = 0;
};

constexpr Run act(Activation function, float bias = 0) {
  return {Opcode::activation, Alu::none, function, bias, 1};
}
constexpr Run tt(Alu alu, std::uint8_t times = 1) {
  return {Opcode::tensor_tensor, alu, Activation::copy, 0, times};
}
constexpr Run ts(Alu alu, float scalar = 0, std::uint8_t times = 1) {
  return {Opcode::tensor_scalar, alu, Activation::copy, scalar, times};
}
// v = alu(v, scalar * next)
constexpr Run stt(Alu alu, float scalar = 0, std::uint8_t times = 1) {
  return {Opcode::scalar_tensor_tensor, alu, Activation::copy, scalar, times};
}
// One step of Horner's scheme, (acc + c) * x: one scalar_tensor_tensor per coefficient.
constexpr Run horner(std::uint8_t coefficients) {
  return stt(Alu::multiply, 0, coefficients);
}
constexpr Run op(Opcode opcode, std::uint8_t times = 1) {
  return {opcode, Alu::none, Activation::copy, 0, times};
}
constexpr Run memset(float value) {
  return {Opcode::memset, Alu::none, Activation::copy, value, 1};
}
constexpr Run cast(std::uint8_t times = 1) {
  return op(Opcode::tensor_copy, times);
}
constexpr Run select(std::uint8_t times = 1) {
  return op(Opcode::select, times);
}

inline Step step(const Run& run) {
  Step result;
  result.opcode = run.opcode;
  result.alu = run.alu;
  result.function = run.function;
  result.scalar = run.scalar;
  return result;
}

inline void append(std::vector<Step>& steps, const Run& run) {
  steps.insert(steps.end(), run.times, step(run));
}

template <class... Runs>
std::vector<Step> steps_of(const Runs&... runs) {
  std::vector<Step> steps;
  (append(steps, runs), ...);
  return steps;
}

// The fixed recipe of a function by base name; empty where there is none.
std::vector<Step> recipe(std::string_view function);

}  // namespace trn::aten::rules
