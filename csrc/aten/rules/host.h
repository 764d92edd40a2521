// Count rules of operators that run on the host.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec host(const LaunchArguments& args);        // inputs to the host, results back
Spec read_value(const LaunchArguments& args);  // one element to the host

}  // namespace trn::aten::rules
