// What a launch executes: the parts of its Spec, each with the memory of the tensors that its HBM buffers stand for.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "aten/launch_arguments.h"
#include "emu/numerics.h"
#include "kernels/shapes.h"
#include "program/program.h"

namespace trn::aten {

namespace rules {
struct Stage;
}

struct BuiltProgram {
  program::Program program;
  std::vector<kernels::Dtype> narrowed = {};  // 64-bit dtypes that engines see in 32 bits
  bool fits_on_chip = true;                   // of a target with little SBUF, some do not
};

// One part. Tensors are CPU aliases in the order of the program's buffers: inputs, then outputs. One that lies
// otherwise in HBM than the program takes it is staged: the same values, laid out for it.
struct BoundPart {
  struct Result {
    at::Tensor buffer;                     // what the program writes
    at::Tensor values;                     // the result's elements in it, where the buffer has others too
    at::Tensor original;                   // the operator's result, copied to after the run unless it is the buffer
    std::vector<at::Tensor> members = {};  // or a result for each of the buffer's rows
  };
  std::shared_ptr<const BuiltProgram> program;
  std::vector<at::Tensor> inputs;
  std::vector<Result> outputs;
  at::Tensor draws = {};  // what the generator drew, by the place in the results; undefined: nothing is drawn
  bool narrows = true;    // 64-bit elements, if it has any, are the operator's own
  // The operands once the parts before have run, where they are copies of what those write.
  std::function<std::optional<BoundPart>()> bind_late = {};
};

// nullopt: the operator, or these arguments, have no program that executes.
std::optional<std::vector<BoundPart>> bind(const LaunchArguments& args);
void execute(std::string_view op_name, const std::vector<BoundPart>& parts, const emu::Numerics& numerics);

using BuildProgram = std::function<std::shared_ptr<const BuiltProgram>(const kernels::Part&)>;
// A launch over lists: each member's own program.
std::optional<std::vector<BoundPart>> bind_members(const LaunchArguments& args, const BuildProgram& build);

// One part of a composed operator.
std::optional<BoundPart> bind_stage(const rules::Stage& stage, const std::shared_ptr<const BuiltProgram>& built);
// Operands of an element-by-element part, which repeat where they are smaller.
std::optional<BoundPart> bind_tensors(const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& outputs,
                                      const kernels::PointwiseShape& shape, const program::Program& program);

// By family: the operator's tensors for one part of its Spec, or nothing. What an earlier part writes, a later one
// reads: such a tensor must not be staged here.
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::PointwiseShape& shape,
                                   const program::Program& program);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::MatmulShape& shape,
                                   const program::Program& program);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::AttentionShape& shape,
                                   const program::Program& program);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::ConvShape& shape,
                                   const program::Program& program);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::NormShape& shape,
                                   const program::Program& program);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::ReductionShape& shape,
                                   const program::Program& program, std::size_t part);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::SoftmaxShape& shape,
                                   const program::Program& program);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::CopyShape& shape,
                                   const program::Program& program, std::size_t part);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::BoxShape& shape,
                                   const program::Program& program, std::size_t part);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::IndexShape& shape,
                                   const program::Program& program);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::NllLossShape& shape,
                                   const program::Program& program);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::ScanShape& shape,
                                   const program::Program& program);
std::optional<BoundPart> bind_part(const LaunchArguments& args, const kernels::SortShape& shape,
                                   const program::Program& program);

inline bool is_any(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::ranges::find(names, name) != names.end();
}

// A tensor's elements as the CPU sees them, on the device or not.
at::Tensor memory_of(const at::Tensor& tensor);

// For results: in place where it lies densely in its logical order, else a buffer that is copied back.
BoundPart::Result dense_result(const at::Tensor& alias);

}  // namespace trn::aten
