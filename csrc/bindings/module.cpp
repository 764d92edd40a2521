// The extension module `torch_trn._C`.
#include <c10/util/Exception.h>
#include <pybind11/pybind11.h>

#include "bindings/collectives.h"
#include "bindings/device.h"
#include "bindings/distributed.h"
#include "bindings/dry_run.h"
#include "bindings/emu.h"
#include "bindings/kernels.h"
#include "bindings/local_ranks.h"
#include "bindings/memory.h"
#include "bindings/module_calls.h"
#include "bindings/numerics.h"
#include "bindings/profile.h"
#include "bindings/target.h"
#include "target/error.h"

namespace py = pybind11;

namespace {

PyObject* python_type(trn::Category category) {
  switch (category) {
    case trn::Category::invalid_argument:
      return PyExc_ValueError;
    case trn::Category::out_of_memory:
      return PyExc_MemoryError;
    case trn::Category::unimplemented:
    case trn::Category::unsupported:
      return PyExc_NotImplementedError;
    default:
      return PyExc_RuntimeError;
  }
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  // For this module's functions only: torch's own keep torch's types.
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) {
        std::rethrow_exception(pointer);
      }
    } catch (const trn::Error& error) {
      PyErr_SetString(python_type(error.category()), error.what());
    } catch (const c10::OutOfMemoryError& error) {
      PyErr_SetString(py::module_::import("torch").attr("OutOfMemoryError").ptr(), error.what_without_backtrace());
    } catch (const c10::ValueError& error) {
      PyErr_SetString(PyExc_ValueError, error.what_without_backtrace());
    } catch (const c10::Error& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what_without_backtrace());
    }
  });
  trn::bindings::bind_target(module);
  trn::bindings::bind_kernels(module);
  trn::bindings::bind_program(module);
  trn::bindings::bind_numerics(module);
  trn::bindings::bind_device(module);
  trn::bindings::bind_dry_run(module);
  trn::bindings::bind_memory(module);
  trn::bindings::bind_profile(module);
  trn::bindings::bind_module_calls(module);
  trn::bindings::bind_collectives(module);
  trn::bindings::bind_distributed(module);
  trn::bindings::bind_local_ranks(module);
}
