#include "bindings/dry_run.h"

#include <torch/csrc/utils/pybind.h>

#include <memory>
#include <string>

#include "aten/values.h"

namespace py = pybind11;

namespace trn::bindings {

void bind_dry_run(py::module_& module) {
  module.def("dry_run", &aten::dry_run);
  module.def("set_dry_run", &aten::set_dry_run);
  module.def("set_most_held_bytes", &aten::set_most_held_bytes);
  module.def("lose_values", &aten::lose_values);
  module.def("holds_values", &aten::holds_values);
  module.def("set_value_source", [](py::function source) {
    // Kept for good: the interpreter may be gone when statics are destroyed.
    const auto* kept = new py::function(std::move(source));
    aten::set_value_source([kept](const std::string& op, const at::Tensor& tensor) {
      const py::gil_scoped_acquire gil;
      return (*kept)(op, tensor).cast<at::Tensor>();
    });
  });
}

}  // namespace trn::bindings
