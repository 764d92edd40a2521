// THE operator table: the rows, checked at compile time, and how they are found.
#include "aten/op_table.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "aten/rules/attention.h"
#include "aten/rules/box.h"
#include "aten/rules/composition.h"
#include "aten/rules/conv.h"
#include "aten/rules/copy.h"
#include "aten/rules/foreach_optimizer.h"
#include "aten/rules/generic.h"
#include "aten/rules/host.h"
#include "aten/rules/index.h"
#include "aten/rules/matmul.h"
#include "aten/rules/norm.h"
#include "aten/rules/parts.h"
#include "aten/rules/pointwise.h"
#include "aten/rules/random.h"
#include "aten/rules/reduction.h"
#include "aten/rules/rnn.h"
#include "aten/rules/scan_sort.h"
#include "aten/rules/softmax.h"
#include "aten/rules/window.h"

namespace trn::aten {

namespace {

// What hardware numerics leave to the CPU's kernels, and why. All of it is counted.
namespace why {
constexpr std::string_view kHost = "runs on the host";
constexpr std::string_view kTransfer = "hands a value to the host";
constexpr std::string_view kRandom =
    "random numbers are those of the CPU generator's sequence, which no instruction makes";
constexpr std::string_view kAmount = "how many elements it gives, or takes, is data: the host looks";
constexpr std::string_view kQuantized = "quantized elements have no program";
constexpr std::string_view kComplex = "complex elements have no program";
constexpr std::string_view kBits = "bits of a number's representation: values are exact, instructions counted only";
constexpr std::string_view kPlaces =
    "only moves or masks elements by their places: values are exact, instructions counted only";
constexpr std::string_view kSeries =
    "a special function: counted by the terms of its series, which are not written out";
constexpr std::string_view kCompares = "counted by its comparisons; the program that makes them is not written";
constexpr std::string_view kFollows = "each element follows from others of its result: counted only";
constexpr std::string_view kFused = "a fused form of operators that have programs: counted only";
constexpr std::string_view kTest = "exists for PyTorch's own tests";
constexpr std::string_view kGeneric = "counted by its bytes alone";
}  // namespace why

constexpr OpRow kOps[] = {
#include "aten/op_rows.inc"
};

constexpr OpRow kGeneric = {"", "generic", "VectorE", rules::generic, why::kGeneric};

constexpr std::string_view kNoLaunch[] = {
    "_efficientzerotensor",
    "_embedding_bag_backward",
    "_empty_affine_quantized",
    "_empty_per_channel_affine_quantized",
    "_fused_sdp_choice",
    "_make_dep_token",
    "_nested_compute_contiguous_strides_offsets",
    "_nested_view_from_buffer",
    "_reshape_alias",
    "as_strided",
    "empty",
    "empty_strided",
    "from_file",
    "is_set_to",
    "resize",
    "set",
    "unfold",
    "view",
    "view_as_complex",
    "view_as_real",
};

struct NeuronRow {
  std::string_view name;  // with overload: "add.Tensor"
  NeuronStatus status;
};

constexpr NeuronRow kNeuronOps[] = {
#include "aten/torchneuron_ops.inc"
};

template <class Rows, class Key>
constexpr bool is_sorted_and_unique(const Rows& rows, Key key) {
  for (std::size_t i = 1; i < std::size(rows); ++i) {
    if (!(key(rows[i - 1]) < key(rows[i]))) {
      return false;
    }
  }
  return true;
}

constexpr bool families_are_known() {
  for (const auto& row : kOps) {
    bool known = row.family == "host";
    for (const std::string_view family : kernels::kFamilyNames) {
      known = known || row.family == family;
    }
    if (!known) {
      return false;
    }
  }
  return true;
}

constexpr bool has_row(std::string_view name) {
  const auto* const found = std::ranges::lower_bound(kOps, name, {}, &OpRow::name);
  return found != std::end(kOps) && found->name == name;
}

constexpr bool no_launch_has_no_row() {
  for (const auto name : kNoLaunch) {
    if (has_row(name)) {
      return false;
    }
  }
  return true;
}

static_assert(is_sorted_and_unique(kOps, [](const OpRow& row) { return row.name; }),
              "op_rows.inc must be sorted by name, each name once");
static_assert(is_sorted_and_unique(kNoLaunch, [](std::string_view name) { return name; }),
              "kNoLaunch must be sorted, each name once");
static_assert(is_sorted_and_unique(kNeuronOps, [](const NeuronRow& row) { return row.name; }),
              "torchneuron_ops.inc must be sorted, each overload once");
static_assert(families_are_known(), "a family in op_rows.inc is none of kernels::kFamilyNames");
static_assert(no_launch_has_no_row(), "an operator that launches nothing has no row");

}  // namespace

std::span<const OpRow> op_table() {
  return kOps;
}

std::string_view no_program(const OpRow& row) {
  constexpr std::pair<std::string_view, std::string_view> kFamilies[] = {
      {"host", why::kHost}, {"transfer", why::kTransfer}, {"generic", why::kGeneric}};
  for (const auto& [family, reason] : kFamilies) {
    if (row.no_program.empty() && row.family == family) {
      return reason;
    }
  }
  return row.no_program;
}

const OpRow& find_op(std::string_view base_name) {
  const auto* const found = std::ranges::lower_bound(kOps, base_name, {}, &OpRow::name);
  return found != std::end(kOps) && found->name == base_name ? *found : kGeneric;
}

const OpRow& find_op(const c10::OperatorName& name) {
  return find_op(base_name(name.name));
}

bool launches_nothing(const c10::OperatorName& name) {
  return std::ranges::binary_search(kNoLaunch, base_name(name.name));
}

// PyTorch runs a structured operator's functional and in-place forms through its out= form, so one registration serves
// all three; a bare name in the list ("div", which is no overload of its own) stands for the whole operator.
NeuronStatus neuron_status(const c10::OperatorName& name) {
  constexpr std::string_view kNamespace = "aten::";
  if (!name.name.starts_with(kNamespace)) {
    return NeuronStatus::absent;
  }
  // Entry points that only this kind of backend has: TorchNeuron runs copies and SDPA natively under their public
  // names.
  constexpr std::string_view kSeams[] = {"aten::_copy_from", "aten::_scaled_dot_product_fused_attention_overrideable",
                                         "aten::_scaled_dot_product_fused_attention_overrideable_backward"};
  if (std::ranges::find(kSeams, std::string_view(name.name)) != std::end(kSeams)) {
    return NeuronStatus::native;
  }
  const std::string listed = name.name.substr(kNamespace.size());
  const std::string base(base_name(name.name));
  const std::string& overload = name.overload_name;
  const bool is_plain = overload.empty() || overload == "Tensor";
  const std::string candidates[] = {
      overload.empty() ? listed : listed + "." + overload,
      base + "." + (is_plain ? "out" : overload + "_out"),
      base,
  };
  for (const auto& candidate : candidates) {
    const auto* const found = std::ranges::lower_bound(kNeuronOps, std::string_view(candidate), {}, &NeuronRow::name);
    if (found != std::end(kNeuronOps) && found->name == candidate) {
      return found->status;
    }
  }
  return NeuronStatus::absent;
}

std::string_view name(NeuronStatus status) {
  switch (status) {
    case NeuronStatus::native:
      return "native";
    case NeuronStatus::host:
      return "host";
    default:
      return "absent";
  }
}

}  // namespace trn::aten
