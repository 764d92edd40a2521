// Names of the enums in shapes.h, as a stored ledger and Python spell them.
#pragma once

#include "kernels/shapes.h"
#include "target/isa.h"

namespace trn::kernels {

inline constexpr target::Named<ConvDirection> kConvDirections[] = {
    {ConvDirection::forward, "forward"},
    {ConvDirection::input_gradient, "input_gradient"},
    {ConvDirection::weight_gradient, "weight_gradient"},
};
inline constexpr target::Named<NormKind> kNormKinds[] = {
    {NormKind::layer, "layer"},
    {NormKind::rms, "rms"},
    {NormKind::group, "group"},
    {NormKind::batch, "batch"},
};
inline constexpr target::Named<IndexKind> kIndexKinds[] = {
    {IndexKind::gather, "gather"},
    {IndexKind::scatter, "scatter"},
    {IndexKind::scatter_add, "scatter_add"},
};
inline constexpr target::Named<WindowKind> kWindowKinds[] = {
    {WindowKind::max_pool, "max_pool"},
    {WindowKind::average_pool, "average_pool"},
    {WindowKind::upsample, "upsample"},
};
inline constexpr target::Named<LossReduction> kLossReductions[] = {
    {LossReduction::none, "none"},
    {LossReduction::mean, "mean"},
    {LossReduction::sum, "sum"},
};

// The table of an enumeration, reached by type.
inline constexpr const auto& names(ConvDirection) {
  return kConvDirections;
}
inline constexpr const auto& names(NormKind) {
  return kNormKinds;
}
inline constexpr const auto& names(IndexKind) {
  return kIndexKinds;
}
inline constexpr const auto& names(WindowKind) {
  return kWindowKinds;
}
inline constexpr const auto& names(LossReduction) {
  return kLossReductions;
}

}  // namespace trn::kernels
