// Chooses the blocks of a matrix product: one pass where all fits, else the fastest of the plans that fit.
#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "kernels/matmul_emitter.h"
#include "kernels/tiling.h"
#include "program/count.h"
#include "target/error.h"

namespace trn::kernels {
namespace {

using tiling::ceil_div;
using tiling::round_up;

// Block sizes of an extent: all of it, then halves, in whole tiles.
std::vector<std::int64_t> block_sizes(std::int64_t extent, std::int64_t tile) {
  std::vector<std::int64_t> sizes{extent};
  for (std::int64_t num = 2; sizes.back() > tile; num *= 2) {
    const std::int64_t size = round_up(ceil_div(extent, num), tile);
    if (size < sizes.back()) {
      sizes.push_back(size);
    }
  }
  return sizes;
}

MatmulPlan plan_of(const MatmulShape& shape, bool m_outer, std::int64_t m_block, std::int64_t n_block,
                   std::int64_t k_block) {
  MatmulPlan plan{.m_outer = m_outer, .m_block = m_block, .n_block = n_block, .k_block = k_block};
  plan.num_m_blocks = ceil_div(shape.m, m_block);
  plan.num_n_blocks = ceil_div(shape.n, n_block);
  const bool k_resident = k_block >= shape.k;
  plan.a_reads = k_resident && m_outer ? 1 : plan.num_n_blocks;
  plan.b_reads = k_resident && !m_outer ? 1 : plan.num_m_blocks;
  return plan;
}

// Of a stack of products: short rows of K and of the result several to a lane, several products in a step. A single
// product gains nothing: its latencies grow with the number of its instructions.
std::vector<MatmulPlan> plans_of_short_rows(const target::Target& target, const MatmulShape& shape) {
  constexpr std::int64_t kFewestLanes = 8, kMostTiles = 8, kMostBatches = 16;
  // Two steps for each core, so that loads hide behind steps.
  const std::int64_t most_batches = std::min(shape.batch / (2 * target.device.num_cores), kMostBatches);
  const bool has_bias_of_columns = shape.bias.size() == 3 && shape.bias[1] == 1;
  if (shape.batch == 1 || is_complex(shape.a_dtype) || is_complex(shape.b_dtype)) {
    return {};
  }
  const bool has_stacks = shape.a_batch == shape.batch && shape.b_batch == shape.batch && !has_bias_of_columns;
  const auto tiles = [&](std::int64_t extent, bool has_short_rows) {
    std::vector<std::int64_t> numbers{1};
    while (has_short_rows && 2 * numbers.back() <= kMostTiles && extent >= 2 * numbers.back() * kFewestLanes) {
      numbers.push_back(2 * numbers.back());
    }
    return numbers;
  };
  const auto is_short = [&](std::int64_t elements, Dtype dtype) {
    return elements * target::itemsize(dtype) < target.core.dma_saturating_bytes;
  };
  const bool short_k_rows =
      (shape.a_k_major && is_short(shape.m, shape.a_dtype)) || (shape.b_k_major && is_short(shape.n, shape.b_dtype));
  const std::vector<std::int64_t> all_m_tiles = tiles(shape.m, is_short(shape.n, shape.out_dtype)),
                                  all_k_tiles = tiles(shape.k, short_k_rows);
  MatmulPlan plan = plan_of(shape, true, shape.m, shape.n, shape.k);
  std::vector<MatmulPlan> plans;
  for (plan.batches = 1; plan.batches == 1 || (has_stacks && plan.batches <= most_batches); plan.batches *= 4) {
    for (const std::int64_t m_tiles : all_m_tiles) {
      for (const std::int64_t k_tiles : all_k_tiles) {
        plan.m_tiles = m_tiles;
        plan.k_tiles = k_tiles;
        if (plan.batches * m_tiles * k_tiles > 1) {  // else: the whole plan itself
          plans.push_back(plan);
        }
      }
    }
  }
  return plans;
}

std::int64_t sbuf_bytes(const program::Program& program) {
  std::int64_t bytes = 0;
  for (const auto& buffer : program.buffers) {
    if (buffer.memory == program::Memory::sbuf) {
      bytes += buffer.copies * buffer.elements_per_partition * target::itemsize(buffer.dtype);
    }
  }
  return bytes;
}

struct Candidate {
  MatmulPlan plan;
  double seconds = 0;
  std::int64_t bytes = 0;
  double busy_seconds = 0;  // of all engines
};

class Search {
 public:
  Search(const target::Target& target, const MatmulShape& shape, Dtype auto_cast)
      : target_(target), shape_(shape), auto_cast_(auto_cast) {}

