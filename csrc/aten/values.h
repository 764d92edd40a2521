// Which device memory holds values: a dry run knows shapes, and only the values that the host gave.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>

namespace trn::aten {

// Of the whole process. While it is on, operators infer shapes and leave HBM untouched.
bool dry_run() noexcept;
void set_dry_run(bool on);

// Memory up to this size keeps, in a dry run too, what the host copied or filled into it. The former limit.
std::size_t set_most_held_bytes(std::size_t bytes);
std::size_t most_held_bytes() noexcept;

// Tensors without device memory of their own hold values.
bool holds_values(const at::Tensor& tensor);
void lose_values(const at::Tensor& tensor);
// `tensor` is about to be written with values: true where its memory will hold them. A write of all of the memory
// makes it hold values again; a partial one does not.
bool may_write_values(const at::Tensor& tensor);

// Values for a tensor that holds none, [sizes] of its dtype on the CPU: the user's, or the source raises.
using ValueSource = std::function<at::Tensor(const std::string& op, const at::Tensor& tensor)>;
void set_value_source(ValueSource source);
at::Tensor supplied_values(const std::string& op, const at::Tensor& tensor);

}  // namespace trn::aten
