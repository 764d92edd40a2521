#include "bindings/source_line.h"

#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "aten/system.h"

namespace py = pybind11;

namespace trn::bindings {

namespace {

std::vector<std::string> library_folders;
constexpr std::string_view kGraphs = "<eval_with_key>";  // torch.fx's name for the files of its code

py::object& graph_source() {
  static auto* instance = new py::object();
  return *instance;
}

// Per code object, found once: whose it is, and the places of its lines. The code objects are kept alive, so that an
// address never comes back as another function's. Guarded by the GIL.
struct Code {
  enum class Kind : std::uint8_t { library, user, graph };
  Kind kind = Kind::library;
  std::string file;
  std::unordered_map<int, aten::Place> places;  // by instruction
};
std::unordered_map<PyCodeObject*, Code>& codes() {
  static auto* instance = new std::unordered_map<PyCodeObject*, Code>();
  return *instance;
}

std::string shown(const std::string& file) {
  char cwd[4096];
  if (getcwd(cwd, sizeof cwd)) {
    const std::string prefix = std::string(cwd) + "/";
    if (file.starts_with(prefix)) {
      return file.substr(prefix.size());
    }
  }
  return file;
}

Code& code_of(PyCodeObject* code) {
  auto [it, inserted] = codes().try_emplace(code);
  if (inserted) {
    Py_INCREF(code);
    const char* name = PyUnicode_AsUTF8(code->co_filename);
    if (!name) {
      PyErr_Clear();
      return it->second;
    }
    const std::string file(name);
    const bool is_library =
        file.starts_with("<frozen") ||
        std::ranges::any_of(library_folders, [&](const auto& folder) { return file.starts_with(folder); });
    it->second.kind = is_library                  ? Code::Kind::library
                      : file.starts_with(kGraphs) ? Code::Kind::graph
                                                  : Code::Kind::user;
    it->second.file = shown(file);
  }
  return it->second;
}

std::uint32_t line_index(const std::string& file, int line) {
  return aten::system().recorder().intern_line(file + ":" + std::to_string(line));
}

// What torch.fx keeps of the calls in a graph: none of the line that called it.
aten::Place place_in_graph(PyFrameObject* frame) {
  aten::Place place;
  if (!graph_source()) {
    return place;
  }
  try {
    const py::object found = graph_source()(py::handle(reinterpret_cast<PyObject*>(frame)));
    if (!found.is_none()) {
      const auto [module, file, line] =
          found.cast<std::tuple<std::optional<std::uint32_t>, std::optional<std::string>, int>>();
      place = {file ? line_index(shown(*file), line) : 0, file || module, module};
    }
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("the place of a compiled graph's call");
  }
  return place;
}

aten::Place place_of(PyFrameObject* frame) {
  aten::Place of_graph;  // a call that its graph knows the module of, but no line of the user's: the caller's is taken
  while (frame) {
    PyCodeObject* code = PyFrame_GetCode(frame);
    Code& known = code_of(code);
    Py_DECREF(code);
    if (known.kind != Code::Kind::library) {
      const int instruction = PyFrame_GetLasti(frame);
      auto found = known.places.find(instruction);
      if (found == known.places.end()) {
        const aten::Place place = known.kind == Code::Kind::graph
                                      ? place_in_graph(frame)
                                      : aten::Place{.line = line_index(known.file, PyFrame_GetLineNumber(frame))};
        found = known.places.emplace(instruction, place).first;
      }
      aten::Place place = found->second;
      const bool is_half = place.in_graph && place.line == 0;
      if (known.kind == Code::Kind::user || (place.in_graph && !is_half)) {
        Py_DECREF(frame);
        if (of_graph.in_graph) {
          place = {.line = place.line, .in_graph = true, .module = of_graph.module, .is_callers = true};
        }
        return place;
      }
      if (is_half && !of_graph.in_graph) {
        of_graph = place;
      }
    }
    PyFrameObject* back = PyFrame_GetBack(frame);
    Py_DECREF(frame);
    frame = back;
  }
  return of_graph;
}

}  // namespace

void set_library_folders(std::vector<std::string> folders) {
  library_folders = std::move(folders);
  codes().clear();
}

void set_graph_source(py::object place_of_frame) {
  graph_source() = std::move(place_of_frame);
}

void forget_graphs() {
  for (auto& [_, code] : codes()) {
    if (code.kind == Code::Kind::graph) {
      code.places.clear();
    }
  }
}

aten::Place source_place() {
  if (!Py_IsInitialized() || !PyGILState_GetThisThreadState()) {
    return {};  // a thread that Python does not know runs no line of the user's
  }
  const PyGILState_STATE state = PyGILState_Ensure();
  const aten::Place place = place_of(PyThreadState_GetFrame(PyThreadState_Get()));
  PyGILState_Release(state);
  return place;
}

}  // namespace trn::bindings
