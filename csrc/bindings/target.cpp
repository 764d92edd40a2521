// Converts target records between Python dicts and C++, and shows them to Python read-only.
#include "bindings/target.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "target/error.h"
#include "target/fields.h"

namespace py = pybind11;

namespace trn::bindings {
namespace {

using target::HasFields;

[[noreturn]] void reject(const std::string& path, const std::string& rule, py::handle got, const std::string& fix) {
  const auto text = got ? py::repr(got).cast<std::string>() : std::string("none");
  throw Error(Category::invalid_argument, "[target] " + path + ": " + rule + "; got " + text + ". " + fix);
}

std::string join(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

// ---- Python to C++

void read(const std::string& path, py::handle source, std::string& into) {
  if (!py::isinstance<py::str>(source)) {
    reject(path, "must be a string", source, "Pass a str.");
  }
  into = source.cast<std::string>();
}

void read(const std::string& path, py::handle source, double& into) {
  const bool number = py::isinstance<py::float_>(source) || py::isinstance<py::int_>(source);
  if (!number || py::isinstance<py::bool_>(source)) {
    reject(path, "must be a number", source, "Pass a float.");
  }
  into = source.cast<double>();
}

void read(const std::string& path, py::handle source, std::int64_t& into) {
  if (!py::isinstance<py::int_>(source) || py::isinstance<py::bool_>(source)) {
    reject(path, "must be a whole number", source, "Pass an int.");
  }
  int overflow = 0;
  into = PyLong_AsLongLongAndOverflow(source.ptr(), &overflow);
  if (overflow != 0) {
    reject(path, "must fit in 64 bits", source, "Pass a smaller int.");
  }
}

template <HasFields Record>
void read(const std::string& path, py::handle source, Record& into);

template <HasFields Record>
void read(const std::string& path, py::handle source, std::vector<Record>& into) {
  if (!py::isinstance<py::list>(source) && !py::isinstance<py::tuple>(source)) {
    reject(path, "must be a list", source, "Pass a list, empty where there is nothing.");
  }
  for (const auto element : py::reinterpret_borrow<py::sequence>(source)) {
    const auto place = path + "[" + std::to_string(into.size()) + "]";
    read(place, element, into.emplace_back());
  }
}

template <HasFields Record>
void read(const std::string& path, py::handle source, Record& into) {
  if (!py::isinstance<py::dict>(source)) {
    reject(path.empty() ? "target" : path, "must be a dict of fields", source, "Pass a dict.");
  }
  const auto dict = py::reinterpret_borrow<py::dict>(source);
  py::set known;
  target::for_each_field(into, [&](const char* name, auto& field) {
    known.add(py::str(name));
    if (!dict.contains(name)) {
      reject(join(path, name), "must be given", {}, "Add '" + std::string(name) + "'.");
    }
    read(join(path, name), dict[name], field);
  });
  for (const auto& [key, value] : dict) {
    if (!known.contains(key)) {
      reject(join(path, py::str(key).cast<std::string>()), "must be a field of the record", value, "Remove it.");
    }
  }
}

// ---- C++ to Python

template <class Value>
py::object write(const Value& value) {
  if constexpr (HasFields<Value>) {
    py::dict dict;
    target::for_each_field(value, [&](const char* name, const auto& field) { dict[name] = write(field); });
    return dict;
  } else if constexpr (requires { typename Value::value_type; } && !std::is_same_v<Value, std::string>) {
    py::list list;
    for (const auto& element : value) {
      list.append(write(element));
    }
    return list;
  } else {
    return py::cast(value);
  }
}

template <HasFields Record>
auto bind_record(py::module_& module, const char* name) {
  auto type = py::class_<Record, std::shared_ptr<Record>>(module, name);
  std::apply([&](const auto&... field) { (type.def_readonly(field.name, field.member), ...); },
             target::Fields<Record>::all);
  type.def("to_dict", [](const Record& record) { return write(record); }, "The fields as plain Python values.");
  type.def("__repr__", [name](const Record& record) {
    return std::string(name) + "(" + py::repr(write(record)).template cast<std::string>() + ")";
  });
  type.def("__eq__", [](const Record& a, const Record& b) { return write(a).equal(write(b)); }, py::is_operator());
  type.attr("__hash__") = py::none();
  return type;
}

}  // namespace

target::Target target_from_dict(const py::dict& dict) {
  target::Target record;
  read("", dict, record);
  return record;
}

py::dict target_to_dict(const target::Target& target) {
  return write(target);
}

void bind_target(py::module_& module) {
  bind_record<target::Core>(module, "Core");
  bind_record<target::Device>(module, "Device");
  bind_record<target::Link>(module, "Link");
  bind_record<target::Chip>(module, "Chip");
  bind_record<target::Collectives>(module, "Collectives");
  bind_record<target::Instance>(module, "Instance");
  bind_record<target::Target>(module, "Target")
      .def(py::init(&target_from_dict), py::arg("fields"),
           "A target from the plain values of torch_trn.target_files.load.")
      .def(py::pickle(&target_to_dict, &target_from_dict));
}

}  // namespace trn::bindings
