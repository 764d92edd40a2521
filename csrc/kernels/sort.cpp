// sort and topk of each row: passes of eight (sort_passes.h), or a bitonic network where that is cheaper.
#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/sort_passes.h"
#include "kernels/sort_plan.h"
#include "kernels/sort_tournament.h"
#include "kernels/tiling.h"
#include "program/count.h"
#include "target/error.h"

namespace trn::kernels {

using namespace tiling;

namespace {

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
    key_ = shape.inputs.empty() ? Dtype::float32 : key_dtype(shape.inputs.front().dtype);
  }

  bool has_rows() const {
    return !inputs_.empty() && shape_.k > 0 && is_regular(shape_.inputs, 0, shape_.rows * shape_.cols);
  }
  SortTournament tournament() const { return {target_, shape_, key_}; }

  program::Program build(bool by_tournament) {
    const std::int64_t num_keys = shape_.rows * shape_.cols;
    stream_others(shape_.inputs, inputs_, num_keys, false);
    if (num_keys > 0 && shape_.k > 0) {
      const Network plan = network();
      if (by_tournament) {
        tournament().build(builder_, inputs_.front(), [&](const Tile& values, const Tile& positions, const Index& row) {
          store(values, positions, row);
        });
      } else if (const SortPasses passes(target_, shape_, key_); passes.fits() && passes.cost() <= network_cost(plan)) {
        passes.build(
            builder_,
            [&](const Tile& keys, const Index& row, const Index& column, std::int64_t columns) {
              load(keys, row, column, columns);
            },
            [&](const Tile& values, const Tile& positions, const Index& row) { store(values, positions, row); });
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

  // The kernel sorts in descending order.
  float pad(float least) const { return shape_.ascending ? -least : least; }
  void turn_around(const Tile& keys) { kernels::turn_around(builder_, keys, shape_.ascending); }

  void load(const Tile& keys, const Index& row, const Index& column, std::int64_t columns) {
    if (!inputs_.empty() && is_regular(shape_.inputs, 0, shape_.rows * shape_.cols)) {
      const std::int64_t each = keys.free_elements() / columns;
      builder_.dma(keys, hbm_tile(inputs_[0], keys.partitions, each * shape_.cols, {{each, shape_.cols}, {columns, 1}},
                                  row * shape_.cols + column));
    }
  }
  void store(const Tile& values, const Tile& positions, const Index& row) {
    for (std::size_t o = 0; o < outputs_.size(); ++o) {
      if (is_regular(shape_.outputs, o, shape_.rows * shape_.k)) {
        const std::int64_t count = values.free_elements();
        builder_.dma(hbm_tile(outputs_[o], values.partitions, count, {{count, 1}}, row * shape_.k),
                     o == 0 ? values : positions);
      }
    }
  }

  // ---- Bitonic network

  // A step writes where it does not read; then the two change places.
  struct Tiles {
    std::int16_t keys, positions, next_keys, next_positions, mask;
    void turn() {
      std::swap(keys, next_keys);
      std::swap(positions, next_positions);
    }
  };
  Tiles network_tiles(const Network& plan) {
    const std::int64_t width = plan.spread ? std::max(plan.width, num_partitions_) : plan.width;
    if (plan.spread) {
      bank_ = builder_.psum("exchanged", key_, num_partitions_, num_partitions_);
      position_bank_ = builder_.psum("exchanged_positions", Dtype::int32, num_partitions_, num_partitions_);
      bit_ = builder_.sbuf("bit", Dtype::int32, num_partitions_, 1, 1);
      sign_ = builder_.sbuf("sign", Dtype::float32, num_partitions_, 1, 1);
    }
    return {.keys = builder_.sbuf("keys", key_, num_partitions_, width, 1),
            .positions = builder_.sbuf("positions", Dtype::int32, num_partitions_, width, 1),
            .next_keys = builder_.sbuf("next_keys", key_, num_partitions_, width, 1),
            .next_positions = builder_.sbuf("next_positions", Dtype::int32, num_partitions_, width, 1),
            .mask = builder_.sbuf("mask", Dtype::uint8, num_partitions_, width, 1)};
  }

  // Compares elements `distance` apart: blocks of `block` elements sort in turns downwards and upwards, one that holds
  // all `width` of them downwards.
  void step(Tiles& tiles, std::int64_t partitions, std::int64_t width, std::int64_t block, std::int64_t distance) {
    const std::int64_t directions = block < width ? 2 : 1;
    for (std::int64_t direction = 0; direction < directions; ++direction) {
      auto half = [&](std::int16_t buffer, bool is_upper) {
        std::vector<Dim> dims{{block / (2 * distance), 2 * distance}, {distance, 1}};
        if (directions > 1) {
          dims.insert(dims.begin(), {width / (2 * block), 2 * block});
        }
        return on_chip_tile(buffer, partitions, std::move(dims), Index(direction * block + (is_upper ? distance : 0)));
      };
      const Tile mask = on_chip_tile(tiles.mask, partitions, width / 2 / directions);
      builder_.tensor_tensor(mask, half(tiles.keys, false), half(tiles.keys, true),
                             direction == 0 ? Alu::greater_equal : Alu::less_equal);
      for (const auto& [from, to] :
           {std::pair{tiles.keys, tiles.next_keys}, std::pair{tiles.positions, tiles.next_positions}}) {
        for (const bool is_upper : {false, true}) {
          builder_.emit({.opcode = Opcode::select,
                         .dst = half(to, is_upper),
                         .src = {mask, half(from, is_upper), half(from, !is_upper)}});
        }
      }
    }
    tiles.turn();
  }
  // All distances of one level.
  void merge_blocks(Tiles& tiles, std::int64_t partitions, std::int64_t width, std::int64_t block, std::int64_t first) {
    for (std::int64_t distance = first; distance > 0; distance /= 2) {
      step(tiles, partitions, width, block, distance);
    }
  }

  // Partitions and free axis change places in blocks, so that a step between partitions becomes one along the free
  // axis, and back.
  void exchange(Tiles& tiles, const Network& plan, bool to_columns) {
    const std::int64_t side = std::min(plan.width, num_partitions_);
    for (const auto& [from, to, bank] : {std::tuple{tiles.keys, tiles.next_keys, bank_},
                                         std::tuple{tiles.positions, tiles.next_positions, position_bank_}}) {
      builder_.loop(plan.width / side, [&](const Index& b) {
        const std::int64_t columns = to_columns ? side : num_partitions_;
        const std::int64_t rows = to_columns ? num_partitions_ : side;
        builder_.transpose(on_chip_tile(bank, columns, rows), on_chip_tile(from, rows, columns, b * columns));
        builder_.tensor_copy(on_chip_tile(to, columns, rows, b * rows), on_chip_tile(bank, columns, rows));
      });
    }
    tiles.turn();
  }

  // Partitions whose block sorts upwards change the sign of their keys, so that all sort downwards; and back.
  void flip(const Tiles& tiles, const Network& plan) {
    builder_.emit(
        {.opcode = Opcode::tensor_scalar,
         .dst = on_chip_tile(tiles.keys, num_partitions_, plan.width),
         .src = {on_chip_tile(tiles.keys, num_partitions_, plan.width), on_chip_tile(sign_, num_partitions_, 1)},
         .alu0 = Alu::multiply});
  }
  void choose_signs(std::int64_t bit) {
    const Tile places = on_chip_tile(bit_, num_partitions_, 1), signs = on_chip_tile(sign_, num_partitions_, 1);
    builder_.emit({.opcode = Opcode::iota, .dst = places, .src = {hbm_tile(-1, num_partitions_, 1, {{1, 1}})}});
    builder_.tensor_scalar(places, places, Alu::right_shift, static_cast<float>(bit), Alu::bitwise_and, 1);
    builder_.tensor_scalar(signs, places, Alu::multiply, -2, Alu::add, 1);
  }

  // A level of a spread row whose blocks are a partition long or longer: long distances cross partitions.
  void merge_spread(Tiles& tiles, const Network& plan, int level) {
    const std::int64_t across = (std::int64_t{1} << level) / plan.width;
    if (across > 1) {
      const std::int64_t side = std::min(plan.width, num_partitions_), columns = plan.width / side * num_partitions_;
      exchange(tiles, plan, true);
      merge_blocks(tiles, side, columns, across < num_partitions_ ? across : columns, across / 2);
      exchange(tiles, plan, false);
    }
    const bool has_directions = across < num_partitions_;
    if (has_directions) {
      choose_signs(log2_of(across));
      flip(tiles, plan);
    }
    merge_blocks(tiles, num_partitions_, plan.width, plan.width, plan.width / 2);
    if (has_directions) {
      flip(tiles, plan);
    }
  }

  // Levels 1 .. last of the network over what lies in SBUF.
  void sort_in_sbuf(Tiles& tiles, const Network& plan, std::int64_t partitions, int last) {
    const int local = plan.spread ? log2_of(plan.width) - 1 : last;
    for (int level = 1; level <= last; ++level) {
      const std::int64_t block = std::int64_t{1} << level;
      if (level <= local) {
        merge_blocks(tiles, partitions, plan.width, block, block / 2);
      } else {
        merge_spread(tiles, plan, level);
      }
    }
  }

  void by_network(const Network& plan) {
    const Tiles all = network_tiles(plan);
    if (plan.spread) {
      builder_.nest("body");
      builder_.parallel_loop(shape_.rows, [&](const Index& row) {
        Tiles tiles = all;
        load_spread(tiles, row, Index(0), shape_.cols, plan.width);
        sort_in_sbuf(tiles, plan, num_partitions_, plan.levels);
        turn_around(on_chip_tile(tiles.keys, num_partitions_, plan.width));
        store_spread(tiles, row, Index(0), shape_.k, plan.width);
      });
      return;
    }
    for (const Segment& rows : split(shape_.rows, num_partitions_)) {
      builder_.nest(rows.start == 0 ? "body" : "remainder");
      builder_.parallel_loop(rows.trips, [&](const Index& i) {
        Tiles tiles = all;
        const Index row = i * rows.size + Index(rows.start);
        prepare(tiles, rows.size, plan.width, 0, -kInfinity);
        load(on_chip_tile(tiles.keys, rows.size, shape_.cols), row, {}, shape_.cols);
        turn_around(on_chip_tile(tiles.keys, rows.size, plan.width));
        sort_in_sbuf(tiles, plan, rows.size, plan.levels);
        turn_around(on_chip_tile(tiles.keys, rows.size, shape_.k));
        store(on_chip_tile(tiles.keys, rows.size, shape_.k), on_chip_tile(tiles.positions, rows.size, shape_.k), row);
      });
    }
  }

  // Padding sorts last; positions count from the start of the tile.
  void prepare(const Tiles& tiles, std::int64_t partitions, std::int64_t width, std::int64_t pitch, float least) {
    builder_.memset(on_chip_tile(tiles.keys, partitions, width), pad(least));
    builder_.emit({.opcode = Opcode::iota,
                   .dst = on_chip_tile(tiles.positions, partitions, width),
                   .src = {hbm_tile(-1, partitions, pitch, {{width, 1}})}});
  }

  // `count` consecutive elements of a row from column `first`, `width` on each partition: the columns that one
  // partition more has, and those that it lacks.
  template <class Move>
  void spread(const Index& row, std::int64_t row_elements, const Index& first, std::int64_t count, std::int64_t width,
              Move move) {
    const std::int64_t full = count / width, rest = count % width;
    const Index at = row * row_elements + first;
    if (rest > 0) {
      move(at, full + 1, 0, rest);
    }
    if (full > 0) {
      move(at + Index(rest), full, rest, width - rest);
    }
  }
  void load_spread(const Tiles& tiles, const Index& row, const Index& first, std::int64_t count, std::int64_t width) {
    prepare(tiles, num_partitions_, width, width, lowest(key_));
    if (inputs_.empty() || !is_regular(shape_.inputs, 0, shape_.rows * shape_.cols)) {
      return;
    }
    spread(row, shape_.cols, first, count, width,
           [&](const Index& at, std::int64_t partitions, std::int64_t column, std::int64_t size) {
             builder_.dma(on_chip_tile(tiles.keys, partitions, size, Index(column)),
                          hbm_tile(inputs_[0], partitions, width, {{size, 1}}, at));
           });
    turn_around(on_chip_tile(tiles.keys, num_partitions_, width));
  }
  void store_spread(const Tiles& tiles, const Index& row, const Index& first, std::int64_t count, std::int64_t width) {
    for (std::size_t o = 0; o < outputs_.size(); ++o) {
      if (is_regular(shape_.outputs, o, shape_.rows * shape_.k)) {
        spread(row, shape_.k, first, count, width,
               [&](const Index& at, std::int64_t partitions, std::int64_t column, std::int64_t size) {
                 builder_.dma(hbm_tile(outputs_[o], partitions, width, {{size, 1}}, at),
                              on_chip_tile(o == 0 ? tiles.keys : tiles.positions, partitions, size, Index(column)));
               });
      }
    }
  }

  // A row that does not fit: its chunks are sorted one by one, then merged through temporaries in HBM. A merge of 2^j
  // chunks takes j steps between chunks, each a pass over the row, and one more pass with the steps within chunks.
  void by_merging(const Network& plan) {
    Tiles tiles = network_tiles(plan);
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
        load_spread(tiles, row, first, count, plan.width);
        sort_in_sbuf(tiles, plan, num_partitions_, levels);
        move(row, first, false);
      });
    });
    for (int merge = 1; merge <= log2_of(plan.chunks); ++merge) {
      for (int between = 0; between < merge; ++between) {
        each_chunk("between_chunks", [&](const Index& row, const Index& first) {
          move(row, first, true);
          step(tiles, num_partitions_, plan.width, plan.width, plan.width / 2);
          move(row, first, false);
        });
      }
      each_chunk("within_chunks", [&](const Index& row, const Index& first) {
        move(row, first, true);
        merge_spread(tiles, plan, levels);
        move(row, first, false);
      });
    }
    builder_.nest("results");
    builder_.parallel_loop(shape_.rows, [&](const Index& row) {
      builder_.tiles(shape_.k, chunk, [&](const Index& first, std::int64_t count) {
        move(row, first, true);
        store_spread(tiles, row, first, count, plan.width);
      });
    });
  }

  const target::Target& target_;
  const SortShape& shape_;
  std::int64_t num_partitions_;
  Builder builder_;
  std::vector<std::int16_t> inputs_, outputs_;
  Dtype key_ = Dtype::float32;
  std::int16_t bank_ = -1, position_bank_ = -1, bit_ = -1, sign_ = -1;  // of a spread row
};

