// ScalarE's instructions.
#include "emu/scalar_engine.h"

#include "emu/limits.h"

namespace trn::emu {

void ScalarEngine::activation(const View& dst, const View& x, Activation function, float scale, float bias) {
  require_operand("activation", core_, dst, dst);
  require_operand("activation", core_, x, dst);
  lanes_.run<float, 1>(dst, {&x}, [&](auto in, float* out, std::int64_t n) {
    evaluate(function, lanes_.numerics(), in[0], scale, bias, out, n);
  });
}

}  // namespace trn::emu
