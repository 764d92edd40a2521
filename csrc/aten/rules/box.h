// Count rules of operators that move boxes of elements: flips, rolls, repetitions, shuffles.
#pragma once

#include <vector>

#include "aten/rules/common.h"

namespace trn::aten::rules {

// `axes` with strides in elements of both tensors, from these elements on. Axes that lie alike on both sides merge.
Spec box(const at::Tensor& src, const at::Tensor& dst, std::vector<kernels::BoxAxis> axes, std::int64_t src_offset = 0,
         std::int64_t dst_offset = 0);

Spec flip(const LaunchArguments& args);
Spec roll(const LaunchArguments& args);
Spec repeat(const LaunchArguments& args);
Spec pixel_shuffle(const LaunchArguments& args);  // and unshuffle
Spec channel_shuffle(const LaunchArguments& args);
Spec narrow_copy(const LaunchArguments& args);

}  // namespace trn::aten::rules
