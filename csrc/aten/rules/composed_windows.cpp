// Windows over regular axes: interpolation, average pools, folds and pads, forward and backward.
#include <algorithm>
#include <utility>

#include "aten/rules/composition.h"
#include "aten/rules/names.h"
#include "aten/rules/window.h"
#include "aten/system.h"
#include "kernels/pool.h"

namespace trn::aten::rules {

namespace {

using kernels::BoxAxis;

// What a rule has found the program for, on the operator's own tensors.
bool takes(Composition& c, const Spec& spec, const Stack& inputs) {
  const auto* window = spec.size() == 1 ? std::get_if<kernels::WindowShape>(&spec.front()) : nullptr;
  const auto* box = spec.size() == 1 ? std::get_if<kernels::BoxShape>(&spec.front()) : nullptr;
  if (box != nullptr) {
    c.add(*box, {{inputs.front().as_strided({box->src_elements}, {1})}},
          {{c.args().output().as_strided({box->dst_elements}, {1})}});
  } else if (window != nullptr && kernels::has_pool_program(system().target()->core, *window)) {
    c.add(*window, {inputs}, {{c.args().output()}});
  } else {
    return false;
  }
  return true;
}

// Forward or backward over the last axes: taps are the forward's.
void resample(Composition& c, const at::Tensor& input, bool is_backward, std::vector<AxisTaps> axes) {
  for (AxisTaps& axis : axes) {
    axis.taps = is_backward ? turned(std::move(axis.taps)) : std::move(axis.taps);
  }
  c.resample(input, c.args().output(), axes);
}

// ---- Interpolation

Filter filter_of(std::string_view name) {
  return contains(name, "nearest_exact") ? Filter::nearest_exact
         : contains(name, "nearest")     ? Filter::nearest
         : contains(name, "cubic")       ? Filter::cubic
         : contains(name, "lanczos")     ? Filter::lanczos
                                         : Filter::linear;
}

// Inputs per output along the axis `behind` from the last; 0 where it follows from the sizes.
double scale_along(const LaunchArguments& args, std::int64_t axis, std::int64_t rank) {
  constexpr std::string_view kNames[] = {"scales_w", "scales_h", "scales_d"};
  const auto all = args.numbers("scale_factors");
  const double given = static_cast<std::int64_t>(all.size()) == rank
                           ? all[static_cast<std::size_t>(rank - 1 - axis)]
                           : args.number(rank == 1 ? "scales" : kNames[axis], 0);
  return given > 0 ? 1 / given : 0;
}

void upsample(Composition& c) {
  const auto name = c.args().base_name();
  const bool is_backward = c.args().find("grad_output") >= 0;
  const at::Tensor self = c.tensor("self").defined() ? c.tensor("self") : c.tensor("input");
  const at::Tensor given = is_backward ? c.tensor("grad_output") : self;
  const at::Tensor &small = is_backward ? c.args().output() : given, &large = is_backward ? given : c.args().output();
  const std::int64_t rank = num_axes(name);
  if (small.numel() == 0 || large.numel() == 0 || takes(c, nearest_by_whole_factors(c.args()), {given})) {
    return;
  }
  std::vector<AxisTaps> axes;
  for (std::int64_t axis = 0; axis < rank; ++axis) {
    const std::int64_t dim = small.dim() - 1 - axis;
    const Resampling one{.in = small.size(dim),
                         .out = large.size(dim),
                         .filter = filter_of(name),
                         .aligns_corners = c.args().boolean("align_corners", false),
                         .antialias = contains(name, "_aa"),
                         .scale = scale_along(c.args(), axis, rank)};
    axes.push_back({dim, resampling(one)});
  }
  resample(c, given, is_backward, std::move(axes));
}

// ---- Averages

std::int64_t along(const std::vector<std::int64_t>& values, std::int64_t axis, std::int64_t rank,
                   std::int64_t fallback) {
  return values.empty() ? fallback : values[values.size() == 1 ? 0 : static_cast<std::size_t>(rank - 1 - axis)];
}

void average(Composition& c) {
  const auto name = c.args().base_name();
  const bool is_backward = c.args().find("grad_output") >= 0;
  const at::Tensor given = c.tensor(is_backward ? "grad_output" : "self");
  const at::Tensor &in = is_backward ? c.args().output() : given, &out = is_backward ? given : c.args().output();
  if (in.numel() == 0 || out.numel() == 0) {
    c.fill(c.args().output(), 0);
    return;
  }
  if (takes(c, pool(c.args()), {given})) {
    return;
  }
  const std::int64_t rank = num_axes(name);
  const auto kernel = c.args().integers("kernel_size"), stride = c.args().integers("stride"),
             padding = c.args().integers("padding");
  const auto divisor = static_cast<double>(c.args().integer("divisor_override", 0));
  std::vector<AxisTaps> axes;
  for (std::int64_t axis = 0; axis < rank; ++axis) {
    const std::int64_t dim = in.dim() - 1 - axis;
    if (contains(name, "adaptive")) {
      axes.push_back({dim, adaptive_averaging(in.size(dim), out.size(dim))});
      continue;
    }
    const std::int64_t length = along(kernel, axis, rank, 1);
    // A divisor that is given divides once.
    axes.push_back({dim, averaging({.in = in.size(dim),
                                    .out = out.size(dim),
                                    .kernel = length,
                                    .stride = along(stride, axis, rank, length),
                                    .padding = along(padding, axis, rank, 0),
                                    .counts_padding = c.args().boolean("count_include_pad", true),
                                    .divisor = divisor == 0 ? 0
                                               : axis == 0  ? divisor
                                                            : 1})});
  }
  resample(c, given, is_backward, std::move(axes));
}

// ---- Folds: kernels slide over two axes

struct Sliding {
  std::int64_t in = 1, kernel = 1, dilation = 1, padding = 0, stride = 1;
  std::int64_t out() const { return (in + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1; }
  // Windows whose k-th element lies within the axis: the first, and how many.
  std::pair<std::int64_t, std::int64_t> inside(std::int64_t k) const {
    const std::int64_t shift = k * dilation - padding;
    const std::int64_t first = shift >= 0 ? 0 : ceil_div(-shift, stride);
    const std::int64_t end = shift >= in ? 0 : std::min(out(), (in - 1 - shift) / stride + 1);
    return {first, std::max<std::int64_t>(end - first, 0)};
  }
};

Sliding sliding(const LaunchArguments& args, std::int64_t in, std::size_t axis) {
  auto value = [&](std::string_view name) {
    const auto values = args.integers(name);
    return values.empty() ? 1 : values[std::min(axis, values.size() - 1)];
  };
  return {in, value("kernel_size"), value("dilation"), value("padding"), value("stride")};
}

// [batch, channels, H, W] to [batch, channels, kh, kw, oh, ow]: a box for each of the kernel's places.
void im2col(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const at::Tensor& out = c.args().output();
  if (self.numel() == 0 || out.numel() == 0) {
    return;
  }
  const at::Tensor images = self.dim() == 3 ? self.unsqueeze(0) : self;
  const Sliding down = sliding(c.args(), images.size(2), 0), right = sliding(c.args(), images.size(3), 1);
  const at::Tensor columns =
      out.view({images.size(0), images.size(1), down.kernel, right.kernel, down.out(), right.out()});
  if (down.padding + right.padding > 0) {
    c.fill(out, 0);
  }
  for (std::int64_t i = 0; i < down.kernel; ++i) {
    for (std::int64_t j = 0; j < right.kernel; ++j) {
      const auto [top, height] = down.inside(i);
      const auto [left, width] = right.inside(j);
      if (height == 0 || width == 0) {
        continue;
      }
      const std::int64_t row = top * down.stride + i * down.dilation - down.padding;
      const std::int64_t column = left * right.stride + j * right.dilation - right.padding;
      c.move(images, out,
             {{images.size(0), images.stride(0), columns.stride(0), false},
              {images.size(1), images.stride(1), columns.stride(1), false},
              {height, images.stride(2) * down.stride, columns.stride(4), false},
              {width, images.stride(3) * right.stride, columns.stride(5), false}},
             row * images.stride(2) + column * images.stride(3),
             i * columns.stride(2) + j * columns.stride(3) + top * columns.stride(4) + left * columns.stride(5));
    }
  }
}

// The kernel's places and its windows, [kernel, out], as they meet an axis.
std::vector<Tap> folding(const Sliding& axis) {
  std::vector<Tap> taps;
  for (std::int64_t k = 0; k < axis.kernel; ++k) {
    const auto [first, count] = axis.inside(k);
    for (std::int64_t o = first; o < first + count; ++o) {
      taps.push_back({o * axis.stride + k * axis.dilation - axis.padding, k * axis.out() + o});
    }
  }
  return taps;
}

void col2im(Composition& c) {
  const at::Tensor self = c.tensor("self");
  const at::Tensor& out = c.args().output();
  if (self.numel() == 0 || out.numel() == 0 || !out.is_contiguous()) {
    return;
  }
  const std::int64_t height = size(out, -2), width = size(out, -1), planes = out.numel() / (height * width);
  const Sliding down = sliding(c.args(), height, 0), right = sliding(c.args(), width, 1);
  const at::Tensor columns = c.flat(self).view({planes, down.kernel, right.kernel, down.out(), right.out()});
  const at::Tensor rows = c.temporary({planes, height, right.kernel * right.out()});
  c.resample(columns.transpose(2, 3), rows, 1, folding(down));
  c.resample(rows, out.view({planes, height, width}), 2, folding(right));
}

// [..., windows, ..., size] added up along the axis that the windows were taken from.
void unfold_backward(Composition& c) {
  const at::Tensor grad = c.tensor("grad_in");
  const at::Tensor& out = c.args().output();
  if (out.numel() == 0) {
    return;
  }
  if (grad.numel() == 0 || out.dim() == 0) {
    out.dim() == 0 && grad.numel() > 0 ? c.copy(grad.view(out.sizes()), out) : c.fill(out, 0);
    return;
  }
  const std::int64_t given = c.args().integer("dim", 0), dim = given < 0 ? given + out.dim() : given;
  const std::int64_t length = c.args().integer("size", 1), step = c.args().integer("step", 1);
  const std::int64_t windows = grad.size(dim);
  std::vector<Tap> taps;
  for (std::int64_t w = 0; w < windows; ++w) {
    for (std::int64_t i = 0; i < length; ++i) {
      taps.push_back({w * step + i, w * length + i});
    }
  }
  std::vector<std::int64_t> sizes = out.sizes().vec();
  sizes[static_cast<std::size_t>(dim)] = windows;
  sizes.push_back(length);
  at::Tensor whole = grad;
  if (grad.sizes() != sizes) {  // a gradient that serves several
    whole = c.temporary(sizes);
    c.copy(grad.expand(sizes), whole);
  }
  c.resample(whole.movedim(-1, dim + 1), out, dim, taps);
}

// ---- Pads by what lies inside

// Of one axis: `count` elements of the padded axis from `to` on, read from `from` on in that direction (0: one
// element).
struct Piece {
  std::int64_t to = 0, from = 0, count = 0, direction = 1;
};

std::vector<Piece> pieces(std::int64_t in, std::int64_t before, std::int64_t behind, bool reflects) {
  const std::int64_t skipped = std::max<std::int64_t>(-before, 0);
  const std::int64_t kept = in - skipped - std::max<std::int64_t>(-behind, 0);
  const std::int64_t left = std::max<std::int64_t>(before, 0), right = std::max<std::int64_t>(behind, 0);
  std::vector<Piece> all{{left, skipped, kept, 1}};
  if (reflects) {
    all.push_back({0, left, left, -1});
    all.push_back({left + kept, in - 2, right, -1});
  } else {
    all.push_back({0, 0, left, 0});
    all.push_back({left + kept, in - 1, right, 0});
  }
  std::erase_if(all, [](const Piece& piece) { return piece.count <= 0; });
  return all;
}

void pad(Composition& c) {
  const auto name = c.args().base_name();
  const bool is_backward = c.args().find("grad_output") >= 0, reflects = contains(name, "reflection");
  const at::Tensor given = c.tensor(is_backward ? "grad_output" : "self");
  const at::Tensor& out = c.args().output();
  const auto padding = c.args().integers("padding");
  const std::int64_t rank = num_axes(name);
  if (given.numel() == 0 || out.numel() == 0 || static_cast<std::int64_t>(padding.size()) != 2 * rank) {
    return;
  }
  const at::Tensor& in = is_backward ? out : given;
  std::vector<std::vector<Piece>> by_axis;
  for (std::int64_t axis = 0; axis < rank; ++axis) {
    const auto first = static_cast<std::size_t>(2 * axis);
    by_axis.push_back(pieces(in.size(in.dim() - 1 - axis), padding[first], padding[first + 1], reflects));
  }
  if (is_backward) {
    std::vector<AxisTaps> axes;
    for (std::int64_t axis = 0; axis < rank; ++axis) {
      std::vector<Tap> taps;
      for (const Piece& piece : by_axis[static_cast<std::size_t>(axis)]) {
        for (std::int64_t i = 0; i < piece.count; ++i) {
          taps.push_back({piece.from + i * piece.direction, piece.to + i});
        }
      }
      axes.push_back({in.dim() - 1 - axis, std::move(taps)});
    }
    c.resample(given, out, axes);
    return;
  }
  // A box for each choice of pieces.
  struct Part {
    std::vector<BoxAxis> axes;
    std::int64_t from = 0, to = 0;
  };
  std::vector<Part> parts(1);
  for (std::int64_t d = 0; d < in.dim() - rank; ++d) {
    parts.front().axes.push_back({in.size(d), in.stride(d), out.stride(d), false});
  }
  for (std::int64_t axis = 0; axis < rank; ++axis) {
    const std::int64_t dim = in.dim() - 1 - axis;
    std::vector<Part> more;
    for (const Part& part : parts) {
      for (const Piece& piece : by_axis[static_cast<std::size_t>(axis)]) {
        Part next = part;
        const bool is_reversed = piece.direction < 0;
        const std::int64_t foremost = is_reversed ? piece.from - (piece.count - 1) : piece.from;
        next.axes.push_back({piece.count, piece.direction == 0 ? 0 : in.stride(dim), out.stride(dim), is_reversed});
        next.from += foremost * in.stride(dim);
        next.to += piece.to * out.stride(dim);
        more.push_back(std::move(next));
      }
    }
    parts = std::move(more);
  }
  for (Part& part : parts) {
    c.move(in, out, std::move(part.axes), part.from, part.to);
  }
}

constexpr Composed kWindows[] = {
    {"_adaptive_avg_pool2d", average},
    {"_adaptive_avg_pool2d_backward", average},
    {"_adaptive_avg_pool3d", average},
    {"_adaptive_avg_pool3d_backward", average},
    {"_upsample_bicubic2d_aa", upsample},
    {"_upsample_bicubic2d_aa_backward", upsample},
    {"_upsample_bilinear2d_aa", upsample},
    {"_upsample_bilinear2d_aa_backward", upsample},
    {"_upsample_lanczos2d_aa", upsample},
    {"_upsample_lanczos2d_aa_backward", upsample},
    {"_upsample_nearest_exact1d", upsample},
    {"_upsample_nearest_exact1d_backward", upsample},
    {"_upsample_nearest_exact2d", upsample},
    {"_upsample_nearest_exact2d_backward", upsample},
    {"_upsample_nearest_exact3d", upsample},
    {"_upsample_nearest_exact3d_backward", upsample},
    {"adaptive_avg_pool2d", average},
    {"adaptive_avg_pool3d", average},
    {"adaptive_avg_pool3d_backward", average},
    {"avg_pool2d", average},
    {"avg_pool2d_backward", average},
    {"avg_pool3d", average},
    {"avg_pool3d_backward", average},
    {"col2im", col2im},
    {"im2col", im2col},
    {"reflection_pad1d", pad},
    {"reflection_pad1d_backward", pad},
    {"reflection_pad2d", pad},
    {"reflection_pad2d_backward", pad},
    {"reflection_pad3d", pad},
    {"reflection_pad3d_backward", pad},
    {"replication_pad1d", pad},
    {"replication_pad1d_backward", pad},
    {"replication_pad2d", pad},
    {"replication_pad2d_backward", pad},
    {"replication_pad3d", pad},
    {"replication_pad3d_backward", pad},
    {"unfold_backward", unfold_backward},
    {"upsample_bicubic2d", upsample},
    {"upsample_bicubic2d_backward", upsample},
    {"upsample_bilinear2d", upsample},
    {"upsample_bilinear2d_backward", upsample},
    {"upsample_linear1d", upsample},
    {"upsample_linear1d_backward", upsample},
    {"upsample_nearest1d", upsample},
    {"upsample_nearest1d_backward", upsample},
    {"upsample_nearest2d", upsample},
    {"upsample_nearest2d_backward", upsample},
    {"upsample_nearest3d", upsample},
    {"upsample_nearest3d_backward", upsample},
    {"upsample_trilinear3d", upsample},
    {"upsample_trilinear3d_backward", upsample},
};

}  // namespace

std::span<const Composed> composed_windows() {
  return kWindows;
}

}  // namespace trn::aten::rules
