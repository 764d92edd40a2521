// The collectives of c10d, each as what the ranks must agree on and how its data moves.
#include <numeric>

#include "distributed/backend.h"

namespace trn::distributed {

namespace {

using c10d::OpType;
using Tensors = TrnBackend::Tensors;
using Bytes = std::vector<std::int64_t>;

void check_one(const char* name, std::size_t count) {
  TORCH_CHECK_VALUE(count == 1, "[", name, "] takes one tensor of one device; got ", count, ".");
}

void check_parts(const char* name, std::size_t parts, int num_ranks) {
  TORCH_CHECK_VALUE(parts == static_cast<std::size_t>(num_ranks), "[", name, "] takes one tensor for each rank; got ",
                    parts, ", limit ", num_ranks, ".");
}

void check_type(const char* name, const Tensors& tensors, at::ScalarType dtype) {
  for (const auto& tensor : tensors) {
    TORCH_CHECK_TYPE(tensor.scalar_type() == dtype, "[", name, "] one call takes tensors of one type; got ",
                     c10::getDtypeNames(dtype).first, " and ", c10::getDtypeNames(tensor.scalar_type()).first,
                     ". Convert one of them.");
  }
}

void check_ratio(const char* name, const at::Tensor& whole, const at::Tensor& part, int num_ranks) {
  TORCH_CHECK_VALUE(whole.numel() == part.numel() * num_ranks, "[", name,
                    "] the larger tensor must hold one part for each of ", num_ranks, " ranks; got ", whole.numel(),
                    " elements for parts of ", part.numel(), ".");
}

Bytes bytes_of_each(const Tensors& tensors) {
  Bytes out;
  for (const auto& tensor : tensors) {
    out.push_back(bytes_of(tensor));
  }
  return out;
}

std::int64_t total(const Bytes& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}

// Lengths in a coalesced list must be equal one by one.
std::uint64_t layout_of(const Tensors& tensors) {
  std::uint64_t h = tensors.size();
  for (const auto& tensor : tensors) {
    h = (h ^ (h >> 31) ^ static_cast<std::uint64_t>(tensor.numel())) * 0x9E3779B97F4A7C15ull;
    h ^= static_cast<std::uint64_t>(tensor.scalar_type());
  }
  return h;
}

std::vector<HostView> views(const Tensors& tensors, HostView (*view)(const at::Tensor&)) {
  std::vector<HostView> out;
  for (const auto& tensor : tensors) {
    out.push_back(view(tensor));
  }
  return out;
}

Tensors bytes_in(const std::vector<HostView>& views) {
  Tensors out;
  for (const auto& view : views) {
    out.push_back(view.bytes());
  }
  return out;
}

void finish(const std::vector<HostView>& views) {
  for (const auto& view : views) {
    view.finish();
  }
}

Tensors flat(const std::vector<Tensors>& lists) {
  Tensors out;
  for (const auto& list : lists) {
    out.insert(out.end(), list.begin(), list.end());
  }
  return out;
}

}  // namespace

TrnBackend::WorkPtr TrnBackend::broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) {
  check_one("broadcast", tensors.size());
  const int root = static_cast<int>(options.rootRank);
  const at::Tensor tensor = tensors[0];
  const std::int64_t bytes = bytes_of(tensor);
  Call call{"broadcast", tensor.scalar_type(), {}, root, 0, {}, only(root, bytes)};
  if (rank_ == root) {
    call.send_bytes = everywhere(bytes);
  }
  return start({call, OpType::BROADCAST, tensors, tensors, or_default(options.timeout), options.asyncOp},
               [tensor, bytes, root, is_root = rank_ == root](const Transfer& transfer) {
                 if (bytes) {
                   const HostView view = is_root ? HostView::read(tensor) : HostView::write(tensor);
                   transfer.broadcast(view.bytes(), root);
                   view.finish();
                 }
               });
}

