// Elements of one dtype moved as they are, between any two layouts.
#pragma once

#include "emu/view.h"

namespace trn::emu {

// Both hold as many elements, of one size; order is kept, bits too.
void transfer(const View& dst, const View& src);

// A [P, F] tile seen as [F, P]: its columns as partitions.
View transposed_view(const View& view);

}  // namespace trn::emu
