// The record that a target file fills: one chip's cores, memory, links and instances, as frozen data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace trn::target {

// One physical NeuronCore. Field names are the keys of the file's [core] table.
struct Core {
  std::string generation;  // "NeuronCore-v3"
  double tensor_clock_hz = 0;
  double vector_clock_hz = 0;
  double scalar_clock_hz = 0;
  double gpsimd_clock_hz = 0;
  std::int64_t num_partitions = 0;
  std::int64_t sbuf_bytes_per_partition = 0;
  std::int64_t psum_bytes_per_partition = 0;
  std::int64_t psum_num_banks = 0;
  std::int64_t stationary_free_max_elements = 0;
  std::int64_t moving_free_max_elements = 0;
  // TensorE passes over a tile, relative to bf16: 4 for fp32, 1 for bf16, 0.5 for double-rate FP8.
  double fp32_passes = 0;
  double bf16_passes = 0;
  double fp8_passes = 0;
  double mx_passes = 0;  // block-scaled MXFP8 and MXFP4; 0: the core has none
  // Cycle rules (NKI ISA, 2.26): a 64-cycle minimum per instruction and fixed GpSimd start-up.
  std::int64_t min_instruction_cycles = 0;
  std::int64_t gpsimd_fixed_cycles = 0;
  std::int64_t access_overhead_cycles = 0;
  std::int64_t vector_result_cycles = 0;
  std::int64_t scalar_result_cycles = 0;
  // Highest documented performance mode: 4 on v3 and v4 (copy and scalar forms in bf16), 1 on v2.
  std::int64_t vector_copy_bf16_speedup = 1;
  std::int64_t vector_tensor_tensor_bf16_speedup = 1;
  std::int64_t scalar_bf16_speedup = 1;
  // DMA: engines of this core and what they reach together.
  std::int64_t dma_num_engines = 0;
  double dma_bytes_per_second = 0;        // effective, all engines of the core
  double dma_fixed_seconds = 0;           // start of one transfer
  std::int64_t dma_saturating_bytes = 0;  // contiguous bytes per descriptor from which the rate holds
  // What a transposing transfer reaches of another one's rate, from HBM and from SBUF.
  double dma_transpose_efficiency = 1;
  double dma_transpose_on_chip_efficiency = 1;
  double gpsimd_dma_bytes_per_second = 0;  // GpSimdE's own DMA, one direction; 0: it has none
};

// What PyTorch sees as one device `trn:i`: a logical core of `num_cores` physical cores on one HBM share.
struct Device {
  std::int64_t num_cores = 1;
  std::int64_t hbm_bytes = 0;
  double hbm_bytes_per_second = 0;        // the device's share of the chip
  double peak_bf16_flops_per_second = 0;  // documented, the denominator of MFU
  double peak_fp32_flops_per_second = 0;
  double peak_fp8_flops_per_second = 0;
  double host_bytes_per_second = 0;  // host <-> device
  // Calibrated against measurements (docs/targets.md); each has its source in the file.
  double tensor_efficiency = 1;               // of the clock's peak, reached by the best large matmul
  double hbm_efficiency = 1;                  // of hbm_bytes_per_second, reached by the best streaming kernel
  double eager_dispatch_seconds = 0;          // host time between two launches
  double graph_launch_seconds = 0;            // one compiled graph
  double host_sync_seconds = 0;               // a read of the device's value by the host
  double gather_int64_seconds_per_index = 0;  // least time of one row gathered or scattered by int64
};

struct Link {
  std::string name;             // "on_chip", "neuronlink", "neuronlink_z", "efa"
  std::string topology;         // "torus_2d", "all_to_all", "ring", "network"
  std::int64_t num_chips = 0;   // that one such network joins; on_chip: 1; network: 0, any number
  double bytes_per_second = 0;  // of one chip, all its links of this kind; on_chip: of one device
  double latency_seconds = 0;   // of one hop
};

// What a collective takes on its devices, whatever lies between them.
struct Collectives {
  double start_seconds = 0;                    // before the first hop
  double all_reduce_bytes_per_second = 0;      // bus bandwidth of one device; of all that only copies: on_chip's
  double reduce_scatter_bytes_per_second = 0;  // likewise; also of a reduce
  std::int64_t mesh_max_bytes = 0;             // up to here every rank talks to every other
  std::int64_t rdh_max_bytes = 0;              // up to here recursive doubling and halving, then rings
};

struct Chip {
  std::string name;
  std::int64_t num_devices = 0;  // logical cores visible to PyTorch
  std::int64_t hbm_bytes = 0;
  double power_watts = 0;   // an estimate where AWS publishes none, 0 where nobody does; the file says so
  std::vector<Link> links;  // between the devices of one chip
};

struct Instance {
  std::string name;
  std::int64_t num_chips = 0;
  std::int64_t hbm_bytes = 0;
  double usd_per_hour = 0;  // 0: no public price
  std::vector<Link> links;
};

struct Target {
  std::string name;
  Core core;
  Device device;
  Chip chip;
  Collectives collectives;
  std::vector<Instance> instances;
};

}  // namespace trn::target
