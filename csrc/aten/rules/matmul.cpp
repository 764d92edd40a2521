// Count rules of matrix products.
#include "aten/rules/matmul.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "aten/rules/broadcast.h"
#include "aten/rules/steps.h"

namespace trn::aten::rules {

namespace {

using kernels::MatmulShape;

// The axis -1 or -2 along which elements lie closer together.
bool is_contiguous_along(const at::Tensor& tensor, std::int64_t dim) {
  const auto other = dim == -1 ? -2 : -1;
  return tensor.dim() < 2 || tensor.stride(dim) <= tensor.stride(other) || tensor.size(other) == 1;
}

Spec checked(const MatmulShape& shape) {
  if (shape.batch <= 0 || shape.m <= 0 || shape.n <= 0) {
    return {};
  }
  return {shape};
}

// Sizes of the addend by [batch, m, n], 1 where one element serves all; of a result [batch, m, n], [m, n] or, with
// n = 1, [m].
std::vector<std::int64_t> bias_of(const at::Tensor& bias, const at::Tensor& out, const MatmulShape& shape) {
  if (!is_strided(bias) || !is_device_tensor(bias)) {
    return {};
  }
  std::vector<std::int64_t> sizes = {1, 1, 1};
  const std::int64_t extents[] = {shape.batch, shape.m, shape.n};
  for (std::int64_t d = 1; d <= std::min<std::int64_t>(bias.dim(), 3); ++d) {
    const auto axis = static_cast<std::size_t>(out.dim() == 1 ? 1 : 3 - d);
    const bool differs = bias.size(-d) > 1 && bias.stride(-d) != 0;
    sizes[axis] = differs ? extents[axis] : 1;
  }
  return sizes;
}

std::int64_t distinct_matrices(const at::Tensor& tensor) {
  std::int64_t count = 1;
  for (std::int64_t d = 0; d + 2 < tensor.dim(); ++d) {
    count *= tensor.stride(d) == 0 ? 1 : tensor.size(d);
  }
  return count;
}

// Of a product that adds nothing: beta times the addend.
Spec scaled_addend(const LaunchArguments& args, float beta) {
  const std::vector<at::Tensor> addend{args.tensor(0)}, out{args.output()};
  auto spec = stream(numel(args.output()), accesses(addend), accesses(out), steps_of(ts(Alu::multiply, beta)));
  if (!spec.empty()) {
    set_axes(std::get<kernels::PointwiseShape>(spec.front()), addend, out);
  }
  return spec;
}

// A product with inner length 0 still writes its zeros (or its addend).
Spec product_or_fill(const LaunchArguments& args, const MatmulShape& shape) {
  if (shape.k > 0) {
    return checked(shape);
  }
  return or_fill({}, args);
}

}  // namespace

kernels::MatmulShape matmul_shape(Dtype dtype, std::int64_t m, std::int64_t n, std::int64_t k) {
  MatmulShape shape;
  shape.m = m;
  shape.n = n;
  shape.k = k;
  shape.a_dtype = shape.b_dtype = shape.out_dtype = dtype;
  return shape;
}

kernels::MatmulShape matmul_shape(const at::Tensor& a, const at::Tensor& b, Dtype out_dtype) {
  MatmulShape shape;
  shape.a_dtype = dtype(a);
  shape.b_dtype = dtype(b);
  shape.out_dtype = out_dtype;
  if (!is_strided(a) || !is_strided(b)) {  // sparse: the stored values times b
    shape.m = 1;
    shape.k = size(b, -2);
    shape.n = size(b, -1);
    return shape;
  }
  shape.k = size(a, -1);
  shape.n = b.dim() == 1 ? 1 : size(b, -1);
  shape.m = a.dim() == 1 ? 1 : size(a, -2);
  if (b.dim() <= 2) {
    for (std::int64_t d = 0; d + 2 < a.dim(); ++d) {
      shape.m *= a.size(d);
    }
  } else {
    for (std::int64_t d = 0; d + 2 < b.dim(); ++d) {
      shape.batch *= std::max(b.size(d), a.dim() == b.dim() ? a.size(d) : 1);
    }
    shape.a_batch = distinct_matrices(a);
    shape.b_batch = distinct_matrices(b);
  }
  shape.a_k_major = a.dim() >= 2 && !is_contiguous_along(a, -1);
  shape.b_k_major = b.dim() == 1 || is_contiguous_along(b, -1);
  return shape;
}

Spec mm(const LaunchArguments& args) {
  const auto shape = matmul_shape(args.tensor(0), args.tensor(1), dtype(args.output()));
  return product_or_fill(args, shape);
}

Spec addmm(const LaunchArguments& args) {
  // self, then the two factors. alpha, beta and an activation are applied on the way out of PSUM.
  const auto name = args.base_name();
  const auto& a = args.tensor(1);
  const auto& b = args.tensor(2);
  MatmulShape shape;
  if (name == "addr") {
    shape = matmul_shape(dtype(args.output()), numel(a), numel(b), 1);
  } else {
    shape = matmul_shape(a, b, dtype(args.output()));
  }
  if (name == "addbmm") {  // one accumulation over batch and k
    shape.k *= shape.batch;
    shape.batch = shape.a_batch = shape.b_batch = 1;
  }
  // Integer products take the whole part of their factors.
  const bool is_whole = c10::isIntegralType(args.output().scalar_type(), true);
  const auto factor = [&](std::string_view name) {
    const double value = args.number(name, 1);
    return static_cast<float>(is_whole ? std::trunc(value) : value);
  };
  const float alpha = factor("alpha"), beta = factor("beta");
  if (beta != 0) {
    shape.bias = bias_of(args.tensor(0), args.output(), shape);
  }
  shape.alpha = alpha;
  shape.beta = shape.bias.empty() ? 1 : beta;
  if (shape.k == 0 || alpha == 0) {
    return beta == 0 ? or_fill({}, args) : scaled_addend(args, beta);
  }
  return checked(shape);
}

Spec dot(const LaunchArguments& args) {
  const auto& self = args.tensor(0);
  auto shape = matmul_shape(dtype(self), 1, 1, numel(self));
  shape.a_k_major = true;
  return product_or_fill(args, shape);
}

Spec linear(const LaunchArguments& args) {
  const auto& input = args.tensor(0);
  const auto& weight = args.tensor(1);
  auto shape = matmul_shape(dtype(args.output()), numel(input) / std::max<std::int64_t>(size(input, -1), 1),
                            weight.dim() == 1 ? 1 : size(weight, 0), size(input, -1));
  shape.a_dtype = dtype(input);
  shape.b_dtype = dtype(weight);
  shape.b_k_major = is_strided(weight) && weight.dim() == 2 && !is_contiguous_along(weight, -1);
  shape.bias = bias_of(args.tensor(2), args.output(), shape);
  return product_or_fill(args, shape);
}

Spec linear_backward(const LaunchArguments& args) {
  const auto& grad = args.tensor("grad_output");
  const auto& weight = args.tensor("weight");
  const auto mask = args.integers("output_mask");
  const auto wanted = [&](std::size_t i) { return i >= mask.size() || mask[i] != 0; };
  const auto in = size(weight, -1);
  const auto out = size(weight, 0);
  const auto rows = numel(grad) / std::max<std::int64_t>(out, 1);
  Spec spec;
  if (wanted(0)) {
    spec = concat(std::move(spec), checked(matmul_shape(dtype(grad), rows, in, out)));
  }
  if (wanted(1)) {
    auto shape = matmul_shape(dtype(grad), out, in, rows);  // grad^T input: both lie rows-major
    shape.a_k_major = true;
    spec = concat(std::move(spec), checked(shape));
  }
  if (wanted(2) && rows > 0) {
    kernels::ReductionShape bias;
    bias.rows = out;
    bias.cols = rows;
    bias.across_partitions = true;
    bias.inputs = {access_of(grad)};
    bias.outputs = {dense(dtype(grad), out)};
    spec.emplace_back(bias);
  }
  return or_fill(std::move(spec), args);
}

Spec matmul_backward(const LaunchArguments& args) {
  const auto& grad = args.tensor("grad");
  const auto& self = args.tensor("self");
  const auto& other = args.tensor("other");
  const auto mask = args.integers("mask");
  const auto k = size(self, -1);
  const auto n = other.defined() && other.dim() > 1 ? size(other, -1) : 1;
  const auto rows = numel(grad) / std::max<std::int64_t>(n, 1);
  Spec spec;
  if (mask.empty() || mask[0] != 0) {
    spec = concat(std::move(spec), checked(matmul_shape(dtype(grad), rows, k, n)));
  }
  if (mask.size() < 2 || mask[1] != 0) {
    auto shape = matmul_shape(dtype(grad), k, n, rows);
    shape.a_k_major = true;
    spec = concat(std::move(spec), checked(shape));
  }
  return or_fill(std::move(spec), args);
}

Spec packed_weight_mm(const LaunchArguments& args) {
  // x [m, k] times a packed weight of n rows; the scales are applied on the way out of PSUM.
  const auto& x = args.tensor(0);
  const auto& out = args.output();
  auto shape = matmul_shape(dtype(out), numel(x) / std::max<std::int64_t>(size(x, -1), 1), size(out, -1), size(x, -1));
  shape.a_dtype = dtype(x);
  shape.b_dtype = dtype(args.tensor(1));
  shape.b_k_major = false;
  return product_or_fill(args, shape);
}

Spec linear_combination(const LaunchArguments& args) {
  const auto& input = args.tensor("input");
  const auto& coefficients = args.tensor("coefficients");
  const auto terms = size(input, 0);
  const auto results = size(coefficients, 0);
  const auto elements = terms == 0 ? 0 : numel(input) / std::max<std::int64_t>(terms, 1);
  return product_or_fill(args, matmul_shape(dtype(input), results, elements, terms));
}

Spec matrix_exponential(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const auto n = size(self, -1);
  auto shape = matmul_shape(dtype(self), n, n, n);
  shape.batch = shape.a_batch = shape.b_batch = 4 * (n == 0 ? 0 : numel(self) / (n * n));
  return checked(shape);
}

Spec foreach_mm(const LaunchArguments& args) {
  const auto left = args.tensors("self");
  const auto right = args.tensors("mat2");
  Spec spec;
  for (std::size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
    spec = concat(std::move(spec), checked(matmul_shape(left[i], right[i], dtype(left[i]))));
  }
  return spec;
}

}  // namespace trn::aten::rules
