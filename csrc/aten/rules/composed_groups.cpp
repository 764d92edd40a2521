// Products of groups: the rows of a batch, each group of them with a matrix of its own (mixtures of experts).
#include <algorithm>
#include <vector>

#include "aten/execution.h"
#include "aten/rules/composition.h"

namespace trn::aten::rules {

namespace {

// The ends of the groups along an axis of `total`. They are data: a count, which serves all launches of these shapes,
// cuts the axis as evenly as whole rows allow, so that FLOPs and bytes are those of any groups that take it whole.
std::vector<std::int64_t> ends_of(const Composition& c, const at::Tensor& offsets, std::int64_t total) {
  std::vector<std::int64_t> ends;
  const std::int64_t groups = offsets.numel();
  if (!c.executes()) {
    for (std::int64_t group = 1; group <= groups; ++group) {
      ends.push_back(group * (total / groups) + std::min(group, total % groups));
    }
    return ends;
  }
  const at::Tensor values = memory_of(offsets).contiguous();
  std::int64_t last = 0;
  for (const int end : std::span(values.const_data_ptr<int>(), static_cast<std::size_t>(groups))) {
    last = std::clamp<std::int64_t>(end < 0 ? end + total : end, last, total);
    ends.push_back(last);
  }
  return ends;
}

// `count` groups of `length` elements of axis `dim`, the groups as the first axis.
at::Tensor cut(const at::Tensor& tensor, std::int64_t dim, std::int64_t start, std::int64_t count,
               std::int64_t length) {
  return tensor.narrow(dim, start, count * length).unflatten(dim, {count, length}).movedim(dim, 0);
}

// Neighbouring groups of one length are one batch of products.
void grouped_product(Composition& c) {
  const at::Tensor a = c.tensor("self"), b = c.tensor("mat2"), offsets = c.tensor("offs");
  const at::Tensor& out = c.args().output();
  if (!offsets.defined()) {
    c.product(a, b, {}, out);
    return;
  }
  const bool a_is_cut = a.dim() == 2, b_is_cut = b.dim() == 2;
  const std::int64_t a_dim = b_is_cut ? 1 : 0, b_dim = a_is_cut ? 0 : 1;
  const auto ends = ends_of(c, offsets, a_is_cut ? a.size(a_dim) : b.size(b_dim));
  const auto groups = static_cast<std::int64_t>(ends.size());
  const auto end_of = [&](std::int64_t group) { return group == 0 ? 0 : ends[static_cast<std::size_t>(group - 1)]; };
  for (std::int64_t first = 0, next = 0; first < groups; first = next) {
    const std::int64_t start = end_of(first), length = end_of(first + 1) - start;
    for (next = first + 1; next < groups && end_of(next + 1) - end_of(next) == length; ++next) {
    }
    const std::int64_t count = next - first;
    const auto part = [&](const at::Tensor& tensor, bool is_cut, std::int64_t dim) {
      return is_cut ? cut(tensor, dim, start, count, length) : tensor.narrow(0, first, count);
    };
    c.product(part(a, a_is_cut, a_dim), part(b, b_is_cut, b_dim), {},
              part(out, a_is_cut != b_is_cut, a_is_cut ? 0 : 1));
  }
}

constexpr Composed kGroups[] = {
    {"_grouped_mm", grouped_product},
};

}  // namespace

std::span<const Composed> composed_groups() {
  return kGroups;
}

}  // namespace trn::aten::rules
