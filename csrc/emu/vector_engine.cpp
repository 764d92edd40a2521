// VectorE's element-wise instructions.
#include "emu/vector_engine.h"

#include <algorithm>

#include "emu/clones.h"
#include "emu/limits.h"
#include "emu/transfer.h"

namespace trn::emu {
namespace {

TRN_CLONES void choose(const float* condition, const float* x, const float* y, float* out, std::int64_t n) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = condition[i] != 0 ? x[i] : y[i];
  }
}

TRN_CLONES void choose(const float* condition, const float* x, float y, float* out, std::int64_t n) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = condition[i] != 0 ? x[i] : y;
  }
}

TRN_CLONES void choose(const float* condition, float x, const float* y, float* out, std::int64_t n) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = condition[i] != 0 ? x : y[i];
  }
}

}  // namespace

template <class T, std::size_t S, class Body>
void VectorEngine::run(std::string_view where, const View& dst, const std::array<const View*, S>& sources, Body body) {
  require_operand(where, core_, dst, dst);
  for (const View* source : sources) {
    require_operand(where, core_, *source, dst);
  }
  lanes_.run<T>(dst, sources, body);
}

void VectorEngine::tensor_tensor(const View& dst, const View& a, const View& b, Alu alu) {
  auto body = [&](auto in, auto* out, std::int64_t n) { apply(alu, in[0], in[1], out, n); };
  if (is_bitwise(alu)) {
    run<std::int64_t, 2>("tensor_tensor", dst, {&a, &b}, body);
  } else {
    run<float, 2>("tensor_tensor", dst, {&a, &b}, body);
  }
}

void VectorEngine::tensor_scalar(const View& dst, const View& x, Alu alu0, float scalar0, Alu alu1, float scalar1) {
  auto body = [&](auto in, auto* out, std::int64_t n) {
    using T = std::remove_pointer_t<decltype(out)>;
    apply(alu0, in[0], static_cast<T>(scalar0), out, n);
    if (alu1 != Alu::none) {
      apply(alu1, out, static_cast<T>(scalar1), out, n);
    }
  };
  if (is_bitwise(alu0)) {
    run<std::int64_t, 1>("tensor_scalar", dst, {&x}, body);
  } else {
    run<float, 1>("tensor_scalar", dst, {&x}, body);
  }
}

void VectorEngine::scalar_tensor_tensor(const View& dst, const View& a, const View& b, Alu alu0, float scalar0,
                                        Alu alu1) {
  // The first result never overwrites b, which dst may be.
  float* first = lanes_.row(0, Lanes::kBlock);
  run<float, 2>("scalar_tensor_tensor", dst, {&a, &b}, [&](auto in, float* out, std::int64_t n) {
    apply(alu0, in[0], scalar0, first, n);
    apply(alu1, first, in[1], out, n);
  });
}

void VectorEngine::tensor_copy(const View& dst, const View& src) {
  if (dst.dtype != src.dtype) {
    run<float, 1>("tensor_copy", dst, {&src},
                  [&](auto in, float* out, std::int64_t n) { std::copy(in[0], in[0] + n, out); });
    return;
  }
  require_operand("tensor_copy", core_, dst, dst);
  require_operand("tensor_copy", core_, src, dst);
  transfer(dst, src);
}

void VectorEngine::tensor_copy_predicated(const View& dst, const View& x, const View& predicate, float scalar) {
  run<float, 2>("tensor_copy_predicated", dst, {&x, &predicate},
                [&](auto in, float* out, std::int64_t n) { choose(in[1], scalar, in[0], out, n); });
}

void VectorEngine::select(const View& dst, const View& condition, const View& x, const View& y) {
  run<float, 3>("select", dst, {&condition, &x, &y},
                [&](auto in, float* out, std::int64_t n) { choose(in[0], in[1], in[2], out, n); });
}

void VectorEngine::select(const View& dst, const View& condition, const View& x, float y) {
  run<float, 2>("select", dst, {&condition, &x},
                [&](auto in, float* out, std::int64_t n) { choose(in[0], in[1], y, out, n); });
}

void VectorEngine::reciprocal(const View& dst, const View& src) {
  run<float, 1>("reciprocal", dst, {&src},
                [&](auto in, float* out, std::int64_t n) { apply(Alu::divide, 1.0F, in[0], out, n); });
}

void VectorEngine::memset(const View& dst, float value) {
  run<float, 0>("memset", dst, {}, [&](auto, float* out, std::int64_t n) { std::fill(out, out + n, value); });
}

}  // namespace trn::emu
