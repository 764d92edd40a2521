// Count rules of operators that read or write rows picked by indices.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec embedding(const LaunchArguments& args);
Spec embedding_backward(const LaunchArguments& args);
Spec index(const LaunchArguments& args);         // self[indices]
Spec index_put(const LaunchArguments& args);     // self[indices] = values, or +=
Spec index_select(const LaunchArguments& args);  // whole slices along dim
Spec index_update(const LaunchArguments& args);  // index_add, index_copy, index_fill, index_reduce
Spec gather(const LaunchArguments& args);        // gather, take: one element per index
Spec scatter(const LaunchArguments& args);       // scatter, scatter_add, scatter_reduce, put
Spec masked_select(const LaunchArguments& args);
Spec masked_scatter(const LaunchArguments& args);
Spec nonzero(const LaunchArguments& args);
Spec repeat_interleave(const LaunchArguments& args);
Spec histogram(const LaunchArguments& args);  // histc, histogram, bincount: one add per element
Spec nll_loss(const LaunchArguments& args);
Spec max_unpool(const LaunchArguments& args);
Spec segment_reduce(const LaunchArguments& args);
Spec jagged(const LaunchArguments& args);     // rows between a jagged and a padded layout
Spec to_sparse(const LaunchArguments& args);  // a mask, a scan, the picked values

}  // namespace trn::aten::rules
