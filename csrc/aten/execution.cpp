#include "aten/execution.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>

#include "aten/alias.h"
#include "aten/below_autograd.h"
#include "aten/launch_seam.h"
#include "aten/numerics.h"
#include "aten/op_table.h"
#include "aten/rules/composition.h"
#include "aten/rules/lists.h"
#include "aten/system.h"
#include "aten/workers.h"
#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/precision.h"
#include "kernels/serialize.h"
#include "program/prepared.h"

namespace trn::aten {

namespace {

// Programs of the current target by their shape. Scalars are part of a shape, so a learning rate that changes every
// step makes new ones: the table starts over when it is full.
class Programs {
 public:
  std::shared_ptr<const BuiltProgram> get(std::shared_ptr<const target::Target> target, const kernels::Part& part,
                                          bool is_exact) {
    constexpr std::size_t kMost = 4096;
    std::string key(1, is_exact ? 'i' : 'f');
    kernels::serialize(part, key);
    std::lock_guard lock(mutex_);
    if (target_ != target || programs_.size() >= kMost) {
      programs_.clear();
      target_ = std::move(target);
    }
    auto& slot = programs_[key];
    if (!slot) {
      auto built = std::make_shared<BuiltProgram>(BuiltProgram{.program = kernels::build(*target_, part)});
      if (is_exact) {
        kernels::exact_integers(built->program);
      }
      built->narrowed = kernels::narrowed_dtypes(built->program);
      built->fits_on_chip = program::fits_on_chip(built->program, target_->core);
      slot = std::move(built);
    }
    return slot;
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<const target::Target> target_;  // kept, so that another never has its address
  std::unordered_map<std::string, std::shared_ptr<const BuiltProgram>> programs_;
};

Programs& programs() {
  static auto* instance = new Programs();
  return *instance;
}

template <class Shape>
concept Bound = requires(const LaunchArguments& args, const Shape& shape, const program::Program& program) {
  bind_part(args, shape, program);
};
// Families of which an operator may have several parts of one shape.
template <class Shape>
concept BoundByNumber = requires(const LaunchArguments& args, const Shape& shape, const program::Program& program) {
  bind_part(args, shape, program, std::size_t{});
};

struct Binder {
  const LaunchArguments& args;
  const program::Program& program;
  std::size_t part;

