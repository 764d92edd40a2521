// Dropout that draws from its launch's generator: PyTorch's CPU kernel would draw from the CPU's own.
#include <ATen/Functions.h>
#include <ATen/ScalarOps.h>
#include <ATen/ops/bernoulli_native.h>
#include <ATen/ops/mul_cpu_dispatch.h>
#include <ATen/ops/native_dropout_native.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "aten/generator.h"

namespace trn::aten {

namespace {

using at::Tensor;

std::tuple<Tensor, Tensor> native_dropout(const Tensor& input, double p, std::optional<bool> train) {
  if (input.numel() == 0 || !train.value_or(true)) {
    return at::native::native_dropout_cpu(input, p, train);
  }
  const double kept = 1.0 - p;
  Tensor mask = at::empty_like(input, input.options().dtype(at::kBool));
  at::native::bernoulli_(mask, kept, LaunchGenerator::current());
  Tensor output = at::cpu::mul(input, mask);
  const Tensor scale = at::native::wrapped_scalar_tensor(kept == 0.0 ? 0.0 : 1.0 / kept);
  return {at::cpu::mul_(output, scale), mask};
}

std::tuple<Tensor, Tensor> native_dropout_shapes(const Tensor& input, double, std::optional<bool>) {
  return {at::empty_like(input), at::empty_like(input, input.options().dtype(at::kBool))};
}

TORCH_LIBRARY_FRAGMENT(trn, m) {
  m.def("native_dropout(Tensor input, float p, bool? train) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(trn, CPU, m) {
  m.impl("native_dropout", TORCH_FN(native_dropout));
}
TORCH_LIBRARY_IMPL(trn, Meta, m) {
  m.impl("native_dropout", TORCH_FN(native_dropout_shapes));
}

}  // namespace

}  // namespace trn::aten
