// Elements of one dtype moved as they are, between any two layouts.
#pragma once

#include "emu/view.h"

namespace trn::emu {

// Both hold as many elements, of one size; order is kept, bits too.
void transfer(const View& dst, const View& src);

}  // namespace trn::emu
