// Count rules of operators over lists of tensors: foreach and fused optimizer steps.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec foreach (const LaunchArguments& args);           // _foreach_<pointwise function>
Spec foreach_reduction(const LaunchArguments& args);  // _foreach_norm, _foreach_max, _foreach_powsum
Spec fused_optimizer(const LaunchArguments& args);    // _fused_adam, _fused_adamw, _fused_sgd, _fused_adagrad

}  // namespace trn::aten::rules
