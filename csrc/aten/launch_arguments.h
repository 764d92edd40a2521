// A launch as the count rules see it: the operator's arguments and results by position and name, shapes only.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "kernels/shapes.h"

namespace trn::aten {

// Rules read sizes, strides and dtypes; they never touch an element.
class LaunchArguments {
 public:
  LaunchArguments(const c10::OperatorHandle& op, c10::ArrayRef<c10::IValue> inputs, c10::ArrayRef<c10::IValue> outputs)
      : op_(op), inputs_(inputs), outputs_(outputs) {}

  const c10::OperatorHandle& op() const { return op_; }
  std::string_view overload() const { return op_.operator_name().overload_name; }
  c10::ArrayRef<c10::IValue> inputs() const { return inputs_; }
  c10::ArrayRef<c10::IValue> outputs() const { return outputs_; }

  // Position of the argument `name` in the schema, or -1.
  int find(std::string_view name) const;
  // Is there such an argument, and is it not None?
  bool is_given(std::string_view name) const {
    const int position = find(name);
    return position >= 0 && !inputs_[static_cast<std::size_t>(position)].isNone();
  }
  // The tensor argument; undefined where the argument is absent, None or no tensor. On any device.
  const at::Tensor& tensor(int position) const;
  const at::Tensor& tensor(std::string_view name) const { return tensor(find(name)); }
  std::vector<at::Tensor> tensors(std::string_view name) const;  // a list argument, undefined entries left out
  const at::Tensor& output(int position = 0) const;
  std::int64_t integer(std::string_view name, std::int64_t fallback) const;
  bool boolean(std::string_view name, bool fallback) const;
  // int, float or Scalar. A rule may only let the result depend on its ScalarClass.
  double number(std::string_view name, double fallback) const;
  std::vector<double> numbers(std::string_view name) const;         // a list of floats or Scalars; else empty
  std::vector<std::int64_t> integers(std::string_view name) const;  // empty where absent or None
  std::string_view string(std::string_view name) const;

  // Every device tensor among the inputs that are read (out= arguments left out) and among the results. Where the
  // schema returns nothing, the results are the arguments that it marks as written.
  std::vector<at::Tensor> input_tensors() const;
  std::vector<at::Tensor> output_tensors() const;
  // The base name without "aten::" and the in-place underscore.
  std::string_view base_name() const;

 private:
  const c10::OperatorHandle& op_;
  c10::ArrayRef<c10::IValue> inputs_;
  c10::ArrayRef<c10::IValue> outputs_;
};

// What a count may depend on in a floating-point or Scalar argument. A launch's key takes scalars by class, so that a
// learning rate that changes every step stays one key.
enum class ScalarClass : std::uint8_t {
  other,
  zero,
  half,
  one,
  two,
  three,
  minus_one,
  minus_two,
  infinity,
  minus_infinity,
};
ScalarClass scalar_class(double value);

// "aten::add_" -> "add"; "aten::__ilshift__" -> "__ilshift__"; other namespaces keep theirs.
std::string_view base_name(std::string_view qualified_name);

// Only these are operands in HBM: CPU scalars and wrapped numbers travel in the instruction.
bool is_device_tensor(const at::Tensor& tensor);
// The value of such a scalar, of any real dtype.
std::optional<double> host_number(const at::Tensor& tensor);

target::Dtype dtype_of(at::ScalarType type);
// Distinct elements (a stride of 0 counts once) and the length of the contiguous runs.
kernels::Access access_of(const at::Tensor& tensor);

using CountRule = kernels::Spec (*)(const LaunchArguments&);

}  // namespace trn::aten
