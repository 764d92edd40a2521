// Count rules of softmax and log_softmax.
#include "aten/rules/softmax.h"

#include <utility>

#include "aten/rules/steps.h"

namespace trn::aten::rules {

Spec softmax(const LaunchArguments& args) {
  const bool backward = args.find("grad_output") >= 0;
  const auto& input = backward ? args.tensor("grad_output") : args.tensor("self");
  const std::int64_t dim = args.integer("dim", -1);
  const auto rows = rows_of(input, std::span(&dim, 1));
  if (rows.rows <= 0) {
    return {};
  }
  kernels::SoftmaxShape shape;
  shape.rows = rows.rows;
  shape.cols = rows.cols;
  shape.across_partitions = rows.across_partitions;
  shape.in_dtype = dtype(input);
  shape.out_dtype = dtype(args.output(), shape.in_dtype);
  shape.log = args.base_name().find("log_softmax") != std::string_view::npos;
  shape.backward = backward;
  return {shape};
}

}  // namespace trn::aten::rules
