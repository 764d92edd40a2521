// Count rules of matrix products.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

// a [.., m, k] x b [.., k, n], where the leading axes of a are rows of one product unless b has leading axes too.
kernels::MatmulShape matmul_shape(const at::Tensor& a, const at::Tensor& b, Dtype out_dtype);
kernels::MatmulShape matmul_shape(Dtype dtype, std::int64_t m, std::int64_t n, std::int64_t k);

Spec mm(const LaunchArguments& args);      // mm, bmm, _int_mm, _scaled_mm: the first two tensor arguments
Spec addmm(const LaunchArguments& args);   // addmm, baddbmm, addbmm, addmv, addr, _addmm_activation
Spec dot(const LaunchArguments& args);     // dot, vdot
Spec linear(const LaunchArguments& args);  // weight is [out, in]
Spec linear_backward(const LaunchArguments& args);
Spec matmul_backward(const LaunchArguments& args);
Spec packed_weight_mm(const LaunchArguments& args);    // int4 and int8 weights with scales
Spec linear_combination(const LaunchArguments& args);  // _compute_linear_combination
Spec matrix_exponential(const LaunchArguments& args);  // a Taylor polynomial of degree 8: four products
Spec foreach_mm(const LaunchArguments& args);

}  // namespace trn::aten::rules
