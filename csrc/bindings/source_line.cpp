#include "bindings/source_line.h"

#include <unistd.h>

#include <unordered_map>

#include "aten/system.h"

namespace trn::bindings {

namespace {

std::vector<std::string> library_folders;

// Per code object, found once: is it the user's, and the ids of its lines. The code objects are kept alive, so that an
// address never comes back as another function's. Guarded by the GIL.
struct Code {
  bool is_users = false;
  std::string file;
  std::unordered_map<int, std::uint32_t> lines;  // by instruction
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
    it->second.is_users = !file.starts_with("<frozen");
    for (const auto& folder : library_folders) {
      it->second.is_users = it->second.is_users && !file.starts_with(folder);
    }
    it->second.file = shown(file);
  }
  return it->second;
}

std::uint32_t line_of(PyFrameObject* frame) {
  while (frame) {
    PyCodeObject* code = PyFrame_GetCode(frame);
    Code& known = code_of(code);
    Py_DECREF(code);
    if (known.is_users) {
      auto [it, inserted] = known.lines.try_emplace(PyFrame_GetLasti(frame), 0);
      if (inserted) {
        const std::string line = std::to_string(PyFrame_GetLineNumber(frame));
        it->second = aten::system().recorder().intern_line(known.file + ":" + line);
      }
      Py_DECREF(frame);
      return it->second;
    }
    PyFrameObject* back = PyFrame_GetBack(frame);
    Py_DECREF(frame);
    frame = back;
  }
  return 0;
}

}  // namespace

void set_library_folders(std::vector<std::string> folders) {
  library_folders = std::move(folders);
  codes().clear();
}

std::uint32_t source_line() {
  if (!Py_IsInitialized() || !PyGILState_GetThisThreadState()) {
    return 0;  // a thread that Python does not know runs no line of the user's
  }
  const PyGILState_STATE state = PyGILState_Ensure();
  const std::uint32_t line = line_of(PyThreadState_GetFrame(PyThreadState_Get()));
  PyGILState_Release(state);
  return line;
}

}  // namespace trn::bindings