TrnBackend::WorkPtr TrnBackend::allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) {
  check_one("all_reduce", tensors.size());
  const at::Tensor tensor = tensors[0];
  const Reduction reduction = check_reduction("all_reduce", options.reduceOp, tensor.scalar_type());
  const Bytes bytes = everywhere(bytes_of(tensor));
  const Call call{"all_reduce", tensor.scalar_type(), reduction.op, -1, 0, bytes, bytes};
  return start({call, OpType::ALLREDUCE, tensors, tensors, or_default(options.timeout), options.asyncOp},
               [tensor, reduction](const Transfer& transfer) {
                 if (tensor.numel()) {
                   const HostView view = HostView::read_write(tensor);
                   transfer.all_reduce(view, reduction);
                   view.finish();
                 }
               });
}

TrnBackend::WorkPtr TrnBackend::allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) {
  const char* name = "all_reduce_coalesced";
  TORCH_CHECK_VALUE(!tensors.empty(), "[", name, "] takes at least one tensor; got none.");
  const at::ScalarType dtype = tensors[0].scalar_type();
  check_type(name, tensors, dtype);
  const Reduction reduction = check_reduction(name, options.reduceOp, dtype);
  const Bytes bytes = everywhere(total(bytes_of_each(tensors)));
  const Call call{name, dtype, reduction.op, -1, layout_of(tensors), bytes, bytes};
  return start({call, OpType::ALLREDUCE_COALESCED, tensors, tensors, or_default(options.timeout), options.asyncOp},
               [tensors, reduction](const Transfer& transfer) {
                 Tensors filled;
                 for (const auto& tensor : tensors) {
                   if (tensor.numel()) {
                     filled.push_back(tensor);
                   }
                 }
                 if (!filled.empty()) {
                   const auto data = views(filled, &HostView::read_write);
                   transfer.all_reduce_coalesced(data, reduction);
                   finish(data);
                 }
               });
}

TrnBackend::WorkPtr TrnBackend::reduce(Tensors& tensors, const c10d::ReduceOptions& options) {
  check_one("reduce", tensors.size());
  const at::Tensor tensor = tensors[0];
  const int root = static_cast<int>(options.rootRank);
  const Reduction reduction = check_reduction("reduce", options.reduceOp, tensor.scalar_type());
  const std::int64_t bytes = bytes_of(tensor);
  Call call{"reduce", tensor.scalar_type(), reduction.op, root, 0, only(root, bytes), {}};
  if (rank_ == root) {
    call.receive_bytes = everywhere(bytes);
  }
  return start({call, OpType::REDUCE, tensors, tensors, or_default(options.timeout), options.asyncOp},
               [tensor, reduction, root, is_root = rank_ == root](const Transfer& transfer) {
                 if (tensor.numel()) {
                   const HostView view = is_root ? HostView::read_write(tensor) : HostView::read(tensor);
                   transfer.reduce(view, reduction, root);
                   view.finish();
                 }
               });
}

TrnBackend::WorkPtr TrnBackend::allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) {
  check_one("all_gather", inputs.size());
  check_one("all_gather", outputs.size());
  check_parts("all_gather", outputs[0].size(), size_);
  const at::Tensor input = inputs[0];
  const Tensors parts = outputs[0];
  check_type("all_gather", parts, input.scalar_type());
  const Call call{"all_gather", input.scalar_type(), {}, -1, 0, everywhere(bytes_of(input)), bytes_of_each(parts)};
  return start({call, OpType::ALLGATHER, inputs, parts, or_default(options.timeout), options.asyncOp},
               [input, parts](const Transfer& transfer) {
                 const HostView from = HostView::read(input);
                 const auto to = views(parts, &HostView::write);
                 const Tensors into = bytes_in(to);
                 if (std::any_of(into.begin(), into.end(), [](const auto& part) { return part.numel() > 0; })) {
                   transfer.all_gather(into, from.bytes());
                 }
                 finish(to);
               });
}

