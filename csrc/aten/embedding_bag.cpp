// The gradient of an embedding bag: PyTorch's choice of a dense or a sparse operator, each of which launches.
#include <ATen/ops/_embedding_bag_backward_native.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bucketize.h>
#include <torch/library.h>

namespace trn::aten {

namespace {

// A forward that needed no bags left them out: of each index the offsets behind the first that it does not precede. In
// the wider of the two types, as the backward has both.
at::Tensor bags_of(const at::Tensor& indices, const at::Tensor& offsets, const at::Tensor& bags) {
  if (indices.numel() == 0 || bags.numel() > 0) {
    return bags;
  }
  const bool is_int32 = offsets.scalar_type() == at::kInt && indices.scalar_type() == at::kInt;
  const at::Tensor places = at::arange(indices.numel(), offsets.options());
  return at::bucketize(places, offsets.slice(0, 1), is_int32, true);
}

at::Tensor embedding_bag_backward(const at::Tensor& grad, const at::Tensor& indices, const at::Tensor& offsets,
                                  const at::Tensor& bags, const at::Tensor& bag_size, const at::Tensor& maximum_indices,
                                  c10::SymInt num_weights, bool scale_grad_by_freq, std::int64_t mode, bool sparse,
                                  const std::optional<at::Tensor>& per_sample_weights, std::int64_t padding_idx) {
  return at::native::_embedding_bag_backward_symint(grad, indices, offsets, bags_of(indices, offsets, bags), bag_size,
                                                    maximum_indices, std::move(num_weights), scale_grad_by_freq, mode,
                                                    sparse, per_sample_weights, padding_idx);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_embedding_bag_backward", TORCH_FN(embedding_bag_backward));
}

}  // namespace

}  // namespace trn::aten
