#include "aten/direct_ops.h"

#include <ATen/ops/_foreach_add_ops.h>
#include <ATen/ops/_foreach_addcdiv_ops.h>
#include <ATen/ops/_foreach_addcmul_ops.h>
#include <ATen/ops/_foreach_div_ops.h>
#include <ATen/ops/_foreach_lerp_ops.h>
#include <ATen/ops/_foreach_maximum_ops.h>
#include <ATen/ops/_foreach_mul_ops.h>
#include <ATen/ops/_foreach_neg_ops.h>
#include <ATen/ops/_foreach_norm_ops.h>
#include <ATen/ops/_foreach_sqrt_ops.h>
#include <ATen/ops/_foreach_sub_ops.h>
#include <ATen/ops/_foreach_zero_ops.h>
#include <ATen/ops/_fused_adam_ops.h>
#include <ATen/ops/_fused_adamw_ops.h>
#include <ATen/ops/_fused_sgd_ops.h>
#include <ATen/ops/_log_softmax_backward_data_ops.h>
#include <ATen/ops/_log_softmax_ops.h>
#include <ATen/ops/_softmax_backward_data_ops.h>
#include <ATen/ops/_softmax_ops.h>
#include <ATen/ops/add_ops.h>
#include <ATen/ops/addcdiv_ops.h>
#include <ATen/ops/addcmul_ops.h>
#include <ATen/ops/addmm_ops.h>
#include <ATen/ops/baddbmm_ops.h>
#include <ATen/ops/bmm_ops.h>
#include <ATen/ops/cat_ops.h>
#include <ATen/ops/convolution_backward_ops.h>
#include <ATen/ops/convolution_ops.h>
#include <ATen/ops/div_ops.h>
#include <ATen/ops/embedding_dense_backward_ops.h>
#include <ATen/ops/eq_ops.h>
#include <ATen/ops/exp_ops.h>
#include <ATen/ops/fill_ops.h>
#include <ATen/ops/ge_ops.h>
#include <ATen/ops/gelu_backward_ops.h>
#include <ATen/ops/gelu_ops.h>
#include <ATen/ops/gt_ops.h>
#include <ATen/ops/index_select_ops.h>
#include <ATen/ops/le_ops.h>
#include <ATen/ops/lerp_ops.h>
#include <ATen/ops/log_ops.h>
#include <ATen/ops/lt_ops.h>
#include <ATen/ops/max_pool2d_with_indices_backward_ops.h>
#include <ATen/ops/max_pool2d_with_indices_ops.h>
#include <ATen/ops/mean_ops.h>
#include <ATen/ops/mm_ops.h>
#include <ATen/ops/mul_ops.h>
#include <ATen/ops/native_batch_norm_backward_ops.h>
#include <ATen/ops/native_batch_norm_ops.h>
#include <ATen/ops/native_layer_norm_backward_ops.h>
#include <ATen/ops/native_layer_norm_ops.h>
#include <ATen/ops/ne_ops.h>
#include <ATen/ops/neg_ops.h>
#include <ATen/ops/nll_loss_backward_ops.h>
#include <ATen/ops/nll_loss_forward_ops.h>
#include <ATen/ops/pow_ops.h>
#include <ATen/ops/relu_ops.h>
#include <ATen/ops/rsqrt_ops.h>
#include <ATen/ops/sigmoid_backward_ops.h>
#include <ATen/ops/sigmoid_ops.h>
#include <ATen/ops/silu_backward_ops.h>
#include <ATen/ops/silu_ops.h>
#include <ATen/ops/sqrt_ops.h>
#include <ATen/ops/sub_ops.h>
#include <ATen/ops/sum_ops.h>
#include <ATen/ops/tanh_backward_ops.h>
#include <ATen/ops/tanh_ops.h>
#include <ATen/ops/threshold_backward_ops.h>
#include <ATen/ops/where_ops.h>
#include <ATen/ops/zero_ops.h>
#include <torch/library.h>

#include "aten/direct.h"

// clang-format off
#define TRN_DIRECT_OPS(_)                                                                                             \
  _(add_Tensor) _(add__Tensor) _(add_out) _(mul_out) _(mm_out) _(addmm_out) _(bmm_out) _(sub_Tensor)                  \
  _(sub__Tensor) _(mul_Tensor) _(mul__Tensor) _(div_Tensor) _(div__Tensor) _(neg) _(exp) _(log) _(sqrt) _(rsqrt)      \
  _(pow_Tensor_Scalar) _(where_self) _(fill__Scalar) _(zero_) _(eq_Scalar) _(eq_Tensor) _(ne_Scalar) _(ne_Tensor)     \
  _(lt_Scalar) _(lt_Tensor) _(le_Scalar) _(le_Tensor) _(gt_Scalar) _(gt_Tensor) _(ge_Scalar) _(ge_Tensor)             \
  _(addcmul_) _(addcdiv_) _(lerp__Scalar) _(relu) _(relu_) _(threshold_backward) _(sigmoid) _(sigmoid_backward)       \
  _(tanh) _(tanh_backward) _(gelu) _(gelu_backward) _(silu) _(silu_backward) _(mm) _(bmm) _(addmm) _(baddbmm)         \
  _(convolution) _(convolution_backward) _(_softmax) _(_softmax_backward_data) _(_log_softmax)                        \
  _(_log_softmax_backward_data) _(native_layer_norm) _(native_layer_norm_backward) _(native_batch_norm)               \
  _(native_batch_norm_backward) _(sum_dim_IntList) _(sum) _(mean) _(mean_dim) _(nll_loss_forward)                     \
  _(nll_loss_backward) _(index_select) _(embedding_dense_backward) _(max_pool2d_with_indices)                         \
  _(max_pool2d_with_indices_backward) _(_foreach_add__List) _(_foreach_add__Scalar) _(_foreach_sub__List)             \
  _(_foreach_mul__Scalar) _(_foreach_mul__List) _(_foreach_mul__Tensor) _(_foreach_div__Scalar)                       \
  _(_foreach_div__ScalarList) _(_foreach_lerp__Scalar) _(_foreach_addcmul__Scalar) _(_foreach_addcdiv__Scalar)        \
  _(_foreach_addcdiv__ScalarList) _(_foreach_maximum__List) _(_foreach_sqrt) _(_foreach_neg)                          \
  _(cat) _(_foreach_norm_Scalar) _(_foreach_zero_) _(_fused_adam_) _(_fused_adamw_) _(_fused_sgd_)
// clang-format on

namespace trn::aten {

namespace {

template <class Op>
std::string full_name() {
  const std::string overload(Op::overload_name);
  return std::string(Op::name) + (overload.empty() ? "" : "." + overload);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
#define TRN_REGISTER(op) \
  m.impl(full_name<at::_ops::op>().c_str(), TORCH_FN((Direct<at::_ops::op, at::_ops::op::schema>::call)));
  TRN_DIRECT_OPS(TRN_REGISTER)
#undef TRN_REGISTER
}

}  // namespace

bool has_direct_kernel(std::string_view name) {
#define TRN_COMPARE(op)                    \
  if (name == full_name<at::_ops::op>()) { \
    return true;                           \
  }
  TRN_DIRECT_OPS(TRN_COMPARE)
#undef TRN_COMPARE
  return false;
}

}  // namespace trn::aten
