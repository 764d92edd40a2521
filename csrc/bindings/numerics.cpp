// Converts switches between Python and the records that hold them.
#include "bindings/numerics.h"

#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "aten/numerics.h"
#include "kernels/shapes.h"
#include "target/error.h"

namespace py = pybind11;

namespace trn::bindings {
namespace {

struct Switch {
  const char* name;
  bool emu::Numerics::* member;
};
constexpr Switch kSwitches[] = {
    {"stochastic_rounding", &emu::Numerics::stochastic_rounding},
    {"activation_domains", &emu::Numerics::activation_domains},
    {"relu_nan_is_zero", &emu::Numerics::relu_nan_is_zero},
    {"rsqrt_zero_is_nan", &emu::Numerics::rsqrt_zero_is_nan},
    {"sign_nan_is_nan", &emu::Numerics::sign_nan_is_nan},
    {"flush_denormals", &emu::Numerics::flush_denormals},
    {"transpose_spreads_nan", &emu::Numerics::transpose_spreads_nan},
    {"integers_through_fp32", &emu::Numerics::integers_through_fp32},
    {"native_int64", &emu::Numerics::native_int64},
    {"saturate_infinity", &emu::Numerics::saturate_infinity},
    {"rounding_through_int32", &emu::Numerics::rounding_through_int32},
    {"floor_divide_zero_is_nan", &emu::Numerics::floor_divide_zero_is_nan},
    {"out_of_bounds_is_nan", &emu::Numerics::out_of_bounds_is_nan},
};

constexpr std::string_view kOutsideDomains[] = {"exact", "clamp", "nan"};  // emu::OutsideDomain
constexpr std::string_view kAutoCasts[] = {"none", "matmult", "all"};
constexpr std::pair<std::string_view, target::Dtype> kAutoCastTypes[] = {
    {"bf16", target::Dtype::bfloat16},
    {"fp16", target::Dtype::float16},
    {"tf32", target::Dtype::tfloat32},
    {"fp8_e4m3", target::Dtype::float8_e4m3},
};

// The place of a word in its list; the first where it is not given.
template <class List, class Name>
std::size_t choice(const py::dict& dict, const char* key, const List& list, Name name) {
  if (!dict.contains(key)) {
    return 0;
  }
  const auto given = py::str(dict[key]).cast<std::string>();
  std::string all;
  for (std::size_t i = 0; i < std::size(list); ++i) {
    if (given == name(list[i])) {
      return i;
    }
    all += (i == 0 ? "" : ", ") + std::string(name(list[i]));
  }
  throw Error(Category::invalid_argument,
              "[numerics] " + std::string(key) + " is one of " + all + "; got '" + given + "'. Use one of them.");
}

constexpr auto kWord = [](std::string_view word) { return word; };

kernels::Precision precision_from(const py::dict& dict) {
  kernels::Precision precision;
  precision.native_int64 = dict.contains("native_int64") && dict["native_int64"].cast<bool>();
  const std::size_t reach = choice(dict, "auto_cast", kAutoCasts, kWord);
  const std::size_t type = choice(dict, "auto_cast_type", kAutoCastTypes, [](const auto& row) { return row.first; });
  if (reach > 0) {
    precision.auto_cast = kAutoCastTypes[type].second;
    precision.casts_all = reach == 2;
  }
  return precision;
}

py::dict defaults() {
  const emu::Numerics numerics;
  py::dict dict;
  for (const Switch& one : kSwitches) {
    dict[one.name] = numerics.*one.member;
  }
  dict["seed"] = numerics.seed;
  dict["outside_domains"] = kOutsideDomains[0];
  dict["auto_cast"] = kAutoCasts[0];
  dict["auto_cast_type"] = kAutoCastTypes[0].first;
  return dict;
}

void set_narrowing_handler(py::function handler) {
  // Leaked: it must not be destroyed after the interpreter.
  auto* callable = new py::function(std::move(handler));
  aten::set_narrowing_handler([callable](const std::string& op, const std::string& dtype) {
    py::gil_scoped_acquire gil;
    try {
      (*callable)(op, dtype);
    } catch (py::error_already_set& error) {  // a warning that is an error
      error.restore();
      python_error raised;
      raised.persist();
      throw std::move(raised);
    }
  });
}

}  // namespace

emu::Numerics departures_from(const py::dict& dict) {
  const py::dict known = defaults();
  for (const auto& [name, value] : dict) {
    if (!known.contains(name)) {
      throw Error(Category::invalid_argument, "[numerics] no such switch; got " + py::str(name).cast<std::string>() +
                                                  ". docs/numerics.md lists them.");
    }
  }
  emu::Numerics numerics;
  for (const Switch& one : kSwitches) {
    if (dict.contains(one.name)) {
      numerics.*one.member = dict[one.name].cast<bool>();
    }
  }
  if (dict.contains("seed")) {
    numerics.seed = dict["seed"].cast<std::uint64_t>();
  }
  numerics.outside_domains = static_cast<emu::OutsideDomain>(choice(dict, "outside_domains", kOutsideDomains, kWord));
  return numerics;
}

void bind_numerics(py::module_& module) {
  module.def("default_departures", &defaults, "Every switch of set_numerics with its default.");
  module.def("set_numerics", [](bool hardware, const py::dict& departures) {
    aten::set_numerics(hardware, departures_from(departures), precision_from(departures));
  });
  module.def("reference_launches", &aten::reference_launches);
  module.def("clear_reference_launches", &aten::clear_reference_launches);
  module.def("narrowed_launches", &aten::narrowed_launches);
  module.def("clear_narrowed_launches", &aten::clear_narrowed_launches);
  module.def("set_narrowing_handler", &set_narrowing_handler);
}

}  // namespace trn::bindings
