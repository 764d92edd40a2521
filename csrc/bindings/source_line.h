// The user's line of Python that the running thread is at.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

namespace trn::bindings {

// Frames of files below these folders are not the user's: torch, torch_trn, the standard library.
void set_library_folders(std::vector<std::string> folders);
// Index of "file.py:12" in the recorder's lines, of the innermost frame that is the user's; 0 when there is none.
std::uint32_t source_line();

}  // namespace trn::bindings
