// Operators over lists of tensors: each tensor's share of a foreach or fused launch.
#pragma once

#include <cstddef>
#include <functional>
#include <string_view>
#include <vector>

#include "aten/rules/common.h"

namespace trn::aten::rules {

// "_foreach_add" -> "add"; other operators keep their name.
std::string_view function_of(const LaunchArguments& args);

// What the launch does to the tensors at one place of its lists; arguments that are no lists belong to every member.
struct Member {
  std::vector<at::Tensor> inputs, outputs;
};
std::vector<Member> members(const LaunchArguments& args);

// The member's instructions. They carry its scalars; those that lie on the device (a step count) are read only for
// execution, as a count does not depend on them.
std::vector<Step> member_steps(const LaunchArguments& args, std::size_t member, bool reads_scalars);
// A foreach operator or a fused optimizer.
bool is_list_launch(const LaunchArguments& args);
// Of those, one that reduces each tensor to a value.
bool is_list_reduction(const LaunchArguments& args);
// Whether the steps compute its function.
bool computes_list(const LaunchArguments& args);

// Members whose tensors are alike, by their places.
std::vector<std::vector<std::size_t>> kinds_of(const std::vector<Member>& members);
// A tensor of each of `times` members, unless one is shared by all.
Access repeated(Access access, std::int64_t times, bool is_shared);
// A part for all members whose tensors are alike.
Spec by_kind(const std::vector<Member>& members, const std::function<std::vector<Step>(std::size_t member)>& steps);

}  // namespace trn::aten::rules
