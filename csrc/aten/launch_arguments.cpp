// Reading an operator's arguments and results by name, and a tensor's footprint in HBM.
#include "aten/launch_arguments.h"

#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseTensorImpl.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace trn::aten {

namespace {

const at::Tensor kNoTensor;

void append(const c10::IValue& value, std::vector<at::Tensor>& tensors) {
  if (value.isTensor()) {
    tensors.push_back(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorVector()) {
      tensors.push_back(tensor);
    }
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) {
      append(element, tensors);
    }
  } else if (value.isTuple()) {
    for (const c10::IValue& element : value.toTupleRef().elements()) {
      append(element, tensors);
    }
  }
}

// Sparse tensors stand for their members, which are what lies in HBM.
void append_members(const at::Tensor& tensor, std::vector<at::Tensor>& members) {
  if (!tensor.defined() || !is_device_tensor(tensor)) {
    return;
  }
  auto* impl = tensor.unsafeGetTensorImpl();
  if (auto* coo = dynamic_cast<at::SparseTensorImpl*>(impl)) {
    members.push_back(coo->indices());
    members.push_back(coo->values());
  } else if (auto* csr = dynamic_cast<at::SparseCsrTensorImpl*>(impl)) {
    members.push_back(csr->compressed_indices());
    members.push_back(csr->plain_indices());
    members.push_back(csr->values());
  } else {
    members.push_back(tensor);
  }
}

std::vector<at::Tensor> members_of(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> members;
  members.reserve(tensors.size());
  for (const auto& tensor : tensors) {
    append_members(tensor, members);
  }
  std::erase_if(members, [](const at::Tensor& member) { return !member.defined(); });
  return members;
}

bool is_written(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

// A wrapped number: the CPU tensor that `x * 2` makes of its 2.
double to_double(const c10::IValue& value, double fallback) {
  if (value.isTensor()) {
    return host_number(value.toTensor()).value_or(fallback);
  }
  if (value.isDouble()) {
    return value.toDouble();
  }
  if (value.isInt()) {
    return static_cast<double>(value.toInt());
  }
  if (value.isBool()) {
    return value.toBool() ? 1 : 0;
  }
  if (value.isComplexDouble()) {
    const auto number = value.toComplexDouble();
    return number.imag() == 0 ? number.real() : std::nan("");  // no special value: ScalarClass::other
  }
  return fallback;
}

}  // namespace

std::optional<double> host_number(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.device().is_cpu() || tensor.dim() != 0 || !tensor.has_storage() ||
      tensor.is_quantized() || tensor.is_complex() || tensor.const_data_ptr() == nullptr) {
    return std::nullopt;
  }
  const void* data = tensor.const_data_ptr();
  switch (tensor.scalar_type()) {  // what Python's numbers become; others are rare
    case at::ScalarType::Double:
      return *static_cast<const double*>(data);
    case at::ScalarType::Float:
      return *static_cast<const float*>(data);
    case at::ScalarType::Long:
      return static_cast<double>(*static_cast<const std::int64_t*>(data));
    case at::ScalarType::Bool:
      return *static_cast<const bool*>(data) ? 1 : 0;
    default:
      return tensor.item().toDouble();
  }
}

ScalarClass scalar_class(double value) {
  constexpr std::uint64_t kLowMantissa = (std::uint64_t{1} << 51) - 1;  // of no special value is any of these bits set
  if ((std::bit_cast<std::uint64_t>(value) & kLowMantissa) != 0) {
    return ScalarClass::other;
  }
  if (value == 1) {
    return ScalarClass::one;
  }
  constexpr std::pair<double, ScalarClass> kSpecial[] = {
      {0, ScalarClass::zero},
      {0.5, ScalarClass::half},
      {2, ScalarClass::two},
      {3, ScalarClass::three},
      {-1, ScalarClass::minus_one},
      {-2, ScalarClass::minus_two},
      {HUGE_VAL, ScalarClass::infinity},
      {-HUGE_VAL, ScalarClass::minus_infinity},
  };
  for (const auto& [special, result] : kSpecial) {
    if (value == special) {
      return result;
    }
  }
  return ScalarClass::other;
}

