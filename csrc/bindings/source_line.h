// The user's line of Python that the running thread is at, and the module where a compiled graph runs.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "aten/site.h"

namespace trn::bindings {

// Frames of files below these folders are not the user's: torch, torch_trn, the standard library.
void set_library_folders(std::vector<std::string> folders);
// Of a graph's frame: None, or its module as an index of the recorder's modules or None, file and line. A graph's code
// is torch.fx's, and so are the names of its files.
void set_graph_source(pybind11::object place_of_frame);
// Before a recording: modules may have got other names since the last one.
void forget_graphs();
// Of the innermost frame that is the user's or a graph's; "file.py:12" is an index of the recorder's lines.
aten::Place source_place();

}  // namespace trn::bindings
