// Converts specs and costs between Python dicts and the structs of kernels/shapes.h.
#include "bindings/kernels.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/build.h"
#include "kernels/names.h"
#include "program/opcode.h"
#include "program/text.h"
#include "target/error.h"

namespace py = pybind11;

namespace trn::bindings {
namespace {

using kernels::Part;

[[noreturn]] void reject(const std::string& where, const std::string& rule, py::handle got, const std::string& fix) {
  throw Error(Category::invalid_argument,
              "[" + where + "] " + rule + "; got " + py::repr(got).cast<std::string>() + ". " + fix);
}

template <class E>
constexpr const auto& table_of(E value) {
  if constexpr (std::is_same_v<E, target::Dtype>) {
    return target::kDtypes;
  } else {
    return names(value);
  }
}

template <class T>
struct is_vector : std::false_type {};
template <class T>
struct is_vector<std::vector<T>> : std::true_type {};

// ---- Python to C++

struct Reader;
template <class S>
void read_struct(const std::string& where, py::handle source, S& into, bool is_part = false);

template <class T>
void read(const std::string& where, py::handle source, T& into) {
  if constexpr (std::is_same_v<T, bool>) {
    if (!py::isinstance<py::bool_>(source)) {
      reject(where, "must be a bool", source, "Pass True or False.");
    }
    into = source.cast<bool>();
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    const auto fix = "Pass an int from 0 to 2**63 - 1.";
    if (py::isinstance<py::bool_>(source) || !PyIndex_Check(source.ptr())) {
      reject(where, "must be an int", source, fix);
    }
    const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(source.ptr()));
    if (!index) {
      throw py::error_already_set();
    }
    int overflow = 0;
    into = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
    if (overflow != 0 || into < 0) {
      reject(where, "must be a non-negative 64-bit int", source, fix);
    }
  } else if constexpr (std::is_same_v<T, float>) {
    if (!py::isinstance<py::float_>(source) && !py::isinstance<py::int_>(source)) {
      reject(where, "must be a number", source, "Pass a float.");
    }
    into = static_cast<float>(source.cast<double>());
  } else if constexpr (std::is_enum_v<T>) {
    const auto text = py::isinstance<py::str>(source) ? source.cast<std::string>() : std::string();
    std::string choices;
    std::size_t value = 0;
    for (const auto& row : table_of(T{})) {
      if (text == row.name) {
        into = static_cast<T>(value);
        return;
      }
      choices += (value++ == 0 ? "" : ", ") + std::string(row.name);
    }
    reject(where, "must be the name of a known value", source, "Pass one of " + choices + ".");
  } else if constexpr (is_vector<T>::value) {
    if (!py::isinstance<py::list>(source) && !py::isinstance<py::tuple>(source)) {
      reject(where, "must be a list", source, "Pass a list, empty where there is nothing.");
    }
    into.clear();
    for (const auto item : py::reinterpret_borrow<py::sequence>(source)) {
      into.emplace_back();
      read(where + "[" + std::to_string(into.size() - 1) + "]", item, into.back());
    }
  } else {
    read_struct(where, source, into);
  }
}

struct Reader {
  const std::string& where;
  const py::dict& source;
  std::vector<std::string> fields;

  template <class T>
  void operator()(const char* field, T& into) {
    fields.emplace_back(field);
    if (!source.contains(field)) {
      throw Error(Category::invalid_argument,
                  "[" + where + "] field '" + field + "' is required; got none. Add '" + field + "'.");
    }
    read(where + "." + field, source[field], into);
  }
};

template <class S>
void read_struct(const std::string& where, py::handle source, S& into, bool is_part) {
  if (!py::isinstance<py::dict>(source)) {
    reject(where, "must be a dict of fields", source, "Pass a dict.");
  }
  const auto dict = py::reinterpret_borrow<py::dict>(source);
  Reader reader{where, dict, {}};
  S::visit(reader, into);
  for (const auto& [key, value] : dict) {
    const auto text = py::str(key).cast<std::string>();
    bool known = is_part && (text == "family" || text == "precision");
    for (const auto& field : reader.fields) {
      known = known || text == field;
    }
    if (!known) {
      std::string all;
      for (const auto& field : reader.fields) {
        all += (all.empty() ? "" : ", ") + field;
      }
      throw Error(Category::invalid_argument,
                  "[" + where + "] fields must be known; got '" + text + "'. Fields are " + all + ".");
    }
  }
}

template <std::size_t I = 0>
Part default_part(std::size_t index) {
  if constexpr (I + 1 < std::variant_size_v<kernels::Shape>) {
    return index == I ? Part(std::in_place_index<I>) : default_part<I + 1>(index);
  } else {
    return Part(std::in_place_index<I>);
  }
}

// ---- C++ to Python

template <class T>
py::object write(const T& value);

template <class S>
void write_fields(py::dict& into, const S& source) {
  S::visit([&](const char* field, const auto& value) { into[field] = write(value); }, source);
}

template <class T>
py::object write(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return py::str(std::string(table_of(value)[static_cast<std::size_t>(value)].name));
  } else if constexpr (is_vector<T>::value) {
    py::list list;
    for (const auto& item : value) {
      list.append(write(item));
    }
    return list;
  } else if constexpr (std::is_arithmetic_v<T>) {
    return py::cast(value);
  } else {
    py::dict dict;
    write_fields(dict, value);
    return dict;
  }
}

