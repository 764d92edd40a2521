// Count rules of recurrent cells and layers.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec lstm_cell(const LaunchArguments& args);  // pointwise part of a cell: the gates are already products
Spec lstm_cell_backward(const LaunchArguments& args);
Spec gru_cell(const LaunchArguments& args);
Spec gru_cell_backward(const LaunchArguments& args);
Spec rnn_layer(const LaunchArguments& args);  // mkldnn_rnn_layer: every time step's products and cells
Spec rnn_layer_backward(const LaunchArguments& args);

}  // namespace trn::aten::rules
