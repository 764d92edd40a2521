// Turns moves of elements into boxes by the tensors' own strides.
#include "aten/rules/box.h"

#include <algorithm>
#include <utility>

#include "aten/rules/copy.h"

namespace trn::aten::rules {

namespace {

using kernels::BoxAxis;
using kernels::BoxShape;

std::int64_t wrapped(std::int64_t dim, std::int64_t rank) {
  return dim < 0 ? dim + rank : dim;
}

// What a tensor reaches over in HBM, from its first element to its last.
std::int64_t span_of(const at::Tensor& tensor) {
  std::int64_t span = 1;
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    span += (tensor.size(d) - 1) * tensor.stride(d);
  }
  return span;
}

// An axis for each of the tensors' own, which have the same sizes.
std::vector<BoxAxis> axes_between(const at::Tensor& src, const at::Tensor& dst) {
  std::vector<BoxAxis> axes;
  for (std::int64_t d = 0; d < dst.dim(); ++d) {
    axes.push_back({dst.size(d), src.stride(d), dst.stride(d), false});
  }
  return axes;
}

bool is_boxed(const at::Tensor& src, const at::Tensor& dst) {
  return is_strided(src) && is_strided(dst) && src.numel() > 0 && dst.numel() > 0;
}

}  // namespace

Spec box(const at::Tensor& src, const at::Tensor& dst, std::vector<BoxAxis> axes, std::int64_t src_offset,
         std::int64_t dst_offset) {
  std::erase_if(axes, [](const BoxAxis& axis) { return axis.size == 1; });
  if (std::ranges::any_of(axes, [](const BoxAxis& axis) { return axis.size == 0; })) {
    return {};
  }
  std::ranges::stable_sort(axes, std::ranges::greater(), &BoxAxis::to);
  BoxShape shape;
  shape.src_dtype = dtype(src);
  shape.dst_dtype = dtype(dst);
  shape.src_elements = span_of(src);
  shape.dst_elements = span_of(dst);
  shape.src_offset = src_offset;
  shape.dst_offset = dst_offset;
  for (const BoxAxis& axis : axes) {
    BoxAxis* const outer = shape.axes.empty() ? nullptr : &shape.axes.back();
    if (outer != nullptr && outer->reversed == axis.reversed && outer->from == axis.from * axis.size &&
        outer->to == axis.to * axis.size) {
      *outer = {outer->size * axis.size, axis.from, axis.to, axis.reversed};
    } else {
      shape.axes.push_back(axis);
    }
  }
  return {shape};
}

Spec flip(const LaunchArguments& args) {
  const at::Tensor &self = args.tensor("self"), &out = args.output();
  if (!is_boxed(self, out)) {
    return {};
  }
  auto axes = axes_between(self, out);
  for (const std::int64_t dim : args.integers("dims")) {
    if (self.dim() > 0) {
      axes[static_cast<std::size_t>(wrapped(dim, self.dim()))].reversed = true;
    }
  }
  return box(self, out, std::move(axes));
}

// Along each rolled axis the elements before the seam and those behind it change places.
Spec roll(const LaunchArguments& args) {
  const at::Tensor &self = args.tensor("self"), &out = args.output();
  if (!is_boxed(self, out)) {
    return {};
  }
  const auto dims = args.integers("dims"), shifts = args.integers("shifts");
  constexpr std::size_t kMostRolled = 4;
  const bool is_flat = dims.empty();
  if (shifts.size() != std::max<std::size_t>(dims.size(), 1) || dims.size() > kMostRolled ||
      (is_flat && !(self.is_contiguous() && out.is_contiguous()))) {
    return rearrange(args);
  }
  struct Part {
    std::vector<BoxAxis> axes;
    std::int64_t from = 0, to = 0;
  };
  std::vector<Part> parts{{is_flat ? std::vector<BoxAxis>{{self.numel(), 1, 1, false}} : axes_between(self, out)}};
  std::vector<std::int64_t> by(parts.front().axes.size());
  for (std::size_t i = 0; i < shifts.size() && !by.empty(); ++i) {
    by[is_flat ? 0 : static_cast<std::size_t>(wrapped(dims[i], self.dim()))] += shifts[i];
  }
  for (std::size_t d = 0; d < by.size(); ++d) {
    const std::int64_t size = parts.front().axes[d].size, shift = (by[d] % size + size) % size;
    std::vector<Part> cut;
    for (const Part& part : parts) {
      const BoxAxis& axis = part.axes[d];
      Part before = part, behind = part;
      before.axes[d].size = size - shift;
      before.to += shift * axis.to;
      behind.axes[d].size = shift;
      behind.from += (size - shift) * axis.from;
      cut.push_back(std::move(before));
      if (shift > 0) {
        cut.push_back(std::move(behind));
      }
    }
    parts = std::move(cut);
  }
  Spec spec;
  for (Part& part : parts) {
    spec = concat(std::move(spec), box(self, out, std::move(part.axes), part.from, part.to));
  }
  return spec;
}

