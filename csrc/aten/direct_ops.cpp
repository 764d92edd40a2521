#include "aten/direct_ops.h"

#include <ATen/ops/_adaptive_avg_pool2d_ops.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale_ops.h>
#include <ATen/ops/_embedding_bag_ops.h>
#include <ATen/ops/_fft_c2c_ops.h>
#include <ATen/ops/_foreach_add_ops.h>
#include <ATen/ops/_foreach_addcdiv_ops.h>
#include <ATen/ops/_foreach_copy_ops.h>
#include <ATen/ops/_foreach_lerp_ops.h>
#include <ATen/ops/_foreach_mul_ops.h>
#include <ATen/ops/_foreach_norm_ops.h>
#include <ATen/ops/_foreach_sqrt_ops.h>
#include <ATen/ops/_fused_adagrad_ops.h>
#include <ATen/ops/_fused_adam_ops.h>
#include <ATen/ops/_fused_rms_norm_ops.h>
#include <ATen/ops/_fused_sgd_ops.h>
#include <ATen/ops/_index_put_impl_ops.h>
#include <ATen/ops/_scaled_dot_product_fused_attention_overrideable_backward_ops.h>
#include <ATen/ops/_scaled_dot_product_fused_attention_overrideable_ops.h>
#include <ATen/ops/_softmax_backward_data_ops.h>
#include <ATen/ops/_softmax_ops.h>
#include <ATen/ops/_thnn_fused_gru_cell_backward_ops.h>
#include <ATen/ops/_thnn_fused_gru_cell_ops.h>
#include <ATen/ops/_thnn_fused_lstm_cell_backward_impl_ops.h>
#include <ATen/ops/_thnn_fused_lstm_cell_ops.h>
#include <ATen/ops/add_ops.h>
#include <ATen/ops/addcmul_ops.h>
#include <ATen/ops/addmm_ops.h>
#include <ATen/ops/amax_ops.h>
#include <ATen/ops/argmax_ops.h>
#include <ATen/ops/avg_pool2d_backward_ops.h>
#include <ATen/ops/avg_pool2d_ops.h>
#include <ATen/ops/bernoulli_ops.h>
#include <ATen/ops/binary_cross_entropy_backward_ops.h>
#include <ATen/ops/binary_cross_entropy_ops.h>
#include <ATen/ops/bucketize_ops.h>
#include <ATen/ops/cat_ops.h>
#include <ATen/ops/clamp_ops.h>
#include <ATen/ops/constant_pad_nd_ops.h>
#include <ATen/ops/convolution_backward_ops.h>
#include <ATen/ops/convolution_ops.h>
#include <ATen/ops/count_nonzero_ops.h>
#include <ATen/ops/cumsum_ops.h>
#include <ATen/ops/elu_backward_ops.h>
#include <ATen/ops/elu_ops.h>
#include <ATen/ops/embedding_dense_backward_ops.h>
#include <ATen/ops/fill_ops.h>
#include <ATen/ops/gather_ops.h>
#include <ATen/ops/gelu_backward_ops.h>
#include <ATen/ops/gelu_ops.h>
#include <ATen/ops/glu_backward_ops.h>
#include <ATen/ops/grid_sampler_2d_backward_ops.h>
#include <ATen/ops/grid_sampler_2d_ops.h>
#include <ATen/ops/hardtanh_ops.h>
#include <ATen/ops/index_add_ops.h>
#include <ATen/ops/index_ops.h>
#include <ATen/ops/index_put_ops.h>
#include <ATen/ops/index_select_ops.h>
#include <ATen/ops/leaky_relu_backward_ops.h>
#include <ATen/ops/lerp_ops.h>
#include <ATen/ops/linalg_vector_norm_ops.h>
#include <ATen/ops/log_sigmoid_forward_ops.h>
#include <ATen/ops/max_ops.h>
#include <ATen/ops/max_pool2d_with_indices_backward_ops.h>
#include <ATen/ops/max_pool2d_with_indices_ops.h>
#include <ATen/ops/maximum_ops.h>
#include <ATen/ops/mse_loss_backward_ops.h>
#include <ATen/ops/mul_ops.h>
#include <ATen/ops/multinomial_ops.h>
#include <ATen/ops/native_batch_norm_backward_ops.h>
#include <ATen/ops/native_batch_norm_ops.h>
#include <ATen/ops/native_dropout_backward_ops.h>
#include <ATen/ops/native_dropout_ops.h>
#include <ATen/ops/native_group_norm_backward_ops.h>
#include <ATen/ops/native_group_norm_ops.h>
#include <ATen/ops/native_layer_norm_backward_ops.h>
#include <ATen/ops/native_layer_norm_ops.h>
#include <ATen/ops/nll_loss_backward_ops.h>
#include <ATen/ops/nll_loss_forward_ops.h>
#include <ATen/ops/norm_ops.h>
#include <ATen/ops/normal_ops.h>
#include <ATen/ops/pow_ops.h>
#include <ATen/ops/prod_ops.h>
#include <ATen/ops/random_ops.h>
#include <ATen/ops/reflection_pad2d_backward_ops.h>
#include <ATen/ops/roll_ops.h>
#include <ATen/ops/round_ops.h>
#include <ATen/ops/scatter_ops.h>
#include <ATen/ops/scatter_reduce_ops.h>
#include <ATen/ops/sin_ops.h>
#include <ATen/ops/smooth_l1_loss_backward_ops.h>
#include <ATen/ops/smooth_l1_loss_ops.h>
#include <ATen/ops/softplus_backward_ops.h>
#include <ATen/ops/sort_ops.h>
#include <ATen/ops/stack_ops.h>
#include <ATen/ops/std_ops.h>
#include <ATen/ops/sum_ops.h>
#include <ATen/ops/threshold_ops.h>
#include <ATen/ops/topk_ops.h>
#include <ATen/ops/tril_ops.h>
#include <ATen/ops/upsample_bilinear2d_backward_ops.h>
#include <ATen/ops/upsample_bilinear2d_ops.h>
#include <ATen/ops/upsample_nearest2d_backward_ops.h>
#include <ATen/ops/upsample_nearest2d_ops.h>
#include <ATen/ops/var_mean_ops.h>
#include <ATen/ops/where_ops.h>

