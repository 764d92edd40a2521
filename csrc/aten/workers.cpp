#include "aten/workers.h"

#include <ATen/Parallel.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

namespace trn::aten {

namespace {

std::atomic<bool> strict_reads{false};

struct Pool {
  std::mutex mutex;
  std::shared_ptr<const target::Target> target;  // kept, so that another never has its address
  emu::Numerics numerics;
  std::vector<std::unique_ptr<emu::NeuronCore>> cores;
  program::Workers workers;
};

Pool& pool() {
  static auto* instance = new Pool();  // leaked: threads may outlive static destruction
  return *instance;
}

}  // namespace

void with_workers(const std::shared_ptr<const target::Target>& target, const emu::Numerics& numerics,
                  const std::function<void(const program::Workers&)>& body) {
  Pool& shared = pool();
  std::lock_guard lock(shared.mutex);
  if (shared.target != target || !(shared.numerics == numerics)) {
    shared.cores.clear();
    shared.workers.cores.clear();
    shared.target = target;
    shared.numerics = numerics;
    shared.workers.launch = 0;
  }
  const auto num_threads = static_cast<std::size_t>(at::get_num_threads());
  while (shared.cores.size() < num_threads) {
    shared.cores.push_back(
        std::make_unique<emu::NeuronCore>(target->core, numerics.seed, emu::plain_tile_gemm, numerics));
    // Programs of ours write what they read: tests run them with poisoned memories.
    shared.cores.back()->set_checks(false, false);
  }
  shared.workers.cores.clear();
  const bool raises = raises_uninitialized();
  for (std::size_t t = 0; t < num_threads; ++t) {
    shared.cores[t]->dma.set_checks(raises);
    shared.workers.cores.push_back(shared.cores[t].get());
  }
  shared.workers.run = [](std::int64_t n, const std::function<void(std::int64_t)>& worker) {
    at::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t w = begin; w < end; ++w) {
        worker(w);
      }
    });
  };
  ++shared.workers.launch;
  body(shared.workers);
}

void set_raises_uninitialized(bool raises) {
  strict_reads = raises;
}

bool raises_uninitialized() {
  return strict_reads.load(std::memory_order_relaxed);
}

void restart_launches() {
  Pool& shared = pool();
  std::lock_guard lock(shared.mutex);
  shared.workers.launch = 0;
}

}  // namespace trn::aten
