// sort and topk of each row: passes of eight over a row in SBUF, or a bitonic network where that is cheaper.
#include <algorithm>

#include "kernels/build.h"
#include "kernels/tiling.h"

namespace trn::kernels {

using namespace tiling;

namespace {

constexpr std::int64_t kPass = 8;  // max8 and its companions work on eight values

// A row padded to a power of two, and where it lies. `spread`: over all partitions, one row at a time; else a row per
// partition. `chunks`: parts of a row that pass through SBUF one after the other, 1 when it fits.
struct Network {
  std::int64_t padded = 1, width = 1, chunks = 1;  // width: elements per partition
  int levels = 0;                                  // log2(padded)
  bool spread = false;

  std::int64_t num_steps() const { return std::int64_t{levels} * (levels + 1) / 2; }
};

int log2_of(std::int64_t power) {
  int log = 0;
  while ((std::int64_t{1} << log) < power) {
    ++log;
  }
  return log;
}

class SortKernel {
 public:
  SortKernel(const target::Target& target, const SortShape& shape)
      : target_(target), shape_(shape), num_partitions_(target.core.num_partitions), builder_("sort") {
    for (const Access& access : shape.inputs) {
      inputs_.push_back(builder_.hbm("in" + std::to_string(inputs_.size()), access));
    }
    for (const Access& access : shape.outputs) {
      outputs_.push_back(builder_.hbm("out" + std::to_string(outputs_.size()), access, true));
    }
    key_ = shape.inputs.empty() ? Dtype::float32 : sbuf_dtype(shape.inputs.front().dtype);
  }

  program::Program build() {
    const std::int64_t num_keys = shape_.rows * shape_.cols;
    stream_others(shape_.inputs, inputs_, num_keys, false);
    if (num_keys > 0 && shape_.k > 0) {
      const Network plan = network();
      if (passes_fit() && pass_cost() <= network_cost(plan)) {
        by_passes();
      } else if (plan.chunks == 1) {
        by_network(plan);
      } else {
        by_merging(plan);
      }
    }
    stream_others(shape_.outputs, outputs_, shape_.rows * shape_.k, true);
    return builder_.take();
  }

 private:
  // Tensors that are not a row (k of a row) each are read or written on their own.
  void stream_others(const std::vector<Access>& accesses, const std::vector<std::int16_t>& tensors,
                     std::int64_t regular, bool is_output) {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      const std::int64_t elements = accesses[t].elements;
      if (is_regular(accesses, t, regular)) {
        continue;
      }
      const Dtype dtype = sbuf_dtype(accesses[t].dtype);
      const std::int64_t free =
          stream_free_elements(target_, elements, target::itemsize(accesses[t].dtype), 2 * target::itemsize(dtype));
      const std::int16_t side = builder_.sbuf("side" + std::to_string(tensors[t]), dtype, num_partitions_, free);
      stream(
          builder_, target_, elements, free,
          [&](const StreamTile& tile) {
            const Tile on_chip = on_chip_tile(side, tile.partitions, tile.free);
            is_output ? builder_.dma(tile.hbm(tensors[t]), on_chip) : builder_.dma(on_chip, tile.hbm(tensors[t]));
          },
          1, is_output ? "results_" : "operands_");
    }
  }
  // The kernel itself moves one input (the keys) and up to two outputs (values, positions).
  bool is_regular(const std::vector<Access>& accesses, std::size_t t, std::int64_t regular) const {
    const std::size_t most = &accesses == &shape_.inputs ? 1 : 2;
    return shape_.rows * shape_.cols > 0 && shape_.k > 0 && t < most && accesses[t].elements == regular;
  }

  // ---- Plans

