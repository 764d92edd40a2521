// Dispatches one part of a launch to its family's program.
#include "kernels/build.h"

#include <variant>

#include "kernels/precision.h"

namespace trn::kernels {
namespace {

template <class... Families>
struct Overloaded : Families... {
  using Families::operator()...;
};

// --auto-cast matmult is about products; --auto-cast all about every family that computes.
enum class Reach { moves, computes, multiplies };

Reach reach_of(const Shape& shape) {
  return std::visit(Overloaded{
                        [](const MatmulShape&) { return Reach::multiplies; },
                        [](const ConvShape&) { return Reach::multiplies; },
                        [](const AttentionShape&) { return Reach::multiplies; },
                        [](const PointwiseShape&) { return Reach::computes; },
                        [](const ReductionShape&) { return Reach::computes; },
                        [](const SoftmaxShape&) { return Reach::computes; },
                        [](const NormShape&) { return Reach::computes; },
                        [](const ScanShape&) { return Reach::computes; },
                        [](const WindowShape&) { return Reach::computes; },
                        [](const TapsShape&) { return Reach::computes; },
                        [](const auto&) { return Reach::moves; },
                    },
                    shape);
}

program::Program build_shape(const target::Target& target, const Shape& shape, Dtype auto_cast) {
  return std::visit(Overloaded{
                        [&](const MatmulShape& s) { return matmul(target, s, auto_cast); },
                        [&](const ConvShape& s) { return conv(target, s); },
                        [&](const AttentionShape& s) { return attention(target, s); },
                        [&](const PointwiseShape& s) { return pointwise(target, s); },
                        [&](const ReductionShape& s) { return reduction(target, s); },
                        [&](const SoftmaxShape& s) { return softmax(target, s); },
                        [&](const NormShape& s) { return norm(target, s); },
                        [&](const CopyShape& s) { return copy(target, s); },
                        [&](const BoxShape& s) { return box(target, s); },
                        [&](const IndexShape& s) { return index(target, s); },
                        [&](const NllLossShape& s) { return nll_loss(target, s); },
                        [&](const WindowShape& s) { return window(target, s); },
                        [&](const TapsShape& s) { return taps(target, s); },
                        [&](const BandShape& s) { return band(target, s); },
                        [&](const RankShape& s) { return rank(target, s); },
                        [&](const ScanShape& s) { return scan(target, s); },
                        [&](const SortShape& s) { return sort(target, s); },
                        [&](const TransferShape& s) { return transfer(target, s); },
                        [&](const GenericShape& s) { return generic(target, s); },
                    },
                    shape);
}

}  // namespace

program::Program build(const target::Target& target, const Part& part) {
  const Precision& precision = part.precision;
  program::Program program = build_shape(target, part, precision.auto_cast);
  if (precision == Precision{}) {
    return program;
  }
  const Reach reach = reach_of(part);
  if (precision.auto_cast != Dtype::float32) {
    if (reach == Reach::multiplies) {
      cast_products(program, precision.auto_cast);
    }
    if (precision.casts_all && reach != Reach::moves) {
      cast_operands(program, precision.auto_cast, std::holds_alternative<PointwiseShape>(part));
    }
  }
  if (precision.native_int64 &&
      (std::holds_alternative<PointwiseShape>(part) || std::holds_alternative<CopyShape>(part))) {
    widen_integers(program, target.core);
  }
  return program;
}

}  // namespace trn::kernels