  bool fits(const MatmulPlan& plan) const {
    return sbuf_bytes(MatmulEmitter(target_, shape_, plan, auto_cast_).declare_only()) <=
           target_.core.sbuf_bytes_per_partition;
  }

  void try_plan(const MatmulPlan& plan) {
    const program::Program program = MatmulEmitter(target_, shape_, plan, auto_cast_).emit();
    const program::Counts counts = program::count(program, target_.core);
    const program::Duration duration = program::duration(program, target_);
    const double busy = std::accumulate(duration.busy_seconds.begin(), duration.busy_seconds.end(), 0.0);
    candidates_.push_back({plan, duration.seconds, counts.hbm_read_bytes + counts.hbm_write_bytes, busy});
  }

  bool empty() const { return candidates_.empty(); }

  // Of those within 2% of the fastest, the one with the least traffic, then with the least work.
  MatmulPlan best() const {
    double fastest = std::numeric_limits<double>::infinity();
    for (const Candidate& candidate : candidates_) {
      fastest = std::min(fastest, candidate.seconds);
    }
    const Candidate* best = nullptr;
    for (const Candidate& candidate : candidates_) {
      if (candidate.seconds <= 1.02 * fastest &&
          (best == nullptr || candidate.bytes < best->bytes ||
           (candidate.bytes == best->bytes && candidate.busy_seconds < best->busy_seconds))) {
        best = &candidate;
      }
    }
    return best->plan;
  }

 private:
  const target::Target& target_;
  const MatmulShape& shape_;
  const Dtype auto_cast_;
  std::vector<Candidate> candidates_;
};

}  // namespace

MatmulPlan matmul_plan(const target::Target& target, const MatmulShape& shape, Dtype auto_cast) {
  const std::int64_t partitions = target.core.num_partitions;
  Search search(target, shape, auto_cast);
  for (const bool m_outer : {true, false}) {
    const MatmulPlan whole = plan_of(shape, m_outer, shape.m, shape.n, shape.k);
    if (search.fits(whole)) {
      search.try_plan(whole);
    }
  }
  if (!search.empty()) {
    for (const MatmulPlan& plan : plans_of_short_rows(target, shape)) {
      if (search.fits(plan)) {
        search.try_plan(plan);
      }
    }
    return search.best();
  }
  std::set<std::int64_t> k_blocks{shape.k};
  for (std::int64_t tiles = 1; tiles <= 32; tiles *= 2) {
    if (tiles * partitions < shape.k) {
      k_blocks.insert(tiles * partitions);
    }
  }
  for (const bool m_outer : {true, false}) {
    for (const std::int64_t k_block : k_blocks) {
      for (const std::int64_t n_block : block_sizes(shape.n, target.core.moving_free_max_elements)) {
        // The largest block of rows that fits, and its half: the cores may share the work better.
        int num_fitting = 0;
        for (const std::int64_t m_block : block_sizes(shape.m, target.core.stationary_free_max_elements)) {
          const MatmulPlan plan = plan_of(shape, m_outer, m_block, n_block, k_block);
          if (num_fitting < 2 && search.fits(plan)) {
            search.try_plan(plan);
            ++num_fitting;
          }
        }
      }
    }
  }
  if (search.empty()) {
    throw Error(Category::hardware_constraint,
                "[matmul] one block of each operand must fit in SBUF; got limit " +
                    std::to_string(target.core.sbuf_bytes_per_partition) +
                    " bytes per partition. Give the target a larger sbuf_bytes_per_partition.");
  }
  return search.best();
}

}  // namespace trn::kernels
