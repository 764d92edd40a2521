// Count rules of reductions, losses and histograms.
#pragma once

#include "aten/rules/common.h"

namespace trn::aten::rules {

using kernels::Alu;

// How elements combine, what happens to each before, and to each result.
struct Fold {
  Alu alu = Alu::add;
  std::vector<Step> prologue = {}, epilogue = {};
};
Fold norm_fold(double p);

Spec reduce(Rows rows, Fold fold, std::vector<Access> inputs, std::vector<Access> outputs);

Spec reduction(const LaunchArguments& args);       // sum, mean, amax, any, var, argmax, ... over `dim`
Spec norm_reduction(const LaunchArguments& args);  // norm, linalg_vector_norm, dist
Spec loss(const LaunchArguments& args);            // elementwise losses with `reduction`
Spec equal(const LaunchArguments& args);           // and its one bool back to the host

}  // namespace trn::aten::rules
