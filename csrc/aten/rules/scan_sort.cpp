// Count rules of cumulative operators and of sorting.
#include "aten/rules/scan_sort.h"

#include <algorithm>
#include <utility>

#include "aten/rules/steps.h"

namespace trn::aten::rules {

namespace {

using kernels::ScanShape;
using kernels::SortShape;

Rows rows_along_dim(const LaunchArguments& args, std::int64_t fallback) {
  const std::int64_t dim = args.integer("dim", fallback);
  return rows_of(args.tensor("self"), std::span(&dim, 1));
}

Spec sorted(const Rows& rows, std::int64_t k, bool ascending, std::vector<Access> inputs, std::vector<Access> outputs) {
  if (rows.rows <= 0 || rows.cols <= 0 || k <= 0) {
    return {};
  }
  SortShape shape;
  shape.rows = rows.rows;
  shape.cols = rows.cols;
  shape.k = std::min(k, rows.cols);
  shape.ascending = ascending;
  shape.inputs = std::move(inputs);
  shape.outputs = std::move(outputs);
  return {shape};
}

Spec scanned(std::int64_t rows, std::int64_t cols, Alu alu, std::vector<Access> inputs, std::vector<Access> outputs) {
  if (rows <= 0 || cols <= 0) {
    return {};
  }
  ScanShape shape;
  shape.rows = rows;
  shape.cols = cols;
  shape.alu = alu;
  shape.inputs = std::move(inputs);
  shape.outputs = std::move(outputs);
  return {shape};
}

Alu scan_alu(std::string_view name) {
  if (name == "cumprod") {
    return Alu::multiply;
  }
  if (name.find("cummax") != std::string_view::npos) {
    return Alu::maximum;
  }
  return name.find("cummin") != std::string_view::npos ? Alu::minimum : Alu::add;
}

}  // namespace

Spec scan(const LaunchArguments& args) {
  const auto name = args.base_name();
  const auto& self = args.tensor("self");
  const auto rows = rows_along_dim(args, -1);
  const auto outputs = args.output_tensors();
  return scanned(rows.rows, rows.cols, scan_alu(name), {access_of(self)}, accesses(outputs));
}

Spec sort(const LaunchArguments& args) {
  const auto rows = rows_along_dim(args, -1);
  return sorted(rows, rows.cols, !args.boolean("descending", false), {access_of(args.tensor("self"))},
                accesses(args.output_tensors()));
}

Spec topk(const LaunchArguments& args) {
  const auto name = args.base_name();
  const bool whole = args.find("dim") < 0;
  const auto& self = args.tensor("self");
  const auto rows = whole ? rows_of(self, {}) : rows_along_dim(args, -1);
  std::int64_t k = args.integer("k", 1);
  if (name == "mode") {
    k = rows.cols;
  }
  return sorted(rows, k, !args.boolean("largest", name == "topk"), {access_of(self)}, accesses(args.output_tensors()));
}

Spec unique(const LaunchArguments& args) {
  const auto& self = args.tensor("self");
  const auto elements = numel(self);
  const bool consecutive = args.base_name().find("consecutive") != std::string_view::npos;
  const auto x = access_of(self);
  const auto copy = dense(x.dtype, elements);
  Spec spec;
  if (!consecutive) {
    spec = sorted({elements > 0 ? 1 : 0, elements, false}, elements, true, {x}, {copy, dense(Dtype::int64, elements)});
  }
  return concat(std::move(spec), scanned(elements > 0 ? 1 : 0, elements, Alu::add, {consecutive ? x : copy},
                                         accesses(args.output_tensors())));
}

Spec ctc_loss(const LaunchArguments& args) {
  // The forward variables: one recurrence over time for each of the 2 L + 1 states of each sequence.
  const auto& alpha = args.output(1);
  const auto steps = size(alpha, 1);
  const auto rows = steps == 0 ? 0 : numel(alpha) / steps;
  return scanned(rows, steps, Alu::add, accesses(named(args, {"log_probs", "targets"})),
                 {access_of(args.output(0)), access_of(alpha)});
}

Spec ctc_loss_backward(const LaunchArguments& args) {
  const auto& alpha = args.tensor("log_alpha");
  const auto steps = size(alpha, 1);
  const auto rows = steps == 0 ? 0 : numel(alpha) / steps;
  return scanned(rows, steps, Alu::add, accesses(args.input_tensors()), accesses(args.output_tensors()));
}

Spec compress_indices(const LaunchArguments& args) {
  const auto inputs = args.input_tensors();
  return scanned(1, largest_numel(inputs), Alu::add, accesses(inputs), accesses(args.output_tensors()));
}

}  // namespace trn::aten::rules
