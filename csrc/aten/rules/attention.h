// Count rules of fused attention.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec attention(const LaunchArguments& args);                  // forward and backward of every fused variant
Spec multi_head_attention(const LaunchArguments& args);       // _native_multi_head_attention
Spec transformer_encoder_layer(const LaunchArguments& args);  // _transformer_encoder_layer_fwd

}  // namespace trn::aten::rules
