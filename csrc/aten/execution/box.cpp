// Binds boxes: both tensors as they lie in HBM, gaps included.
#include "aten/alias.h"
#include "aten/execution.h"
#include "aten/rules/copy.h"

namespace trn::aten {

namespace {

struct Ends {
  at::Tensor from, to;
};

// Of a part, as the operators call them.
Ends ends_of(const LaunchArguments& args, std::size_t part) {
  const auto tensors = args.tensors("tensors");
  if (!tensors.empty()) {  // a member of a concatenation
    const auto groups = rules::alike(tensors);
    const std::size_t member = part < groups.size() ? groups[part].front() : tensors.size();
    return member < tensors.size()
               ? Ends{rules::as_joined(args, tensors[member]), rules::joined_place(args, member, member)}
               : Ends{};
  }
  const at::Tensor &src = args.tensor("src"), &dst = args.tensor("dst"), &self = args.tensor("self");
  return {src.defined()    ? src
          : self.defined() ? self
                           : args.tensor("input"),
          dst.defined()   ? dst
          : src.defined() ? self
                          : args.output()};
}

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::BoxShape& shape, const program::Program&,
                                   std::size_t part) {
  const auto [from, to] = ends_of(args, part);
  if (!from.defined() || !to.defined() || !is_plain(from) || !is_plain(to)) {
    return std::nullopt;
  }
  const at::Tensor result = cpu_alias(to).as_strided({shape.dst_elements}, {1});
  return BoundPart{.program = {},
                   .inputs = {cpu_alias(from).as_strided({shape.src_elements}, {1})},
                   .outputs = {{result, {}, result}}};
}

}  // namespace trn::aten
