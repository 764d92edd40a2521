// The count rule of operators that no family covers.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec generic(const LaunchArguments& args);

}  // namespace trn::aten::rules
