// Count rules of operators that run on the host.
#include "aten/rules/host.h"

namespace trn::aten::rules {

namespace {

std::int64_t bytes_of(Tensors tensors) {
  std::int64_t bytes = 0;
  for (const auto& tensor : tensors) {
    bytes += numel(tensor) * target::itemsize(dtype(tensor));
  }
  return bytes;
}

}  // namespace

Spec host(const LaunchArguments& args) {
  Spec spec;
  if (const auto bytes = bytes_of(args.input_tensors()); bytes > 0) {
    spec.emplace_back(kernels::TransferShape{bytes, false, true});
  }
  if (const auto bytes = bytes_of(args.output_tensors()); bytes > 0) {
    spec.emplace_back(kernels::TransferShape{bytes, true, false});
  }
  return spec;
}

Spec read_value(const LaunchArguments& args) {
  const auto inputs = args.input_tensors();
  if (inputs.empty()) {
    return {};
  }
  return {kernels::TransferShape{target::itemsize(dtype(inputs.front())), false, true}};
}

}  // namespace trn::aten::rules
