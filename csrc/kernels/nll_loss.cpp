// Negative log likelihood: single elements picked or written by DMA, their weights and sums on VectorE.
//
//   forward   HBM read = targets + picked elements (+ picked weights)    written = losses, or their sum, and the
//   weights' backward  HBM read = targets + gradient (+ picked weights)           written = the gradient, and once more
//   what is not 0
//
// Places are computed in fp32, from where a tile's first table begins: a table is what one batch entry holds.
#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/tiling.h"
#include "target/error.h"

namespace trn::kernels {

using namespace tiling;

namespace {

constexpr std::int64_t kMostExact = std::int64_t{1} << 24;

class NllLoss {
 public:
  NllLoss(const target::Target& target, const NllLossShape& shape)
      : s_(shape),
        target_(target),
        num_partitions_(target.core.num_partitions),
        targets_(shape.batch * shape.positions),
        table_(shape.classes * shape.positions),
        is_summed_(shape.reduction != LossReduction::none) {}

  program::Program build() {
    declare();
    if (s_.backward) {
      clear();
    }
    prepare();
    if (targets_ > 0 && s_.classes > 0) {
      emit();
    }
    if (!s_.backward) {
      finish();
    }
    return b_.take();
  }

 private:
  void declare() {
    const std::int64_t all = s_.batch * table_, results = is_summed_ ? 1 : targets_;
    hbm_ = s_.backward ? b_.hbm("grad_output", s_.dtype, results) : b_.hbm("input", s_.dtype, all);
    hbm_targets_ = b_.hbm("target", s_.index_dtype, targets_);
    if (s_.weight) {
      hbm_weight_ = b_.hbm("weight", s_.dtype, s_.classes);
    }
    if (s_.backward) {
      hbm_total_ = b_.hbm("total_weight", s_.dtype, 1);
      hbm_out_ = b_.hbm("grad_input", s_.dtype, all, true);
    } else {
      hbm_out_ = b_.hbm("output", s_.dtype, results, true);
      hbm_total_ = b_.hbm("total_weight", s_.dtype, 1, true);
    }
    const std::int64_t value = target::itemsize(dtype()), index = target::itemsize(s_.index_dtype);
    const std::int64_t bytes = 2 * (2 * value + 2 * index) + 4 * target::itemsize(Dtype::float32);
    width_ = stream_free_elements(target_, std::max<std::int64_t>(targets_, 1), value, bytes);
    values_ = b_.sbuf("values", dtype(), num_partitions_, width_);
    weights_ = b_.sbuf("weights", dtype(), num_partitions_, s_.weight ? width_ : 1);
    picks_ = b_.sbuf("targets", s_.index_dtype, num_partitions_, width_);
    places_ = b_.sbuf("places", s_.index_dtype, num_partitions_, width_);
    counted_ = b_.sbuf("counted", Dtype::float32, num_partitions_, width_, 1);
    factors_ = b_.sbuf("factors", Dtype::float32, num_partitions_, width_, 1);
    losses_ = b_.sbuf("losses", Dtype::float32, num_partitions_, width_, 1);
    totals_ = b_.sbuf("totals", Dtype::float32, num_partitions_, 2, 1);
    parts_ = b_.sbuf("parts", Dtype::float32, num_partitions_, 2, 1);
  }

  Dtype dtype() const { return sbuf_dtype(s_.dtype); }

  void clear() {
    const std::int64_t size = target::itemsize(dtype());
    const std::int64_t free = stream_free_elements(target_, s_.batch * table_, size, 2 * size);
    const std::int16_t zeros = b_.sbuf("zeros", dtype(), num_partitions_, std::min(free, width_));
    stream(
        b_, target_, s_.batch * table_, std::min(free, width_),
        [&](const StreamTile& tile) {
          b_.memset(on_chip_tile(zeros, tile.partitions, tile.free), 0);
          b_.dma(tile.hbm(hbm_out_), on_chip_tile(zeros, tile.partitions, tile.free));
        },
        1, "clear_");
  }

  // Sums start at 0; backward, each partition has -1 times the gradient of the sum, over the weights' for a mean.
  void prepare() {
    if (!is_summed_) {
      return;
    }
    b_.nest("start_");
    if (!s_.backward) {
      b_.memset(on_chip_tile(totals_, num_partitions_, 2), 0);
      return;
    }
    const Tile scale = on_chip_tile(totals_, num_partitions_, 1);
    b_.dma(scale, hbm_tile(hbm_, num_partitions_, 0, {{1, 1}}));
    b_.tensor_scalar(scale, scale, Alu::multiply, -1);
    if (s_.reduction == LossReduction::mean) {
      const Tile total = on_chip_tile(totals_, num_partitions_, 1, Index(1));
      b_.dma(total, hbm_tile(hbm_total_, num_partitions_, 0, {{1, 1}}));
      b_.tensor_tensor(scale, scale, total, Alu::divide);
    }
  }

