// Binds boxes: both tensors as they lie in HBM, gaps included.
#include "aten/alias.h"
#include "aten/execution.h"

namespace trn::aten {

namespace {

// The tensor that is moved from, as the operators call it.
const at::Tensor& source(const LaunchArguments& args) {
  const at::Tensor& src = args.tensor("src");
  return src.defined() ? src : args.tensor("self").defined() ? args.tensor("self") : args.tensor("input");
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::BoxShape& shape,
                                   const program::Program&) {
  const bool copies_to_self = args.tensor("src").defined();
  const at::Tensor &from = source(args), &to = args.tensor("dst").defined() ? args.tensor("dst")
                                               : copies_to_self             ? args.tensor("self")
                                                                            : args.output();
  if (!from.defined() || !to.defined() || !is_plain(from) || !is_plain(to)) {
    return std::nullopt;
  }
  const at::Tensor result = cpu_alias(to).as_strided({shape.dst_elements}, {1});
  return BoundPart{.program = {},
                   .inputs = {cpu_alias(from).as_strided({shape.src_elements}, {1})},
                   .outputs = {{result, {}, result}}};
}

}  // namespace trn::aten