TrnBackend::WorkPtr TrnBackend::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                const c10d::AllgatherOptions& options) {
  const char* name = "all_gather_into_tensor";
  check_type(name, {output}, input.scalar_type());
  check_ratio(name, output, input, size_);
  const Bytes bytes = everywhere(bytes_of(input));
  const Call call{name, input.scalar_type(), {}, -1, 0, bytes, bytes};
  return start({call, OpType::_ALLGATHER_BASE, {input}, {output}, or_default(options.timeout), options.asyncOp},
               [output = output, input = input](const Transfer& transfer) {
                 if (input.numel()) {
                   const HostView to = HostView::write(output);
                   transfer.all_gather_into(to.bytes(), HostView::read(input).bytes());
                   to.finish();
                 }
               });
}

TrnBackend::WorkPtr TrnBackend::allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                                                    const c10d::AllgatherOptions& options) {
  const char* name = "all_gather_coalesced";
  check_parts(name, outputs.size(), size_);
  Bytes received;
  for (const auto& list : outputs) {
    TORCH_CHECK_VALUE(list.size() == inputs.size(), "[", name, "] takes one output of each rank for each input; got ",
                      list.size(), ", limit ", inputs.size(), ".");
    received.push_back(total(bytes_of_each(list)));
  }
  const Bytes sent = everywhere(total(bytes_of_each(inputs)));
  const Call call{name, {}, {}, -1, layout_of(inputs), sent, received};
  return start({call, OpType::ALLGATHER_COALESCED, inputs, flat(outputs), or_default(options.timeout), options.asyncOp},
               [outputs = outputs, inputs = inputs](const Transfer& transfer) {
                 for (std::size_t i = 0; i < inputs.size(); ++i) {
                   Tensors parts;
                   for (const auto& list : outputs) {
                     parts.push_back(list[i]);
                   }
                   if (inputs[i].numel()) {
                     const auto to = views(parts, &HostView::write);
                     transfer.all_gather(bytes_in(to), HostView::read(inputs[i]).bytes());
                     finish(to);
                   }
                 }
               });
}

TrnBackend::WorkPtr TrnBackend::allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                const c10d::AllgatherOptions& options) {
  const char* name = "all_gather_into_tensor_coalesced";
  TORCH_CHECK_VALUE(outputs.size() == inputs.size(), "[", name, "] takes one output for each input; got ",
                    outputs.size(), ", limit ", inputs.size(), ".");
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check_type(name, {outputs[i]}, inputs[i].scalar_type());
    check_ratio(name, outputs[i], inputs[i], size_);
  }
  const Bytes bytes = everywhere(total(bytes_of_each(inputs)));
  const Call call{name, {}, {}, -1, layout_of(inputs), bytes, bytes};
  return start({call, OpType::COALESCED, inputs, outputs, or_default(options.timeout), options.asyncOp},
               [outputs, inputs](const Transfer& transfer) {
                 for (std::size_t i = 0; i < inputs.size(); ++i) {
                   if (inputs[i].numel()) {
                     const HostView to = HostView::write(outputs[i]);
                     transfer.all_gather_into(to.bytes(), HostView::read(inputs[i]).bytes());
                     to.finish();
                   }
                 }
               });
}

TrnBackend::WorkPtr TrnBackend::gather(std::vector<Tensors>& outputs, Tensors& inputs,
                                       const c10d::GatherOptions& options) {
  check_one("gather", inputs.size());
  const int root = static_cast<int>(options.rootRank);
  const at::Tensor input = inputs[0];
  Tensors parts;
  if (rank_ == root) {
    check_one("gather", outputs.size());
    check_parts("gather", outputs[0].size(), size_);
    parts = outputs[0];
    check_type("gather", parts, input.scalar_type());
  }
  const Call call{"gather", input.scalar_type(), {}, root, 0, only(root, bytes_of(input)), bytes_of_each(parts)};
  return start({call, OpType::GATHER, inputs, parts, or_default(options.timeout), options.asyncOp},
               [input, parts, root, num_ranks = size_](const Transfer& transfer) {
                 Tensors sends(static_cast<std::size_t>(num_ranks));
                 sends[static_cast<std::size_t>(root)] = HostView::read(input).bytes();
                 const auto to = views(parts, &HostView::write);
                 transfer.exchange(sends, bytes_in(to));
                 finish(to);
               });
}