  std::int64_t key_bytes() const { return target::itemsize(key_); }
  std::int64_t num_passes() const { return ceil_div(shape_.k, kPass); }
  bool passes_fit() const {
    const std::int64_t results = num_passes() * kPass * (key_bytes() + 4);
    return 2 * shape_.cols * key_bytes() + 2 * results <= target_.core.sbuf_bytes_per_partition;
  }
  // Elements that a partition streams: three instructions over the row for every eight results.
  double pass_cost() const {
    return static_cast<double>(ceil_div(shape_.rows, num_partitions_)) * 3.0 * static_cast<double>(num_passes()) *
           static_cast<double>(std::max(shape_.cols, target_.core.min_instruction_cycles));
  }
  // A step compares pairs and selects the lower and upper key and position: five instructions over half the row, the
  // first at half rate in fp32.
  double network_cost(const Network& plan) const {
    const std::int64_t tiles = plan.spread ? shape_.rows * plan.chunks : ceil_div(shape_.rows, num_partitions_);
    const std::int64_t least = target_.core.min_instruction_cycles;
    const double steps = 6.0 * static_cast<double>(plan.num_steps() * std::max(plan.width / 2, least));
    // Levels that cross partitions exchange keys and positions twice.
    const std::int64_t levels = plan.spread ? log2_of(num_partitions_) : 0;
    const double exchanges = 4.0 * static_cast<double>(levels * std::max(plan.width, least));
    return static_cast<double>(tiles) * (steps + exchanges);
  }
  Network network() const {
    Network plan;
    plan.levels = log2_of(std::max(shape_.cols, std::int64_t{2}));
    plan.padded = std::int64_t{1} << plan.levels;
    // Keys and positions twice (a step writes where it does not read), and the mask.
    const std::int64_t fitting = target_.core.sbuf_bytes_per_partition / (2 * key_bytes() + 2 * 4 + 4);
    std::int64_t widest = 1;
    while (2 * widest <= fitting) {
      widest *= 2;
    }
    plan.width = plan.padded;
    if (plan.padded >= 2 * num_partitions_) {
      Network across = plan;
      across.spread = true;
      across.width = plan.padded / num_partitions_;
      if (plan.padded > widest || network_cost(across) < network_cost(plan)) {
        plan = across;
      }
    }
    while (plan.width > widest) {
      plan.width /= 2;
      plan.chunks *= 2;
    }
    return plan;
  }

  // ---- Passes of eight

  void by_passes() {
    const std::int64_t cols = shape_.cols;
    const std::int64_t k = shape_.k;
    const std::int64_t width = num_passes() * kPass;
    const std::int16_t keys = builder_.sbuf("keys", key_, num_partitions_, cols);
    const std::int16_t values = builder_.sbuf("values", key_, num_partitions_, width);
    const std::int16_t positions = builder_.sbuf("positions", Dtype::uint32, num_partitions_, width);
    for (const Segment& rows : split(shape_.rows, num_partitions_)) {
      builder_.nest(rows.start == 0 ? "body" : "remainder");
      builder_.parallel_loop(rows.trips, [&](const Index& i) {
        const Index row = i * rows.size + Index(rows.start);
        const Tile tile = on_chip_tile(keys, rows.size, cols);
        load(tile, row, rows.size, cols);
        auto pass = [&](const Index& first, bool is_last) {
          const Tile best = on_chip_tile(values, rows.size, kPass, first);
          builder_.emit({.opcode = Opcode::max8, .dst = best, .src = {tile}});
          builder_.emit({.opcode = Opcode::nc_find_index8,
                         .dst = on_chip_tile(positions, rows.size, kPass, first),
                         .src = {tile, best}});
          if (!is_last) {
            builder_.emit({.opcode = Opcode::nc_match_replace8, .dst = tile, .src = {tile, best}});
          }
        };
        builder_.loop(num_passes() - 1, [&](const Index& p) { pass(p * kPass, false); });
        pass(Index(width - kPass), true);
        store(on_chip_tile(values, rows.size, k), on_chip_tile(positions, rows.size, k), row, rows.size);
      });
    }
  }

  void load(const Tile& keys, const Index& row, std::int64_t partitions, std::int64_t cols) {
    if (!inputs_.empty() && is_regular(shape_.inputs, 0, shape_.rows * shape_.cols)) {
      builder_.dma(keys, hbm_tile(inputs_[0], partitions, shape_.cols, {{cols, 1}}, row * shape_.cols));
    }
  }
  void store(const Tile& values, const Tile& positions, const Index& row, std::int64_t partitions) {
    for (std::size_t o = 0; o < outputs_.size(); ++o) {
      if (is_regular(shape_.outputs, o, shape_.rows * shape_.k)) {
        builder_.dma(hbm_tile(outputs_[o], partitions, shape_.k, {{shape_.k, 1}}, row * shape_.k),
                     o == 0 ? values : positions);
      }
    }
  }

  // ---- Bitonic network

  struct Tiles {
    std::int16_t keys, positions, next_keys, next_positions, mask;
  };
  Tiles network_tiles(std::int64_t width) {
    return {.keys = builder_.sbuf("keys", key_, num_partitions_, width, 1),
            .positions = builder_.sbuf("positions", Dtype::int32, num_partitions_, width, 1),
            .next_keys = builder_.sbuf("next_keys", key_, num_partitions_, width, 1),
            .next_positions = builder_.sbuf("next_positions", Dtype::int32, num_partitions_, width, 1),
            .mask = builder_.sbuf("mask", Dtype::uint8, num_partitions_, width, 1)};
  }

