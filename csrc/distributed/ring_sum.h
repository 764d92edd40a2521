// Reductions over the memory of several ranks in the order of gloo's ring, so that every bit is as gloo's.
#pragma once

#include <torch/csrc/distributed/c10d/Types.hpp>

#include <cstdint>
#include <vector>

namespace trn::distributed {

enum class Ring : std::uint8_t { all_reduce, reduce };  // they cut a tensor into chunks a little differently

// inputs[rank] and outputs[i]: `num_elements` each; outputs may be the inputs. AVG is a SUM here.
void ring_sum(Ring ring, const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
              std::int64_t num_elements, at::ScalarType dtype, c10d::ReduceOp::RedOpType op);

}  // namespace trn::distributed