TrnBackend::WorkPtr TrnBackend::scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                        const c10d::ScatterOptions& options) {
  check_one("scatter", outputs.size());
  const int root = static_cast<int>(options.rootRank);
  const at::Tensor output = outputs[0];
  Tensors parts;
  if (rank_ == root) {
    check_one("scatter", inputs.size());
    check_parts("scatter", inputs[0].size(), size_);
    parts = inputs[0];
    check_type("scatter", parts, output.scalar_type());
  }
  const Call call{"scatter", output.scalar_type(), {}, root, 0, bytes_of_each(parts), only(root, bytes_of(output))};
  return start({call, OpType::SCATTER, parts, outputs, or_default(options.timeout), options.asyncOp},
               [output, parts, root, num_ranks = size_](const Transfer& transfer) {
                 Tensors receives(static_cast<std::size_t>(num_ranks));
                 const HostView to = HostView::write(output);
                 receives[static_cast<std::size_t>(root)] = to.bytes();
                 const auto from = views(parts, &HostView::read);
                 transfer.exchange(bytes_in(from), receives);
                 to.finish();
               });
}

TrnBackend::WorkPtr TrnBackend::reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                               const c10d::ReduceScatterOptions& options) {
  const char* name = "reduce_scatter";
  check_one(name, outputs.size());
  check_one(name, inputs.size());
  check_parts(name, inputs[0].size(), size_);
  const at::Tensor output = outputs[0];
  const Tensors parts = inputs[0];
  check_type(name, parts, output.scalar_type());
  const Reduction reduction = check_reduction(name, options.reduceOp, output.scalar_type());
  const Bytes sizes = bytes_of_each(parts);
  const Call call{name, output.scalar_type(), reduction.op, -1, 0, sizes, everywhere(bytes_of(output))};
  return start({call, OpType::REDUCE_SCATTER, parts, outputs, or_default(options.timeout), options.asyncOp},
               [output, parts, reduction](const Transfer& transfer) {
                 const HostView to = HostView::write(output);
                 const auto from = views(parts, &HostView::read);
                 if (std::any_of(parts.begin(), parts.end(), [](const auto& part) { return part.numel() > 0; })) {
                   transfer.reduce_scatter(to, from, reduction);
                 }
                 to.finish();
               });
}

TrnBackend::WorkPtr TrnBackend::_reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                                     const c10d::ReduceScatterOptions& options) {
  const char* name = "reduce_scatter_tensor";
  check_type(name, {output}, input.scalar_type());
  check_ratio(name, input, output, size_);
  const Reduction reduction = check_reduction(name, options.reduceOp, output.scalar_type());
  const Bytes bytes = everywhere(bytes_of(output));
  const Call call{name, output.scalar_type(), reduction.op, -1, 0, bytes, bytes};
  return start({call, OpType::_REDUCE_SCATTER_BASE, {input}, {output}, or_default(options.timeout), options.asyncOp},
               [output = output, input = input, reduction](const Transfer& transfer) {
                 if (input.numel()) {
                   const HostView to = HostView::write(output);
                   transfer.reduce_scatter(to, HostView::read(input), reduction);
                   to.finish();
                 }
               });
}

TrnBackend::WorkPtr TrnBackend::reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                const c10d::ReduceScatterOptions& options) {
  const char* name = "reduce_scatter_tensor_coalesced";
  TORCH_CHECK_VALUE(outputs.size() == inputs.size(), "[", name, "] takes one output for each input; got ",
                    outputs.size(), ", limit ", inputs.size(), ".");
  std::vector<Reduction> reductions;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check_type(name, {outputs[i]}, inputs[i].scalar_type());
    check_ratio(name, inputs[i], outputs[i], size_);
    reductions.push_back(check_reduction(name, options.reduceOp, inputs[i].scalar_type()));
  }
  const Bytes bytes = everywhere(total(bytes_of_each(outputs)));
  const Call call{name, {}, options.reduceOp.op_, -1, layout_of(inputs), bytes, bytes};
  return start(
      {call, OpType::REDUCE_SCATTER_TENSOR_COALESCED, inputs, outputs, or_default(options.timeout), options.asyncOp},
      [outputs, inputs, reductions](const Transfer& transfer) {
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          if (inputs[i].numel()) {
            const HostView to = HostView::write(outputs[i]);
            transfer.reduce_scatter(to, HostView::read(inputs[i]), reductions[i]);
            to.finish();
          }
        }
      });
}