template <class Array>
py::dict by_engine(const Array& values) {
  py::dict dict;
  std::size_t engine = 0;
  for (const auto& row : names(program::Engine{})) {
    dict[py::str(std::string(row.name))] = values[engine++];
  }
  return dict;
}

}  // namespace

Part part_from_dict(const py::dict& dict) {
  if (!dict.contains("family")) {
    throw Error(Category::invalid_argument, "[spec] a part must name its family; got none. Add 'family'.");
  }
  const auto given = dict["family"];
  const auto text = py::isinstance<py::str>(given) ? given.cast<std::string>() : std::string();
  std::string choices;
  std::size_t index = 0;
  for (const auto* family : kernels::kFamilyNames) {
    if (text == family) {
      Part part = default_part(index);
      std::visit([&](auto& shape) { read_struct(text, dict, shape, true); }, part);
      if (dict.contains("precision")) {
        read_struct(text + ".precision", dict["precision"], part.precision);
      }
      return part;
    }
    choices += (index++ == 0 ? "" : ", ") + std::string(family);
  }
  reject("spec", "family must be known", given, "Pass one of " + choices + ".");
}

py::dict part_to_dict(const Part& part) {
  py::dict dict;
  dict["family"] = kernels::kFamilyNames[part.index()];
  std::visit([&](const auto& shape) { write_fields(dict, shape); }, part);
  if (part.precision != kernels::Precision{}) {
    dict["precision"] = write(part.precision);
  }
  return dict;
}

kernels::Spec spec_from_list(const py::list& list) {
  kernels::Spec spec;
  for (const auto item : list) {
    if (!py::isinstance<py::dict>(item)) {
      reject("spec", "must be a list of dicts, one per part", item, "Pass [{'family': ..., ...}].");
    }
    spec.push_back(part_from_dict(py::reinterpret_borrow<py::dict>(item)));
  }
  return spec;
}

py::list spec_to_list(const kernels::Spec& spec) {
  py::list list;
  for (const auto& part : spec) {
    list.append(part_to_dict(part));
  }
  return list;
}

py::dict counts_to_dict(const program::Counts& counts) {
  py::dict flops;
  for (const auto& [dtype, amount] : counts.hardware_flops) {
    flops[py::str(std::string(target::name(dtype)))] = amount;
  }
  py::dict dict;
  dict["instructions"] = by_engine(counts.instructions);
  dict["busy_cycles"] = by_engine(counts.busy_cycles);
  dict["hardware_flops"] = flops;
  dict["transpose_flops"] = counts.transpose_flops;
  dict["hbm_read_bytes"] = counts.hbm_read_bytes;
  dict["hbm_write_bytes"] = counts.hbm_write_bytes;
  dict["dma_transfers"] = counts.dma_transfers;
  dict["dma_descriptors"] = counts.dma_descriptors;
  dict["sbuf_read_bytes"] = counts.sbuf_read_bytes;
  dict["sbuf_write_bytes"] = counts.sbuf_write_bytes;
  dict["psum_read_bytes"] = counts.psum_read_bytes;
  dict["psum_write_bytes"] = counts.psum_write_bytes;
  return dict;
}

py::dict cost_to_dict(const kernels::Cost& cost) {
  static constexpr std::string_view kResources[] = {"TensorE", "VectorE", "ScalarE", "GpSimdE", "SyncE", "HBM"};
  py::dict dict;
  dict["counts"] = counts_to_dict(cost.counts);
  dict["model_flops"] = cost.model.flops;
  dict["causal_flops"] = cost.model.causal_flops;
  dict["flops_dtype"] = std::string(target::name(cost.model.dtype));
  dict["seconds"] = cost.seconds;
  dict["busy_seconds"] = by_engine(cost.busy_seconds);
  dict["bound_by"] = std::string(kResources[static_cast<std::size_t>(cost.bound_by)]);
  return dict;
}

void bind_kernels(py::module_& module) {
  module.def(
      "cost",
      [](const py::list& spec, const target::Target& target) {
        return cost_to_dict(kernels::cost(target, spec_from_list(spec)));
      },
      py::arg("spec"), py::arg("target"),
      "Counts (exact integers), model FLOPs and device seconds of one launch, summed over the parts of its spec.");
  module.def(
      "families",
      [] { return std::vector<std::string>(std::begin(kernels::kFamilyNames), std::end(kernels::kFamilyNames)); },
      "Names of the kernel families.");
  module.def(
      "normalize_spec", [](const py::list& spec) { return spec_to_list(spec_from_list(spec)); }, py::arg("spec"),
      "The spec as the ledger stores it; raises where a field is missing, unknown or of the wrong kind.");
  module.def(
      "program_text",
      [](const py::list& spec, const target::Target& target) {
        std::string text;
        for (const auto& part : spec_from_list(spec)) {
          text += (text.empty() ? "" : "\n") + program::text(kernels::build(target, part));
        }
        return text;
      },
      py::arg("spec"), py::arg("target"),
      "The tile programs of a launch: buffers, loop nests, and instructions with the shapes of their tiles.");
}

}  // namespace trn::bindings
