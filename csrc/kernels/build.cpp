// Dispatches one part of a launch to its family's program.
#include "kernels/build.h"

#include <variant>

namespace trn::kernels {
namespace {

template <class... Families>
struct Overloaded : Families... {
  using Families::operator()...;
};

}  // namespace

program::Program build(const target::Target& target, const Part& part) {
  return std::visit(Overloaded{
                        [&](const MatmulShape& shape) { return matmul(target, shape); },
                        [&](const ConvShape& shape) { return conv(target, shape); },
                        [&](const AttentionShape& shape) { return attention(target, shape); },
                        [&](const PointwiseShape& shape) { return pointwise(target, shape); },
                        [&](const ReductionShape& shape) { return reduction(target, shape); },
                        [&](const SoftmaxShape& shape) { return softmax(target, shape); },
                        [&](const NormShape& shape) { return norm(target, shape); },
                        [&](const CopyShape& shape) { return copy(target, shape); },
                        [&](const BoxShape& shape) { return box(target, shape); },
                        [&](const IndexShape& shape) { return index(target, shape); },
                        [&](const NllLossShape& shape) { return nll_loss(target, shape); },
                        [&](const WindowShape& shape) { return window(target, shape); },
                        [&](const ScanShape& shape) { return scan(target, shape); },
                        [&](const SortShape& shape) { return sort(target, shape); },
                        [&](const TransferShape& shape) { return transfer(target, shape); },
                        [&](const GenericShape& shape) { return generic(target, shape); },
                    },
                    part);
}

}  // namespace trn::kernels
