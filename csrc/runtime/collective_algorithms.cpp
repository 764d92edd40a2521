#include "runtime/collective_algorithms.h"

namespace trn::runtime {

namespace {

// Reads and writes of HBM per byte sent. The document gives a ring's and KangaRing's; the others are taken as a ring's.
double hbm_touches(Algorithm algorithm, Half half) {
  const bool is_kangaring = algorithm == Algorithm::kangaring;
  return half == Half::gather ? (is_kangaring ? 3 : 4) : (is_kangaring ? 4 : 6);
}

}  // namespace

const char* name(Algorithm algorithm) {
  static constexpr const char* kNames[] = {"none", "mesh",  "single-step mesh", "rdh", "kangaring", "ring",
                                           "tree", "direct"};
  return kNames[static_cast<int>(algorithm)];
}

std::vector<Stage> stages(Algorithm algorithm, Half half, std::int64_t num_members, double chunk_bytes) {
  const double touches = hbm_touches(algorithm, half);
  const std::int64_t others = num_members - 1;
  std::vector<Stage> out;
  switch (algorithm) {
    case Algorithm::mesh:
      out.push_back({Pattern::all_pairs, 1, chunk_bytes, 1, touches});
      break;
    case Algorithm::rdh:
      for (std::int64_t mask = 1; mask < num_members; mask *= 2) {
        out.push_back({Pattern::exchange, 1, static_cast<double>(mask) * chunk_bytes, mask, touches});
      }
      break;
    case Algorithm::kangaring: {
      // Documented: n / 2 steps, and the bytes of a ring. Taken as a ring in both directions at once.
      const std::int64_t both_ways = others / 2;
      if (both_ways) {
        out.push_back({Pattern::both, both_ways, static_cast<double>(both_ways) * chunk_bytes, 1, touches});
      }
      if (others % 2) {
        out.push_back({Pattern::next, 1, chunk_bytes, 1, touches});
      }
      break;
    }
    case Algorithm::ring:
      out.push_back({Pattern::next, others, static_cast<double>(others) * chunk_bytes, 1, touches});
      break;
    default:
      break;
  }
  return out;
}

double sent_bytes(const Stage& stage, std::int64_t num_members) {
  switch (stage.pattern) {
    case Pattern::all_pairs:
      return stage.bytes * static_cast<double>(num_members - 1);
    case Pattern::both:
      return 2 * stage.bytes;
    default:
      return stage.bytes;
  }
}

}  // namespace trn::runtime