[[noreturn]] void only_counts(const std::string& rule, const std::string& got) {
  throw Error(Category::unimplemented, "[sort] " + rule + " counted, not executed; got " + got + ".");
}

}  // namespace

program::Program sort(const target::Target& target, const SortShape& shape) {
  SortKernel kernel(target, shape);
  const bool may_be_tournament = kernel.has_rows() && kernel.tournament().fits();
  program::Program program = kernel.build(false);
  return may_be_tournament ? program::faster(std::move(program), SortKernel(target, shape).build(true), target)
                           : std::move(program);
}

void require_executable(const SortShape& shape) {
  constexpr std::int64_t kMostInSbuf = std::int64_t{1} << 19;  // spread over the partitions of any target
  if (shape.cols > kMostInSbuf) {
    only_counts("rows that are merged through HBM are", std::to_string(shape.cols) + " elements");
  }
  if (shape.inputs.size() != 1 || shape.inputs.front().elements != shape.rows * shape.cols || shape.outputs.empty() ||
      shape.outputs.size() > 2 ||
      std::ranges::any_of(shape.outputs, [&](const Access& one) { return one.elements != shape.rows * shape.k; })) {
    only_counts(
        "other operands than rows, the values sorted and their positions are",
        std::to_string(shape.inputs.size()) + " inputs and " + std::to_string(shape.outputs.size()) + " outputs");
  }
  if (shape.inputs.front().dtype >= Dtype::complex32 && shape.inputs.front().dtype <= Dtype::complex128) {
    only_counts("complex elements are", std::string(target::name(shape.inputs.front().dtype)));
  }
}

}  // namespace trn::kernels
