// Pointwise launches over parts of their tensors, which lie side by side: the gates of recurrent cells, the halves of
// glu.
#pragma once

#include <string_view>
#include <vector>

#include "aten/rules/common.h"

namespace trn::aten::rules {

// What is streamed: parts of arguments, parts of results, and the steps between them.
struct PartStream {
  std::vector<at::Tensor> inputs, outputs;
  std::vector<Step> steps;
};

bool streams_parts(std::string_view operator_name);
PartStream part_stream(const LaunchArguments& args);

Spec parts(const LaunchArguments& args);
// A cell's backward besides adds up the gradients of its gates over the batch, for the biases.
struct BiasGradient {
  at::Tensor gates, bias;  // [batch, gates] and [gates]
};
std::vector<BiasGradient> bias_gradients(const LaunchArguments& args);

}  // namespace trn::aten::rules
