// What the seam needs to know of an operator before it runs, read once from its schema.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace trn::aten {

struct OperatorPlan {
  explicit OperatorPlan(const c10::OperatorHandle& op);

  c10::OperatorHandle op;
  // Runs the values: `op` itself on CPU aliases, or our own CPU kernel where PyTorch has none.
  c10::OperatorHandle compute;
  std::string name;  // "add.Tensor"
  std::size_t num_arguments = 0, num_returns = 0;
  std::vector<bool> is_written;   // argument -> the schema marks it as written
  bool writes_arguments = false;  // any of them
  std::vector<bool> is_changed;   // argument -> the same, and batch norm's running statistics, which it does not mark
  std::vector<bool> is_index;     // argument -> an index: never a CPU scalar
  std::vector<bool> may_be_on_host;  // argument -> indices, lengths or scalars, which may live on the host
  std::vector<bool> is_on_host;      // argument -> scalars, which nothing but the host reads
  int generator_argument = -1;
  int indices_argument = -1;  // a list of optional tensors
  bool draws_without_generator = false;
  bool result_size_depends_on_data = false;
  bool is_foreach = false;          // takes lists, and each of their members for itself
  bool is_untraced = false;         // torch.jit.trace records what PyTorch's own kernel is made of in its place
  bool sized_by_scalars = false;    // the result's size, or what meets in it, follows from floating-point arguments
  bool returns_host_value = false;  // bool, int or float: the host waits
  int neuron_status = 0;            // NeuronStatus of the table

  // Calls of it since the count was last cleared; a plan is otherwise constant.
  mutable std::atomic<std::int64_t> num_calls{0};

  bool draws() const { return generator_argument >= 0 || draws_without_generator; }
};

// The plan of an operator; made on first sight, kept for good.
const OperatorPlan& plan_of(const c10::OperatorHandle& op);
// An operator's plan, looked up by the first of the threads that call it.
class LazyPlan {
 public:
  const OperatorPlan& operator()(const c10::OperatorHandle& op) {
    const OperatorPlan* plan = known_.load(std::memory_order_acquire);
    if (C10_UNLIKELY(!plan)) {
      plan = &plan_of(op);
      known_.store(plan, std::memory_order_release);
    }
    return *plan;
  }

 private:
  std::atomic<const OperatorPlan*> known_{nullptr};
};
void for_each_plan(const std::function<void(const OperatorPlan&)>& visit);

}  // namespace trn::aten