  // `count` steps: each compares the halves of blocks, and selects lower and upper keys and positions.
  void steps(const Tiles& tiles, std::int64_t partitions, std::int64_t width, std::int64_t count) {
    const std::int64_t half = std::max(width / 2, std::int64_t{1});
    auto lower = [&](std::int16_t buffer) { return on_chip_tile(buffer, partitions, half); };
    auto upper = [&](std::int16_t buffer) { return on_chip_tile(buffer, partitions, half, Index(width - half)); };
    builder_.loop(count, [&](const Index&) {
      builder_.tensor_tensor(lower(tiles.mask), lower(tiles.keys), upper(tiles.keys), Alu::greater);
      auto pick = [&](std::int16_t from, const Tile& to, bool swapped) {
        builder_.emit(
            {.opcode = Opcode::select,
             .dst = to,
             .src = {lower(tiles.mask), swapped ? upper(from) : lower(from), swapped ? lower(from) : upper(from)}});
      };
      pick(tiles.keys, lower(tiles.next_keys), false);
      pick(tiles.keys, upper(tiles.next_keys), true);
      pick(tiles.positions, lower(tiles.next_positions), false);
      pick(tiles.positions, upper(tiles.next_positions), true);
    });
  }

  // Partitions and free axis change places, so that a step between partitions becomes one along the free axis.
  void exchange(const Tiles& tiles, std::int16_t bank, std::int64_t width) {
    for (const std::int16_t buffer : {tiles.keys, tiles.positions}) {
      builder_.tiles(width, num_partitions_, [&](const Index& first, std::int64_t block) {
        builder_.transpose(on_chip_tile(bank, block, num_partitions_),
                           on_chip_tile(buffer, num_partitions_, block, first));
        builder_.tensor_copy(on_chip_tile(buffer, num_partitions_, block, first),
                             on_chip_tile(bank, num_partitions_, block));
      });
    }
  }

  // Levels 1 .. last of the network over what lies in SBUF; a spread row's long distances cross partitions.
  void sort_in_sbuf(const Tiles& tiles, std::int16_t bank, const Network& plan, std::int64_t partitions, int last) {
    const int local = log2_of(plan.width);
    if (!plan.spread || last <= local) {
      steps(tiles, partitions, plan.width, std::int64_t{last} * (last + 1) / 2);
      return;
    }
    steps(tiles, partitions, plan.width, std::int64_t{local} * (local + 1) / 2);
    for (int level = local + 1; level <= last; ++level) {
      merge_in_sbuf(tiles, bank, plan, level);
    }
  }
  void merge_in_sbuf(const Tiles& tiles, std::int16_t bank, const Network& plan, int level) {
    const int local = log2_of(plan.width);
    exchange(tiles, bank, plan.width);
    steps(tiles, num_partitions_, plan.width, level - local);
    exchange(tiles, bank, plan.width);
    steps(tiles, num_partitions_, plan.width, local);
  }

  void by_network(const Network& plan) {
    const Tiles tiles = network_tiles(plan.width);
    if (plan.spread) {
      const std::int16_t bank = builder_.psum("exchanged", Dtype::float32, num_partitions_, num_partitions_);
      builder_.nest("body");
      builder_.parallel_loop(shape_.rows, [&](const Index& row) {
        load_spread(tiles, row, Index(0), 0, shape_.cols, plan.width);
        sort_in_sbuf(tiles, bank, plan, num_partitions_, plan.levels);
        store_spread(tiles, row, Index(0), 0, shape_.k, plan.width);
      });
      return;
    }
    for (const Segment& rows : split(shape_.rows, num_partitions_)) {
      builder_.nest(rows.start == 0 ? "body" : "remainder");
      builder_.parallel_loop(rows.trips, [&](const Index& i) {
        const Index row = i * rows.size + Index(rows.start);
        prepare(tiles, rows.size, plan.width);
        load(on_chip_tile(tiles.keys, rows.size, shape_.cols), row, rows.size, shape_.cols);
        sort_in_sbuf(tiles, -1, plan, rows.size, plan.levels);
        store(on_chip_tile(tiles.keys, rows.size, shape_.k), on_chip_tile(tiles.positions, rows.size, shape_.k), row,
              rows.size);
      });
    }
  }

  // Padding sorts last; positions count from the start of the tile.
  void prepare(const Tiles& tiles, std::int64_t partitions, std::int64_t width) {
    builder_.memset(on_chip_tile(tiles.keys, partitions, width), -1);
    builder_.emit({.opcode = Opcode::iota,
                   .dst = on_chip_tile(tiles.positions, partitions, width),
                   .src = {hbm_tile(-1, partitions, width, {{width, 1}})}});
  }

