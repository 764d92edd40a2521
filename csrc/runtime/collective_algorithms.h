// The documented algorithms of collectives as stages: who sends how much to whom, in how many steps.
// Source: SDK neuron-runtime/explore/intranode-collective-comm.rst, internode-collective-comm.rst.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace trn::runtime {

enum class Algorithm : std::uint8_t { none, mesh, single_step_mesh, rdh, kangaring, ring, tree, direct };
const char* name(Algorithm algorithm);

// Who sends to whom, by position in an order of n members.
enum class Pattern : std::uint8_t {
  all_pairs,  // everyone to everyone else
  next,       // i to i + 1, round
  both,       // i to i + 1 and to i - 1, round
  exchange,   // i to i xor mask
  chain,      // i to i + 1, from the first member to the last
  fan_out,    // the first member to the others
  doubling    // i to i + mask, for i below mask
};

// `steps` hops one after the other, in which each flow of the pattern carries `bytes` in all.
struct Stage {
  Pattern pattern = Pattern::all_pairs;
  std::int64_t steps = 1;
  double bytes = 0;
  std::int64_t mask = 1;
  // Reads and writes of HBM per byte that a member sends.
  double hbm_touches = 2;
};

// visit(to) for each member that `from` sends to.
template <class Visit>
void for_each_peer(const Stage& stage, std::int64_t from, std::int64_t num_members, Visit&& visit) {
  const std::int64_t n = num_members;
  switch (stage.pattern) {
    case Pattern::all_pairs:
      for (std::int64_t to = 0; to < n; ++to) {
        if (to != from) {
          visit(to);
        }
      }
      break;
    case Pattern::next:
      visit((from + 1) % n);
      break;
    case Pattern::both:
      visit((from + 1) % n);
      visit((from + n - 1) % n);
      break;
    case Pattern::exchange:
      visit(from ^ stage.mask);
      break;
    case Pattern::chain:
      if (from + 1 < n) {
        visit(from + 1);
      }
      break;
    case Pattern::fan_out:
      for (std::int64_t to = 1; from == 0 && to < n; ++to) {
        visit(to);
      }
      break;
    case Pattern::doubling:
      if (from < stage.mask && from + stage.mask < n) {
        visit(from + stage.mask);
      }
      break;
  }
}

// Of n members, so many from the first on are all that sends or receives.
inline std::int64_t num_taking_part(const Stage& stage, std::int64_t n) {
  return stage.pattern == Pattern::doubling ? std::min(n, 2 * stage.mask) : n;
}

// The half of an all_reduce, or the whole of an all_gather or reduce_scatter, of n chunks: every member sends n - 1.
enum class Half : std::uint8_t { gather, scatter };
std::vector<Stage> stages(Algorithm algorithm, Half half, std::int64_t num_members, double chunk_bytes);

// What an algorithm sends from one member, where all send alike.
double sent_bytes(const Stage& stage, std::int64_t num_members);

}  // namespace trn::runtime
