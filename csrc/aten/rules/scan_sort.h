// Count rules of cumulative operators and of sorting.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

Spec scan(const LaunchArguments& args);    // cumsum, cumprod, cummax, cummin, logcumsumexp
Spec sort(const LaunchArguments& args);    // sort, msort, argsort
Spec topk(const LaunchArguments& args);    // topk, kthvalue, median, mode: the k that each needs
Spec unique(const LaunchArguments& args);  // a sort (where it is not consecutive), a compare of neighbours, a scan
Spec ctc_loss(const LaunchArguments& args);
Spec ctc_loss_backward(const LaunchArguments& args);
Spec compress_indices(const LaunchArguments& args);  // coo <-> csr

}  // namespace trn::aten::rules