  // Partitions hold the targets of whole tables, or some of one table's, whichever takes fewer tiles.
  void emit() {
    const std::int64_t n = s_.positions, most_tables = std::max<std::int64_t>(kMostExact / table_, 1);
    const std::int64_t partitions = std::min(num_partitions_, most_tables);
    const std::int64_t group = std::min(most_tables / partitions, width_ / n);
    const std::int64_t by_tables = group > 0 ? ceil_div(s_.batch, partitions * group) : targets_ + 1;
    if (by_tables <= s_.batch * ceil_div(n, num_partitions_ * width_)) {
      of_tables(partitions, group);
      return;
    }
    b_.nest("body");
    b_.loop(
        s_.batch,
        [&](const Index& entry) {
          const std::int64_t full = n / (num_partitions_ * width_), rest = n - full * num_partitions_ * width_;
          auto tiles = [&](std::int64_t start, std::int64_t trips, std::int64_t p, std::int64_t g) {
            b_.loop(p * g > 0 ? trips : 0, [&](const Index& i) {
              const Index position = i * (p * g) + start;
              tile(hbm_tile(-1, p, g, {{g, 1}}, position), entry * table_, table_, entry * n + position, p, g);
            });
          };
          tiles(0, full, num_partitions_, width_);
          tiles(n - rest, 1, num_partitions_, rest / num_partitions_);
          tiles(n - rest % num_partitions_, 1, rest % num_partitions_, 1);
        },
        !adds_up());
  }

  void of_tables(std::int64_t partitions, std::int64_t group) {
    const std::int64_t n = s_.positions;
    std::int64_t done = 0;
    auto cover = [&](const char* name, std::int64_t p, std::int64_t g) {
      const std::int64_t trips = p * g > 0 ? (s_.batch - done) / (p * g) : 0;
      if (trips == 0) {
        return;
      }
      b_.nest(name);
      b_.loop(
          trips,
          [&](const Index& i) {
            const Index entry = i * (p * g) + done;
            const Tile pattern = hbm_tile(-1, p, g * table_, {{g, table_}, {n, 1}});
            tile(pattern, entry * table_, p * g * table_, entry * n, p, g * n);
          },
          !adds_up());
      done += trips * p * g;
    };
    cover("body", partitions, group);
    cover("remainder", partitions, (s_.batch - done) / partitions);
    cover("tail", s_.batch - done, 1);
  }

  bool adds_up() const { return is_summed_ && !s_.backward; }

  // `width` targets from `first` on each of p partitions. Their tables begin at `origin` and reach over `reach`
  // elements; `pattern` has the place of each target's first class among them.
  void tile(const Tile& pattern, const Index& origin, std::int64_t reach, const Index& first, std::int64_t p,
            std::int64_t width) {
    auto of = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, width); };
    auto targets = [&](std::int16_t buffer) { return hbm_tile(buffer, p, width, {{width, 1}}, first); };
    const Tile picks = of(picks_), places = of(places_), counted = of(counted_);
    b_.dma(picks, targets(hbm_targets_));
    b_.tensor_scalar(counted, picks, Alu::not_equal, s_.ignored);
    b_.tensor_tensor(picks, picks, counted, Alu::multiply);  // what is ignored reads class 0
    Tile factor = counted;
    if (s_.weight) {
      factor = of(factors_);
      b_.emit({.opcode = Opcode::dma_gather,
               .dst = of(weights_),
               .src = {hbm_tile(hbm_weight_, s_.classes, 1, {{1, 1}}), picks}});
      b_.tensor_tensor(factor, of(weights_), counted, Alu::multiply);
    }
    b_.emit({.opcode = Opcode::iota, .dst = places, .src = {pattern}});
    b_.emit({.opcode = Opcode::scalar_tensor_tensor,
             .dst = picks,
             .src = {picks, places},
             .alu0 = Alu::multiply,
             .alu1 = Alu::add,
             .scalar0 = static_cast<float>(s_.positions)});
    const Tile picked = hbm_tile(s_.backward ? hbm_out_ : hbm_, reach, 1, {{1, 1}}, origin);
    if (s_.backward) {
      gradient(picked, picks, counted, factor, targets(hbm_));
    } else {
      b_.emit({.opcode = Opcode::dma_gather, .dst = of(values_), .src = {picked, picks}});
      loss(of(values_), of(losses_), counted, factor, targets(hbm_out_));
    }
  }

