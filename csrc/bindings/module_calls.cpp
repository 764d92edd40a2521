#include "bindings/module_calls.h"

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <unordered_map>
#include <vector>

#include "aten/site.h"
#include "aten/system.h"
#include "bindings/profile.h"

namespace py = pybind11;

namespace trn::bindings {

namespace {

using runtime::Phase;

// Module -> index of its path. Python forgets a module when it dies. Guarded by the GIL.
std::unordered_map<const PyObject*, std::uint32_t> known_modules;
// Of this thread, outermost first; their calls keep them alive.
thread_local std::vector<PyObject*> running_modules;

bool enter(PyObject* module) {
  const auto known = known_modules.find(module);
  if (known == known_modules.end()) {
    return false;
  }
  running_modules.push_back(module);
  aten::push_module(known->second);
  return true;
}

// enter_module(module) -> bool: False is for Python to look into: an unknown module, or a model called inside a step.
PyObject* enter_module(PyObject*, PyObject* module) {
  const bool in_step = running_modules.empty() && aten::is_phase_set();
  return PyBool_FromLong(!in_step && enter(module));
}

// enter_known_module(module) -> bool: wherever it is called.
PyObject* enter_known_module(PyObject*, PyObject* module) {
  return PyBool_FromLong(enter(module));
}

PyObject* leave_module(PyObject*, PyObject*) {
  if (!running_modules.empty()) {
    running_modules.pop_back();
    aten::pop_module();
  }
  Py_RETURN_NONE;
}

// begin_step(param_groups, num_parameters, parameters) -> bool: False when the groups hold another number of
// parameters. Tags the gradients of `parameters`.
PyObject* begin_step(PyObject*, PyObject* const* args, Py_ssize_t num_args) {
  if (num_args != 3 || !PyList_Check(args[0]) || !PyList_Check(args[2])) {
    PyErr_SetString(PyExc_TypeError, "[begin_step] takes param_groups, their number of parameters and a list.");
    return nullptr;
  }
  Py_ssize_t num_parameters = 0;
  for (Py_ssize_t g = 0; g < PyList_GET_SIZE(args[0]); ++g) {
    PyObject* group = PyList_GET_ITEM(args[0], g);
    PyObject* parameters = PyDict_Check(group) ? PyDict_GetItemString(group, "params") : nullptr;
    num_parameters += parameters && PyList_Check(parameters) ? PyList_GET_SIZE(parameters) : 0;
  }
  if (num_parameters != PyLong_AsSsize_t(args[1])) {
    PyErr_Clear();
    Py_RETURN_FALSE;
  }
  aten::set_phase(Phase::optimizer);
  for (Py_ssize_t p = 0; p < PyList_GET_SIZE(args[2]); ++p) {
    PyObject* parameter = PyList_GET_ITEM(args[2], p);
    if (THPVariable_Check(parameter)) {
      tag(THPVariable_Unpack(parameter).grad(), runtime::MemoryCategory::gradients);
    }
  }
  Py_RETURN_TRUE;
}

PyObject* end_step(PyObject*, PyObject*) {
  aten::set_phase(std::nullopt);
  aten::system().recorder().step(aten::current_device());
  Py_RETURN_NONE;
}

template <class Function>
PyCFunction as_c_function(Function function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"profiler_enter_module", &enter_module, METH_O, nullptr},
    {"profiler_enter_known_module", &enter_known_module, METH_O, nullptr},
    {"profiler_leave_module", &leave_module, METH_NOARGS, nullptr},
    {"profiler_begin_step", as_c_function(&begin_step), METH_FASTCALL, nullptr},
    {"profiler_end_step", &end_step, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void bind_module_calls(py::module_& module) {
  if (PyModule_AddFunctions(module.ptr(), methods) != 0) {
    throw py::error_already_set();
  }
  module.def("profiler_intern_module",
             [](const std::string& path) { return aten::system().recorder().intern_module(path); });
  module.def("profiler_know_module", [](std::uintptr_t id, std::uint32_t index) {
    known_modules[reinterpret_cast<const PyObject*>(id)] = index;
  });
  module.def("profiler_forget_module",
             [](std::uintptr_t id) { known_modules.erase(reinterpret_cast<const PyObject*>(id)); });
  module.def("profiler_forget_modules", [] { known_modules.clear(); });
  module.def("profiler_running_modules", [] {
    py::list modules;
    for (PyObject* one : running_modules) {
      modules.append(py::reinterpret_borrow<py::object>(one));
    }
    return modules;
  });
}

}  // namespace trn::bindings