std::string_view base_name(std::string_view name) {
  constexpr std::string_view kNamespace = "aten::";
  if (name.starts_with(kNamespace)) {
    name.remove_prefix(kNamespace.size());
  }
  if (name.size() > 1 && name.ends_with('_') && !name.ends_with("__")) {
    name.remove_suffix(1);
  }
  return name;
}

bool is_device_tensor(const at::Tensor& tensor) {
  return tensor.device().is_privateuseone() && !tensor.unsafeGetTensorImpl()->is_wrapped_number();
}

std::string_view LaunchArguments::base_name() const {
  return aten::base_name(op_.operator_name().name);
}

int LaunchArguments::find(std::string_view name) const {
  const auto& arguments = op_.schema().arguments();
  const auto count = std::min(arguments.size(), inputs_.size());
  for (std::size_t i = 0; i < count; ++i) {
    if (arguments[i].name() == name) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

const at::Tensor& LaunchArguments::tensor(int position) const {
  if (position < 0 || static_cast<std::size_t>(position) >= inputs_.size() || !inputs_[position].isTensor()) {
    return kNoTensor;
  }
  return inputs_[position].toTensor();
}

std::vector<at::Tensor> LaunchArguments::tensors(std::string_view name) const {
  std::vector<at::Tensor> found;
  if (const int position = find(name); position >= 0) {
    append(inputs_[position], found);
  }
  std::erase_if(found, [](const at::Tensor& tensor) { return !tensor.defined(); });
  return found;
}

const at::Tensor& LaunchArguments::output(int position) const {
  const auto wanted = static_cast<std::size_t>(position);
  if (!outputs_.empty()) {
    return wanted < outputs_.size() && outputs_[wanted].isTensor() ? outputs_[wanted].toTensor() : kNoTensor;
  }
  const auto& arguments = op_.schema().arguments();
  std::size_t seen = 0;
  for (std::size_t i = 0; i < std::min(arguments.size(), inputs_.size()); ++i) {
    if (is_written(arguments[i]) && seen++ == wanted) {
      return tensor(static_cast<int>(i));
    }
  }
  return kNoTensor;
}

std::int64_t LaunchArguments::integer(std::string_view name, std::int64_t fallback) const {
  const int position = find(name);
  if (position < 0) {
    return fallback;
  }
  const auto& value = inputs_[position];
  if (value.isInt()) {
    return value.toInt();
  }
  return value.isBool() ? value.toBool() : fallback;
}

bool LaunchArguments::boolean(std::string_view name, bool fallback) const {
  const int position = find(name);
  return position >= 0 && inputs_[position].isBool() ? inputs_[position].toBool() : fallback;
}

double LaunchArguments::number(std::string_view name, double fallback) const {
  const int position = find(name);
  return position < 0 ? fallback : to_double(inputs_[position], fallback);
}

std::vector<double> LaunchArguments::numbers(std::string_view name) const {
  const int position = find(name);
  std::vector<double> found;
  if (position >= 0 && inputs_[position].isList()) {
    for (const c10::IValue& value : inputs_[position].toListRef()) {
      if (value.isScalar()) {
        found.push_back(to_double(value, 0));
      }
    }
  }
  return found;
}

std::vector<std::int64_t> LaunchArguments::integers(std::string_view name) const {
  const int position = find(name);
  if (position < 0) {
    return {};
  }
  const auto& value = inputs_[position];
  if (value.isIntList()) {
    return value.toIntVector();
  }
  if (value.isInt()) {
    return {value.toInt()};
  }
  if (value.isBoolList()) {
    std::vector<std::int64_t> flags;
    for (const bool flag : value.toBoolList()) {
      flags.push_back(flag);
    }
    return flags;
  }
  return {};
}

std::string_view LaunchArguments::string(std::string_view name) const {
  const int position = find(name);
  return position >= 0 && inputs_[position].isString() ? std::string_view(inputs_[position].toStringRef())
                                                       : std::string_view();
}

std::vector<at::Tensor> LaunchArguments::input_tensors() const {
  const auto& arguments = op_.schema().arguments();
  std::vector<at::Tensor> found;
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (i >= arguments.size() || !arguments[i].is_out()) {
      append(inputs_[i], found);
    }
  }
  return members_of(found);
}

std::vector<at::Tensor> LaunchArguments::output_tensors() const {
  std::vector<at::Tensor> found;
  for (const auto& value : outputs_) {
    append(value, found);
  }
  if (outputs_.empty()) {
    const auto& arguments = op_.schema().arguments();
    for (std::size_t i = 0; i < std::min(arguments.size(), inputs_.size()); ++i) {
      if (is_written(arguments[i])) {
        append(inputs_[i], found);
      }
    }
  }
  return members_of(found);
}

target::Dtype dtype_of(at::ScalarType type) {
  using target::Dtype;
  switch (type) {
    case at::ScalarType::Float:
      return Dtype::float32;
    case at::ScalarType::BFloat16:
      return Dtype::bfloat16;
    case at::ScalarType::Half:
      return Dtype::float16;
    case at::ScalarType::Double:
      return Dtype::float64;
    case at::ScalarType::Float8_e4m3fn:
    case at::ScalarType::Float8_e4m3fnuz:
      return Dtype::float8_e4m3fn;
    case at::ScalarType::Float8_e5m2:
    case at::ScalarType::Float8_e5m2fnuz:
      return Dtype::float8_e5m2;
    case at::ScalarType::Char:
    case at::ScalarType::QInt8:
      return Dtype::int8;
    case at::ScalarType::Short:
      return Dtype::int16;
    case at::ScalarType::Int:
    case at::ScalarType::QInt32:
      return Dtype::int32;
    case at::ScalarType::Long:
      return Dtype::int64;
    case at::ScalarType::UInt16:
    case at::ScalarType::Bits16:
      return Dtype::uint16;
    case at::ScalarType::UInt32:
      return Dtype::uint32;
    case at::ScalarType::UInt64:
      return Dtype::uint64;
    case at::ScalarType::Bool:
      return Dtype::boolean;
    case at::ScalarType::ComplexHalf:
      return Dtype::complex32;
    case at::ScalarType::ComplexFloat:
      return Dtype::complex64;
    case at::ScalarType::ComplexDouble:
      return Dtype::complex128;
    default:
      return Dtype::uint8;  // Byte, QUInt8 and the packed sub-byte types, whose storage is bytes
  }
}

kernels::Access access_of(const at::Tensor& tensor) {
  kernels::Access access;
  if (!tensor.defined()) {
    return access;
  }
  access.dtype = dtype_of(tensor.scalar_type());
  access.elements = tensor.numel();
  access.contiguous_elements = access.elements;
  if (access.elements == 0 || tensor.layout() != at::kStrided || tensor.is_nested()) {
    return access;
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> axes;  // stride, size
  std::int64_t distinct = 1;
  std::int64_t span = 1;
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    const auto size = tensor.size(d);
    const auto stride = tensor.stride(d);
    if (size > 1 && stride != 0) {
      axes.emplace_back(stride, size);
      distinct *= size;
      span += (size - 1) * stride;
    }
  }
  std::sort(axes.begin(), axes.end());
  std::int64_t run = 1;
  std::int64_t pitch = 0;  // from one run to the next
  for (const auto& [stride, size] : axes) {
    if (stride != run) {
      pitch = stride;
      break;
    }
    run *= size;
  }
  access.elements = distinct;  // windows that overlap are read whole, each of them
  access.contiguous_elements = run;
  if (pitch > run && distinct <= span && distinct % run == 0) {
    access.span_elements = distinct / run * pitch;
  }
  return access;
}

}  // namespace trn::aten
