// Binds the operands of a norm: rows are samples or, of batch norm, channels.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "aten/alias.h"
#include "aten/execution.h"

namespace trn::aten {

namespace {

using kernels::NormKind;
using kernels::NormShape;

enum class MatrixLayout : std::uint8_t { as_it_is, channels_first, channels_last };

// Of batch norm, programs differ in how its tensors lie: innermost where each element of a channel stands alone,
// otherwise sample by sample, or channel by channel, where HBM has a channel's elements in runs.
MatrixLayout layout_of(const NormShape& shape, const program::Program& program) {
  if (shape.kind != NormKind::batch) {
    return MatrixLayout::as_it_is;
  }
  if (shape.spatial == 1 && shape.cols > 1) {
    return MatrixLayout::channels_last;
  }
  const auto in = std::ranges::find(program.buffers, "in", &program::Buffer::name);
  const bool is_in_runs = in != program.buffers.end() && in->run_elements > 0;
  return is_in_runs ? MatrixLayout::channels_first : MatrixLayout::as_it_is;
}

class NormOperands {
 public:
  NormOperands(const LaunchArguments& args, const NormShape& shape, const program::Program& program)
      : args_(args), shape_(shape), layout_(layout_of(shape, program)) {}

  void add_forward() {
    const bool measures = shape_.kind != NormKind::batch || shape_.training;
    const bool updates = measures && shape_.kind == NormKind::batch && shape_.running_statistics;
    add_matrix("input");
    add_if(shape_.weight, "weight");
    add_if(shape_.bias, "bias");
    add_if(updates || !measures, "running_mean");
    add_if(updates || !measures, "running_var");
    add_matrix_result(0);
    if (measures) {
      add_result(args_.output(1));
    }
    if (measures && shape_.kind != NormKind::rms) {
      add_result(args_.output(2));
    }
    if (updates) {
      add_result(args_.tensor("running_mean"));
      add_result(args_.tensor("running_var"));
    }
  }

  void add_backward() {
    add_matrix("grad_out");
    add_matrix("input");
    if (shape_.kind != NormKind::batch) {
      add_if(shape_.kind != NormKind::rms, "mean");
      add_if(true, "rstd");
    } else if (shape_.training) {
      add_if(true, "save_mean");
      add_if(true, args_.find("save_invstd") >= 0 ? "save_invstd" : "save_var");
    } else {
      add_if(true, "running_mean");
      add_if(true, "running_var");
    }
    add_if(shape_.weight && shape_.input_gradient, "weight");
    if (shape_.input_gradient) {
      add_matrix_result(0);
    }
    add_gradient(1, shape_.weight && shape_.weight_gradient);
    add_gradient(2, shape_.bias_gradient);
  }

  // Nothing where a tensor is missing.
  std::optional<BoundPart> take() { return is_incomplete_ ? std::nullopt : std::optional(std::move(bound_)); }

 private:
  at::Tensor laid_out(const at::Tensor& alias) const {
    switch (layout_) {
      case MatrixLayout::as_it_is:
        return alias;
      case MatrixLayout::channels_first:
        return alias.transpose(0, 1);
      case MatrixLayout::channels_last:
        return alias.movedim(1, -1);
    }
    return alias;
  }
  bool is_missing(const at::Tensor& tensor) {
    const bool missing = !tensor.defined() || !is_plain(tensor);
    is_incomplete_ = is_incomplete_ || missing;
    return missing;
  }

  void add_if(bool taken, std::string_view name) {
    if (taken && !is_missing(args_.tensor(name))) {
      bound_.inputs.push_back(cpu_alias(args_.tensor(name)).contiguous());
    }
  }
  void add_matrix(std::string_view name) {
    if (!is_missing(args_.tensor(name))) {
      bound_.inputs.push_back(laid_out(cpu_alias(args_.tensor(name))).contiguous());
    }
  }
  void add_result(const at::Tensor& tensor) {
    if (!is_missing(tensor)) {
      bound_.outputs.push_back(dense_result(cpu_alias(tensor)));
    }
  }
  void add_matrix_result(int position) {
    if (!is_missing(args_.output(position))) {
      bound_.outputs.push_back(dense_result(laid_out(cpu_alias(args_.output(position)))));
    }
  }
  // A gradient that the program does not compute is none of the operator's either.
  void add_gradient(int position, bool computed) {
    const at::Tensor& gradient = args_.output(position);
    if (computed) {
      add_result(gradient);
    } else if (gradient.defined() && gradient.numel() > 0) {
      is_incomplete_ = true;
    }
  }

  const LaunchArguments& args_;
  const NormShape& shape_;
  const MatrixLayout layout_;
  BoundPart bound_;
  bool is_incomplete_ = false;
};

}  // namespace

std::optional<BoundPart> bind_part(const LaunchArguments& args, const NormShape& shape,
                                   const program::Program& program) {
  NormOperands operands(args, shape, program);
  if (shape.backward) {
    operands.add_backward();
  } else {
    operands.add_forward();
  }
  return operands.take();
}

}  // namespace trn::aten