#include <functional>
#include <string>
#include <unordered_map>

#include "aten/direct.h"
#include "aten/direct_signature.h"

// One operator of each signature that goes the short way; every operator that shares it does.
// clang-format off
#define TRN_DIRECT_SIGNATURES(_) \
  _(sin) _(add_Tensor) _(add__Tensor) _(add_out) _(sin_) _(sin_out) _(maximum) _(maximum_out) _(mul__Tensor)          \
  _(addmm_out) _(addmm) _(pow_Tensor_Scalar) _(pow_Tensor_Scalar_out) _(fill__Scalar) _(where_self)                   \
  _(where_self_out) _(addcmul) _(addcmul_) _(lerp__Tensor) _(threshold) _(hardtanh_) _(clamp) _(clamp_)               \
  _(clamp_Tensor) _(elu) _(round_decimals) _(tril) _(tril_) _(_softmax_backward_data) _(_softmax) _(max_dim)          \
  _(cumsum) _(cumsum_) _(cumsum_out) _(gather) _(scatter_src) _(scatter__src) _(scatter__value) _(scatter_value)      \
  _(scatter_reduce_two) _(scatter_reduce__two) _(index_Tensor) _(index_put_) _(_index_put_impl_) _(index_select)      \
  _(sort_stable) _(topk) _(std_correction) _(var_mean_correction) _(linalg_vector_norm) _(norm_ScalarOpt_dim)         \
  _(amax) _(argmax) _(prod) _(prod_dim_int) _(sum_dim_IntList) _(count_nonzero_dim_IntList) _(roll) _(gelu)           \
  _(gelu_backward) _(glu_backward) _(leaky_relu_backward) _(elu_backward) _(softplus_backward)                        \
  _(log_sigmoid_forward) _(mse_loss_backward) _(smooth_l1_loss) _(smooth_l1_loss_backward) _(binary_cross_entropy)    \
  _(binary_cross_entropy_backward) _(nll_loss_forward) _(nll_loss_backward) _(convolution) _(convolution_backward)    \
  _(native_layer_norm) _(native_layer_norm_backward) _(native_batch_norm) _(native_batch_norm_backward)               \
  _(native_group_norm) _(native_group_norm_backward) _(_fused_rms_norm) _(embedding_dense_backward)                   \
  _(_embedding_bag) _(avg_pool2d) _(avg_pool2d_backward) _(max_pool2d_with_indices)                                   \
  _(max_pool2d_with_indices_backward) _(_adaptive_avg_pool2d) _(upsample_bilinear2d)                                  \
  _(upsample_bilinear2d_backward) _(upsample_nearest2d) _(upsample_nearest2d_backward) _(grid_sampler_2d)             \
  _(grid_sampler_2d_backward) _(normal_) _(bernoulli__float) _(bernoulli) _(random_) _(random__from) _(random__to)    \
  _(native_dropout) _(native_dropout_backward) _(multinomial) _(_scaled_dot_product_fused_attention_overrideable)     \
  _(_scaled_dot_product_fused_attention_overrideable_backward) _(_thnn_fused_lstm_cell)                               \
  _(_thnn_fused_lstm_cell_backward_impl) _(_thnn_fused_gru_cell) _(_thnn_fused_gru_cell_backward) _(cat) _(stack)     \
  _(_foreach_sqrt) _(_foreach_sqrt_) _(_foreach_add__Scalar) _(_foreach_add_Scalar) _(_foreach_add_List)              \
  _(_foreach_add__List) _(_foreach_mul_List) _(_foreach_mul__List) _(_foreach_mul__Tensor)                            \
  _(_foreach_mul__ScalarList) _(_foreach_mul_ScalarList) _(_foreach_addcdiv__Scalar)                                  \
  _(_foreach_addcdiv__ScalarList) _(_foreach_addcdiv_Scalar) _(_foreach_norm_Scalar)                                  \
  _(_foreach_lerp_List) _(_foreach_lerp__List) _(_foreach_copy_) _(_amp_foreach_non_finite_check_and_unscale_)        \
  _(_fused_adam_) _(_fused_adam__tensor_lr) _(_fused_sgd_) _(_fused_adagrad_) _(bucketize_Tensor)                     \
  _(constant_pad_nd) _(reflection_pad2d_backward) _(_fft_c2c) _(index_add)