  void loss(const Tile& value, const Tile& loss, const Tile& counted, const Tile& factor, const Tile& out) {
    b_.emit({.opcode = Opcode::scalar_tensor_tensor,
             .dst = loss,
             .src = {value, factor},
             .alu0 = Alu::multiply,
             .alu1 = Alu::multiply,
             .scalar0 = -1});
    const Tile result = is_summed_ ? loss : value;
    b_.emit({.opcode = Opcode::select, .dst = result, .src = {counted, loss}, .scalar0 = 0});
    if (!is_summed_) {
      b_.dma(out, result);
      return;
    }
    const std::int64_t p = loss.partitions;
    b_.tensor_reduce(on_chip_tile(parts_, p, 1), result, Alu::add);
    b_.tensor_reduce(on_chip_tile(parts_, p, 1, Index(1)), factor, Alu::add);
    b_.tensor_tensor(on_chip_tile(totals_, p, 2), on_chip_tile(totals_, p, 2), on_chip_tile(parts_, p, 2), Alu::add);
  }

  void gradient(const Tile& picked, const Tile& picks, const Tile& counted, const Tile& factor, const Tile& upstream) {
    const std::int64_t p = picks.partitions, width = picks.free_elements();
    const Tile value = on_chip_tile(values_, p, width), scaled = on_chip_tile(losses_, p, width);
    if (is_summed_) {
      b_.emit({.opcode = Opcode::tensor_scalar,
               .dst = scaled,
               .src = {factor, on_chip_tile(totals_, p, 1)},
               .alu0 = Alu::multiply});
    } else {
      b_.dma(value, upstream);
      b_.emit({.opcode = Opcode::scalar_tensor_tensor,
               .dst = scaled,
               .src = {value, factor},
               .alu0 = Alu::multiply,
               .alu1 = Alu::multiply,
               .scalar0 = -1});
    }
    b_.emit({.opcode = Opcode::select, .dst = value, .src = {counted, scaled}, .scalar0 = 0});
    b_.emit({.opcode = Opcode::dma_scatter, .dst = picked, .src = {value, picks}});
  }

  // Over the partitions by a product with ones.
  void finish() {
    b_.nest("finish_");
    const std::int16_t result = b_.sbuf("result", Dtype::float32, 1, 2, 1);
    const Tile sum = on_chip_tile(result, 1, 1), total = on_chip_tile(result, 1, 1, Index(1));
    if (!is_summed_) {
      b_.memset(total, 0);
      b_.dma(hbm_tile(hbm_total_, 1, 0, {{1, 1}}), total);
      return;
    }
    const std::int16_t ones = b_.sbuf("ones", Dtype::float32, num_partitions_, 1, 1);
    const std::int16_t sums = b_.psum("sums", Dtype::float32, 1, 2, 1);
    b_.memset(on_chip_tile(ones, num_partitions_, 1), 1);
    b_.matmul(on_chip_tile(sums, 1, 2), on_chip_tile(ones, num_partitions_, 1),
              on_chip_tile(totals_, num_partitions_, 2));
    b_.tensor_copy(on_chip_tile(result, 1, 2), on_chip_tile(sums, 1, 2));
    if (s_.reduction == LossReduction::mean) {
      b_.tensor_tensor(sum, sum, total, Alu::divide);
    }
    b_.dma(hbm_tile(hbm_out_, 1, 0, {{1, 1}}), sum);
    b_.dma(hbm_tile(hbm_total_, 1, 0, {{1, 1}}), total);
  }

  const NllLossShape& s_;
  const target::Target& target_;
  const std::int64_t num_partitions_, targets_, table_;
  const bool is_summed_;
  Builder b_{"nll_loss"};
  std::int64_t width_ = 1;
  std::int16_t hbm_ = -1, hbm_targets_ = -1, hbm_weight_ = -1, hbm_out_ = -1, hbm_total_ = -1;
  std::int16_t values_ = -1, weights_ = -1, picks_ = -1, places_ = -1, counted_ = -1, factors_ = -1, losses_ = -1;
  std::int16_t totals_ = -1, parts_ = -1;
};

[[noreturn]] void only_counts(const std::string& rule, const std::string& got) {
  throw Error(Category::unimplemented, "[nll_loss] " + rule + " counted, not executed; got " + got + ".");
}

}  // namespace

program::Program nll_loss(const target::Target& target, const NllLossShape& shape) {
  return NllLoss(target, shape).build();
}

void require_executable(const NllLossShape& shape) {
  if (shape.index_dtype != Dtype::int64 && shape.index_dtype != Dtype::int32) {
    only_counts("targets of other types than int32 and int64 are", std::string(target::name(shape.index_dtype)));
  }
  if (shape.classes * shape.positions > kMostExact) {
    only_counts("places that fp32 does not hold exactly are", std::to_string(shape.classes * shape.positions));
  }
  if (std::abs(shape.ignored) > static_cast<float>(kMostExact)) {
    only_counts("an ignored target that fp32 does not hold exactly is", std::to_string(shape.ignored));
  }
}

}  // namespace trn::kernels