  template <class Shape>
  std::optional<BoundPart> operator()(const Shape& shape) const {
    if constexpr (BoundByNumber<Shape>) {
      return bind_part(args, shape, program, part);
    } else if constexpr (Bound<Shape>) {
      return bind_part(args, shape, program);
    } else {
      return std::nullopt;
    }
  }
};

// Are these the tensors that the program was built for?
bool fits(const BoundPart& bound, const program::Program& program) {
  std::vector<at::Tensor> tensors = bound.inputs;
  for (const BoundPart::Result& output : bound.outputs) {
    tensors.push_back(output.buffer);
  }
  std::size_t num_bound = 0;
  for (const program::Buffer& buffer : program.buffers) {
    if (buffer.memory != program::Memory::hbm || buffer.is_temporary) {
      continue;
    }
    if (num_bound == tensors.size() || tensors[num_bound].numel() != buffer.elements ||
        dtype_of(tensors[num_bound].scalar_type()) != buffer.dtype) {
      return false;
    }
    ++num_bound;
  }
  return num_bound == tensors.size();
}

std::shared_ptr<const BuiltProgram> program_of(const kernels::Part& part) {
  const auto target = system().target();
  kernels::require_executable(target->core, part);
  kernels::Part precise = part;
  precise.precision = precision();
  auto built = programs().get(target, precise, !departures().integers_through_fp32);
  if (!built->fits_on_chip) {
    throw Error(Category::unimplemented, "[" + built->program.name + "] tiles must fit SBUF and PSUM.");
  }
  return built;
}

// Results without elements need no program, unless the operator gives them some.
bool writes_nothing(const LaunchArguments& args) {
  const auto& arguments = args.op().schema().arguments();
  if (std::ranges::any_of(arguments, [](const c10::Argument& argument) { return argument.is_out(); })) {
    return false;
  }
  const auto outputs = args.output_tensors();
  return !outputs.empty() && std::ranges::all_of(outputs, [](const at::Tensor& output) { return output.numel() == 0; });
}

// The parts of a Spec run one after the other, each on tensors of the operator.
std::optional<std::vector<BoundPart>> bind_parts(const LaunchArguments& args) {
  const kernels::Spec spec = find_op(args.op().operator_name()).rule(args);
  std::vector<BoundPart> parts;
  for (const kernels::Part& part : spec) {
    const auto program = program_of(part);
    auto bound = std::visit(Binder{args, program->program, parts.size()}, part);
    if (!bound || !fits(*bound, program->program)) {
      return std::nullopt;
    }
    bound->program = program;
    parts.push_back(std::move(*bound));
  }
  const bool is_done = !parts.empty() || writes_nothing(args);
  return is_done ? std::optional(std::move(parts)) : std::nullopt;
}

std::optional<std::vector<BoundPart>> bind_stages(const LaunchArguments& args) {
  std::vector<BoundPart> parts;
  for (const rules::Stage& stage : rules::executable_stages(args)) {
    const auto program = program_of(stage.part);
    auto bound = bind_stage(stage, program);
    if (!bound || !fits(*bound, program->program)) {
      return std::nullopt;
    }
    bound->program = program;
    parts.push_back(std::move(*bound));
  }
  return !parts.empty() || writes_nothing(args) ? std::optional(std::move(parts)) : std::nullopt;
}

// Types that are counted as their kin, and whose bits no engine reads.
bool is_foreign(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::ScalarType::Float8_e4m3fnuz:
    case at::ScalarType::Float8_e5m2fnuz:
    case at::ScalarType::Float8_e8m0fnu:
    case at::ScalarType::Float4_e2m1fn_x2:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::optional<std::vector<BoundPart>> bind(const LaunchArguments& args) {
  const BelowAutograd below_autograd;
  if (std::ranges::any_of(args.input_tensors(), is_foreign) || std::ranges::any_of(args.output_tensors(), is_foreign)) {
    return std::nullopt;
  }
  try {
    if (rules::is_composed(args.base_name())) {
      return bind_stages(args);
    }
    return rules::is_list_launch(args) && !rules::is_list_reduction(args) ? bind_members(args, program_of)
                                                                          : bind_parts(args);
  } catch (const trn::Error& error) {
    if (error.category() != Category::unimplemented) {
      rethrow(error);
    }
  }
  return std::nullopt;
}

at::Tensor memory_of(const at::Tensor& tensor) {
  return is_device_tensor(tensor) ? cpu_alias(tensor) : tensor;
}

BoundPart::Result dense_result(const at::Tensor& alias) {
  return {alias.is_contiguous() ? alias : at::empty(alias.sizes(), alias.options()), {}, alias};
}

void execute(std::string_view op_name, const std::vector<BoundPart>& parts, const emu::Numerics& numerics) {
  const BelowAutograd below_autograd;
  const auto target = system().target();
  for (const BoundPart& part : parts) {
    const auto late = part.bind_late ? part.bind_late() : std::nullopt;
    const BoundPart& bound = late ? *late : part;
    std::vector<emu::HbmTensor> tensors;
    auto add = [&](const at::Tensor& tensor) {
      tensors.push_back({tensor.data_ptr(), tensor.numel(), dtype_of(tensor.scalar_type())});
    };
    for (const at::Tensor& input : bound.inputs) {
      add(input);
    }
    for (const BoundPart::Result& output : bound.outputs) {
      add(output.buffer);
    }
    try {
      with_workers(target, numerics, [&](const program::Workers& workers) {
        program::Workers drawing = workers;
        if (bound.draws.defined()) {
          drawing.draws = {bound.draws.const_data_ptr<float>(), static_cast<std::size_t>(bound.draws.numel())};
        }
        program::execute(part.program->program, drawing, tensors);
      });
    } catch (const trn::Error& error) {
      rethrow({error.category(), c10::str("[aten::", op_name, "] ", error.what())});
    }
    for (const BoundPart::Result& output : bound.outputs) {
      for (std::size_t i = 0; i < output.members.size(); ++i) {
        output.members[i].copy_(output.buffer[static_cast<std::int64_t>(i)].reshape(output.members[i].sizes()));
      }
      if (output.members.empty() && !output.buffer.is_same(output.original)) {
        const at::Tensor& values = output.values.defined() ? output.values : output.buffer;
        output.original.copy_(values.reshape(output.original.sizes()));
      }
    }
  }
}

}  // namespace trn::aten