// clang-format on

namespace trn::aten {

namespace {

using c10::OperatorHandle;
using Take = std::function<bool(torch::Library&, const OperatorHandle&)>;

std::string full_name(const c10::OperatorName& name) {
  return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

template <class Signature>
bool take(torch::Library& m, const OperatorHandle& op) {
  try {
    op.typed<Signature>();
  } catch (const c10::Error&) {
    return false;  // a list of tensors has two C++ types, and the schema does not say which
  }
  m.impl(full_name(op.operator_name()).c_str(), DirectKernel<Signature>(op));
  return true;
}

const std::unordered_multimap<std::string, Take>& takes() {
  static const auto* table = [] {
    auto* made = new std::unordered_multimap<std::string, Take>();
    auto add = [&]<class Op>(std::type_identity<Op>) {
      using Signature = typename Op::schema;
      made->emplace(SignatureText<Signature>::text(), take<Signature>);
    };
#define TRN_ADD(op) add(std::type_identity<at::_ops::op>());
    TRN_DIRECT_SIGNATURES(TRN_ADD)
#undef TRN_ADD
    return made;
  }();
  return *table;
}

std::string type_text(const c10::Type& type) {
  switch (type.kind()) {
    case c10::TypeKind::TensorType:
      return "T";
    case c10::TypeKind::NumberType:
      return "s";
    case c10::TypeKind::IntType:
      return "i";
    case c10::TypeKind::SymIntType:
      return "y";
    case c10::TypeKind::FloatType:
      return "d";
    case c10::TypeKind::BoolType:
      return "b";
    case c10::TypeKind::ScalarTypeType:
      return "c";
    case c10::TypeKind::StringType:
      return "z";
    case c10::TypeKind::GeneratorType:
      return "g";
    case c10::TypeKind::OptionalType:
      return type_text(*type.castRaw<c10::OptionalType>()->getElementType()) + "?";
    case c10::TypeKind::ListType:
      return type_text(*type.castRaw<c10::ListType>()->getElementType()) + "[]";
    default:
      return "-";  // no direct signature takes it
  }
}

std::string argument_text(const c10::Argument& argument) {
  const std::string text = type_text(*argument.real_type());
  if (text == "T" && argument.alias_info() && argument.alias_info()->isWrite()) {
    return "W";
  }
  if (text == "b[]" && argument.N()) {
    return "b[" + std::to_string(*argument.N()) + "]";
  }
  return text;
}

}  // namespace

std::string signature_text(const c10::FunctionSchema& schema) {
  std::string out;
  for (const auto& argument : schema.arguments()) {
    out += argument_text(argument) + ",";
  }
  out += ">";
  for (const auto& result : schema.returns()) {
    out += argument_text(result) + ",";
  }
  return out;
}

bool take_directly(torch::Library& m, const OperatorHandle& op) {
  const auto [begin, end] = takes().equal_range(signature_text(op.schema()));
  return std::any_of(begin, end, [&](const auto& entry) { return entry.second(m, op); });
}

}  // namespace trn::aten
