// VectorE: element by element in fp32, with the cast to the result's dtype on the way out.
#pragma once

#include <cstdint>
#include <vector>

#include "emu/alu.h"
#include "emu/view.h"
#include "target/target.h"

namespace trn::emu {

// All operands have the result's shape; a stride of 0 repeats an element.
class VectorEngine {
 public:
  explicit VectorEngine(const target::Core& core) : core_(core) {}

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

 private:
  // Calls body(n) per partition after filling the sources, then writes `result_`.
  template <class Body>
  void rows(std::string_view where, const View& dst, std::initializer_list<const View*> sources, Body body);
  void integers(std::string_view where, const View& dst, const View& a, const View* b, Alu alu, std::int64_t scalar);

  target::Core core_;
  std::vector<float> source_[3], result_;
  std::vector<std::int64_t> integer_[3];
};

}  // namespace trn::emu