  // `count` consecutive elements of a row, from column `first` + `start`, with `width` on each partition.
  template <class Move>
  void spread(const Index& row, std::int64_t row_elements, const Index& first, std::int64_t start, std::int64_t count,
              std::int64_t width, Move move) {
    for (const Segment& segment : split(count, width)) {
      const Index at = row * row_elements + first + Index(start + segment.start);
      move(at, segment.trips, segment.size);
    }
  }
  void load_spread(const Tiles& tiles, const Index& row, const Index& first, std::int64_t start, std::int64_t count,
                   std::int64_t width) {
    prepare(tiles, num_partitions_, width);
    if (inputs_.empty() || !is_regular(shape_.inputs, 0, shape_.rows * shape_.cols)) {
      return;
    }
    spread(row, shape_.cols, first, start, count, width,
           [&](const Index& at, std::int64_t partitions, std::int64_t size) {
             builder_.dma(on_chip_tile(tiles.keys, partitions, size),
                          hbm_tile(inputs_[0], partitions, width, {{size, 1}}, at));
           });
  }
  void store_spread(const Tiles& tiles, const Index& row, const Index& first, std::int64_t start, std::int64_t count,
                    std::int64_t width) {
    for (std::size_t o = 0; o < outputs_.size(); ++o) {
      if (is_regular(shape_.outputs, o, shape_.rows * shape_.k)) {
        spread(row, shape_.k, first, start, count, width,
               [&](const Index& at, std::int64_t partitions, std::int64_t size) {
                 builder_.dma(hbm_tile(outputs_[o], partitions, width, {{size, 1}}, at),
                              on_chip_tile(o == 0 ? tiles.keys : tiles.positions, partitions, size));
               });
      }
    }
  }

  // A row that does not fit: its chunks are sorted one by one, then merged through temporaries in HBM. A merge of 2^j
  // chunks takes j steps between chunks, each a pass over the row, and one more pass with the steps within chunks.
  void by_merging(const Network& plan) {
    const Tiles tiles = network_tiles(plan.width);
    const std::int16_t bank = builder_.psum("exchanged", Dtype::float32, num_partitions_, num_partitions_);
    const std::int16_t keys = builder_.temporary("sorted_keys", key_, shape_.rows * plan.padded);
    const std::int16_t positions = builder_.temporary("sorted_positions", Dtype::int32, shape_.rows * plan.padded);
    const std::int64_t chunk = plan.width * num_partitions_;
    const int levels = log2_of(chunk);
    auto move = [&](const Index& row, const Index& first, bool is_load) {
      for (const auto& [hbm, tile] : {std::pair{keys, tiles.keys}, std::pair{positions, tiles.positions}}) {
        const Tile far = hbm_tile(hbm, num_partitions_, plan.width, {{plan.width, 1}}, row * plan.padded + first);
        const Tile near = on_chip_tile(tile, num_partitions_, plan.width);
        is_load ? builder_.dma(near, far) : builder_.dma(far, near);
      }
    };
    auto each_chunk = [&](const char* name, auto body) {
      builder_.nest(name);
      builder_.parallel_loop(shape_.rows, [&](const Index& row) {
        builder_.parallel_loop(plan.chunks, [&](const Index& c) { body(row, c * chunk); });
      });
    };

    builder_.nest("sort");
    builder_.parallel_loop(shape_.rows, [&](const Index& row) {
      builder_.tiles(shape_.cols, chunk, [&](const Index& first, std::int64_t count) {
        load_spread(tiles, row, first, 0, count, plan.width);
        sort_in_sbuf(tiles, bank, plan, num_partitions_, levels);
        move(row, first, false);
      });
    });
    for (int merge = 1; merge <= log2_of(plan.chunks); ++merge) {
      for (int step = 0; step < merge; ++step) {
        each_chunk("between_chunks", [&](const Index& row, const Index& first) {
          move(row, first, true);
          steps(tiles, num_partitions_, plan.width, 1);
          move(row, first, false);
        });
      }
      each_chunk("within_chunks", [&](const Index& row, const Index& first) {
        move(row, first, true);
        merge_in_sbuf(tiles, bank, plan, levels);
        move(row, first, false);
      });
    }
    builder_.nest("results");
    builder_.parallel_loop(shape_.rows, [&](const Index& row) {
      builder_.tiles(shape_.k, chunk, [&](const Index& first, std::int64_t count) {
        move(row, first, true);
        store_spread(tiles, row, first, 0, count, plan.width);
      });
    });
  }

  const target::Target& target_;
  const SortShape& shape_;
  std::int64_t num_partitions_;
  Builder builder_;
  std::vector<std::int16_t> inputs_, outputs_;
  Dtype key_ = Dtype::float32;
};

}  // namespace

program::Program sort(const target::Target& target, const SortShape& shape) {
  return SortKernel(target, shape).build();
}

}  // namespace trn::kernels
