// Tiles that the two cores of a logical one send each other.
#pragma once

#include "emu/dma.h"
#include "emu/view.h"
#include "target/isa.h"

namespace trn::emu {

struct Side {
  Dma& dma;
  View src, dst;
};

// Each side's dst becomes the other's src, or its own where nothing crosses; with an operation, what that makes of both
// sources in fp32. All tiles have one shape. Sources are read before anything is written.
void exchange(const Side& a, const Side& b, bool crosses, target::Alu reduce_op = target::Alu::none);

}  // namespace trn::emu