TrnBackend::WorkPtr TrnBackend::alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) {
  check_parts("all_to_all", outputs.size(), size_);
  check_parts("all_to_all", inputs.size(), size_);
  const at::ScalarType dtype = inputs[0].scalar_type();
  check_type("all_to_all", inputs, dtype);
  check_type("all_to_all", outputs, dtype);
  const Call call{"all_to_all", dtype, {}, -1, 0, bytes_of_each(inputs), bytes_of_each(outputs)};
  return start({call, OpType::ALLTOALL, inputs, outputs, or_default(options.timeout), options.asyncOp},
               [outputs, inputs](const Transfer& transfer) {
                 const auto to = views(outputs, &HostView::write);
                 transfer.exchange(bytes_in(views(inputs, &HostView::read)), bytes_in(to));
                 finish(to);
               });
}

TrnBackend::WorkPtr TrnBackend::alltoall_base(at::Tensor& output, at::Tensor& input,
                                              std::vector<std::int64_t>& output_rows,
                                              std::vector<std::int64_t>& input_rows,
                                              const c10d::AllToAllOptions& options) {
  const char* name = "all_to_all_single";
  check_type(name, {output}, input.scalar_type());
  const auto split = [&](const at::Tensor& tensor, const std::vector<std::int64_t>& rows) {
    const std::int64_t num_rows = tensor.dim() ? tensor.size(0) : 1;
    if (rows.empty()) {
      TORCH_CHECK_VALUE(num_rows % size_ == 0, "[", name, "] without split sizes the first dimension divides by the ",
                        "number of ranks; got ", num_rows, ", limit a multiple of ", size_, ".");
      return everywhere(bytes_of(tensor) / size_);
    }
    check_parts(name, rows.size(), size_);
    TORCH_CHECK_VALUE(total(rows) == num_rows, "[", name, "] split sizes add up to the first dimension; got ",
                      total(rows), ", limit ", num_rows, ".");
    Bytes out;
    for (const auto count : rows) {
      out.push_back(num_rows ? bytes_of(tensor) / num_rows * count : 0);
    }
    return out;
  };
  const Bytes sent = split(input, input_rows), received = split(output, output_rows);
  const Call call{name, input.scalar_type(), {}, -1, 0, sent, received};
  const auto parts = [](const at::Tensor& bytes, const Bytes& sizes) {
    Tensors out;
    std::int64_t start = 0;
    for (const auto size : sizes) {
      out.push_back(slice(bytes, start, size));
      start += size;
    }
    return out;
  };
  return start({call, OpType::ALLTOALL_BASE, {input}, {output}, or_default(options.timeout), options.asyncOp},
               [output = output, input = input, sent, received, parts](const Transfer& transfer) {
                 const HostView to = HostView::write(output);
                 transfer.exchange(parts(HostView::read(input).bytes(), sent), parts(to.bytes(), received));
                 to.finish();
               });
}

TrnBackend::WorkPtr TrnBackend::barrier(const c10d::BarrierOptions& options) {
  Call call{"barrier", {}, {}, -1, 0, {}, {}};
  return start({call, OpType::BARRIER, {}, {}, or_default(options.timeout), options.asyncOp},
               [](const Transfer&) {});  // that everyone agreed is the barrier
}

void TrnBackend::monitoredBarrier(const c10d::BarrierOptions& options, bool) {
  Call call{"monitored_barrier", {}, {}, -1, 0, {}, {}};
  start({call, OpType::BARRIER, {}, {}, or_default(options.timeout), false}, [](const Transfer&) {})->wait();
}

}  // namespace trn::distributed
