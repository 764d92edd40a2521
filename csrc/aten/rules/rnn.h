// Count rules of recurrent layers.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec rnn_layer(const LaunchArguments& args);  // mkldnn_rnn_layer: every time step's products and cells
Spec rnn_layer_backward(const LaunchArguments& args);

}  // namespace trn::aten::rules
