// The host threads that execute programs: torch's own, each with an emulated NeuronCore.
#pragma once

#include <functional>
#include <memory>

#include "emu/numerics.h"
#include "program/execute.h"
#include "target/target.h"

namespace trn::aten {

// Calls body(workers) with cores of the target and numerics; one call at a time, as the cores are shared.
void with_workers(const std::shared_ptr<const target::Target>& target, const emu::Numerics& numerics,
                  const std::function<void(const program::Workers&)>& body);

// Strict mode: a program that reads device memory which nothing wrote raises. Whole numbers aside: any is a value.
void set_raises_uninitialized(bool raises);
bool raises_uninitialized();

// Random bits of stochastic rounding begin anew.
void restart_launches();

}  // namespace trn::aten