Spec repeat(const LaunchArguments& args) {
  const at::Tensor &self = args.tensor("self"), &out = args.output();
  if (!is_boxed(self, out)) {
    return {};
  }
  const std::int64_t added = out.dim() - self.dim();
  std::vector<BoxAxis> axes;
  for (std::int64_t d = 0; d < out.dim(); ++d) {
    const std::int64_t size = d < added ? 1 : self.size(d - added);
    axes.push_back({out.size(d) / size, 0, size * out.stride(d), false});
    if (d >= added) {
      axes.push_back({size, self.stride(d - added), out.stride(d), false});
    }
  }
  return box(self, out, std::move(axes));
}

// [C r r, H, W] and [C, H r, W r]: each of the larger image's axes is two of the smaller's.
Spec pixel_shuffle(const LaunchArguments& args) {
  const at::Tensor &self = args.tensor("self"), &out = args.output();
  if (!is_boxed(self, out)) {
    return {};
  }
  const bool shuffles = args.base_name() == "pixel_shuffle";
  const std::int64_t r = args.integer("upscale_factor", args.integer("downscale_factor", 1));
  const at::Tensor &deep = shuffles ? self : out, &wide = shuffles ? out : self;
  std::vector<BoxAxis> axes;
  auto add = [&](std::int64_t size, std::int64_t of_deep, std::int64_t of_wide) {
    axes.push_back(shuffles ? BoxAxis{size, of_deep, of_wide, false} : BoxAxis{size, of_wide, of_deep, false});
  };
  for (std::int64_t d = 0; d + 3 < wide.dim(); ++d) {
    add(wide.size(d), deep.stride(d), wide.stride(d));
  }
  const std::int64_t channel = deep.stride(-3);
  add(wide.size(-3), channel * r * r, wide.stride(-3));
  add(r, channel * r, wide.stride(-2));
  add(r, channel, wide.stride(-1));
  add(deep.size(-2), deep.stride(-2), wide.stride(-2) * r);
  add(deep.size(-1), deep.stride(-1), wide.stride(-1) * r);
  return box(self, out, std::move(axes));
}

Spec channel_shuffle(const LaunchArguments& args) {
  const at::Tensor &self = args.tensor("self"), &out = args.output();
  const std::int64_t groups = args.integer("groups", 1);
  if (!is_boxed(self, out) || self.dim() < 2 || groups <= 0) {
    return {};
  }
  auto axes = axes_between(self, out);
  const std::int64_t each = self.size(1) / groups;
  axes[1] = {groups, self.stride(1) * each, out.stride(1), false};
  axes.push_back({each, self.stride(1), out.stride(1) * groups, false});
  return box(self, out, std::move(axes));
}

Spec narrow_copy(const LaunchArguments& args) {
  const at::Tensor &self = args.tensor("self"), &out = args.output();
  if (!is_boxed(self, out)) {
    return {};
  }
  const std::int64_t dim = wrapped(args.integer("dim", 0), self.dim()), start = args.integer("start", 0);
  const std::int64_t first = (start < 0 ? start + self.size(dim) : start) * self.stride(dim);
  return box(self, out, axes_between(self, out), first);
}

}  // namespace trn::aten::rules
