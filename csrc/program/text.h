// A program as text: buffers, nests, loops, and instructions with the shapes of their tiles.
#pragma once

#include <string>

#include "program/program.h"

namespace trn::program {

// One line per buffer, loop and instruction. For people: nothing parses it.
std::string text(const Program& program);

}  // namespace trn::program
