// Weighted sums along one axis: both sides cross HBM once, a run of taps is one instruction.
//
//   HBM bytes read    = outer * in * inner * size(src)
//   HBM bytes written = outer * out * inner * size(dst)
#include <algorithm>
#include <string>
#include <vector>

#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/tiling.h"
#include "target/error.h"

namespace trn::kernels {

using namespace tiling;

namespace {

// Whether each output is an input as it is.
bool only_moves(const TapsShape& shape) {
  std::vector<bool> is_taken(static_cast<std::size_t>(shape.out));
  for (const TapRun& run : shape.runs) {
    for (std::int64_t i = 0; i < run.count; ++i) {
      const auto to = static_cast<std::size_t>(run.to + i * run.to_step);
      if (run.weight != 1 || is_taken[to]) {
        return false;
      }
      is_taken[to] = true;
    }
  }
  return shape.src_dtype == shape.dst_dtype;
}

class TapsKernel {
 public:
  TapsKernel(const target::Target& target, const TapsShape& shape)
      : target_(target), s_(shape), partitions_(target.core.num_partitions), moves_(only_moves(shape)) {
    in_ = builder_.hbm("in", s_.src_dtype, s_.outer * s_.in * s_.inner);
    out_ = builder_.hbm("out", s_.dst_dtype, s_.outer * s_.out * s_.inner, true);
    classify();
  }

  program::Program build() {
    if (s_.outer * s_.out * s_.inner == 0) {
      return builder_.take();
    }
    const std::int64_t lane = bytes_per_lane(2);
    const std::int64_t fitting = target_.core.sbuf_bytes_per_partition / lane;
    const std::int64_t wanted =
        stream_free_elements(target_, s_.outer * std::max(s_.in, s_.out) * s_.inner, smallest(), lane);
    if (s_.inner == 1) {
      rows(std::clamp<std::int64_t>(wanted / std::max(s_.in, s_.out), 1, std::max<std::int64_t>(fitting, 1)));
    } else {
      planes(std::max<std::int64_t>(fitting, 1));
    }
    return builder_.take();
  }

 private:
  std::int64_t smallest() const { return std::min(target::itemsize(s_.src_dtype), target::itemsize(s_.dst_dtype)); }
  // Sums are fp32; what only moves keeps its type.
  Dtype sum_dtype() const { return moves_ ? sbuf_dtype(s_.dst_dtype) : Dtype::float32; }
  bool rounds() const { return sum_dtype() != sbuf_dtype(s_.dst_dtype); }
  std::int64_t bytes_per_lane(std::int64_t copies) const {
    const std::int64_t result = copies * target::itemsize(sbuf_dtype(s_.dst_dtype)) + (rounds() ? 4 : 0);
    return copies * s_.in * target::itemsize(sbuf_dtype(s_.src_dtype)) + s_.out * result;
  }

  // A run whose outputs have no sum yet writes; where that cannot be said of whole runs, sums begin at 0.
  void classify() {
    std::vector<bool> has_sum(static_cast<std::size_t>(s_.out));
    std::int64_t num_written = 0;
    for (const TapRun& run : s_.runs) {
      std::int64_t before = 0;
      for (std::int64_t i = 0; i < run.count; ++i) {
        const auto to = static_cast<std::size_t>(run.to + i * run.to_step);
        before += has_sum[to] ? 1 : 0;
        num_written += has_sum[to] ? 0 : 1;
        has_sum[to] = true;
      }
      starts_.push_back(before == 0);
      clears_ = clears_ || (before > 0 && before < run.count);
    }
    clears_ = clears_ || num_written < s_.out;
  }

  void declare(std::int64_t lanes) {
    const std::int64_t copies = bytes_per_lane(2) * lanes <= target_.core.sbuf_bytes_per_partition ? 2 : 1;
    auto sbuf = [&](const char* name, Dtype dtype, std::int64_t elements, std::int64_t rotating) {
      return builder_.sbuf(name, dtype, partitions_, elements * lanes, rotating);
    };
    loaded_ = sbuf("loaded", sbuf_dtype(s_.src_dtype), s_.in, copies);
    result_ = sbuf("result", sbuf_dtype(s_.dst_dtype), s_.out, copies);
    sum_ = rounds() ? sbuf("sum", sum_dtype(), s_.out, 1) : result_;
  }

  // A tile holds `lanes` sums side by side: rows one behind the other, or columns of a plane.
  struct Lanes {
    std::int64_t partitions, count;
    bool are_rows;
  };
  static Tile strided(std::int16_t buffer, const Lanes& lanes, std::int64_t length, std::int64_t first,
                      std::int64_t step, std::int64_t count) {
    const std::int64_t pitch = lanes.are_rows ? 1 : lanes.count;
    const Dim along{count, step * pitch};
    const Dim across{lanes.count, lanes.are_rows ? length : 1};
    return on_chip_tile(buffer, lanes.partitions,
                        lanes.are_rows ? std::vector<Dim>{across, along} : std::vector<Dim>{along, across},
                        Index(first * pitch));
  }

  void compute(const Lanes& lanes) {
    const Tile sums = on_chip_tile(sum_, lanes.partitions, s_.out * lanes.count);
    if (clears_) {
      builder_.memset(sums, 0);
    }
    for (std::size_t r = 0; r < s_.runs.size(); ++r) {
      const TapRun& run = s_.runs[r];
      const Tile from = strided(loaded_, lanes, s_.in, run.from, run.from_step, run.count);
      const Tile to = strided(sum_, lanes, s_.out, run.to, run.to_step, run.count);
      if (moves_ || (starts_[r] && !clears_ && run.weight == 1)) {
        builder_.tensor_copy(to, from);
      } else if (starts_[r] && !clears_) {
        builder_.tensor_scalar(to, from, Alu::multiply, run.weight);
      } else {
        builder_.emit({.opcode = Opcode::scalar_tensor_tensor,
                       .dst = to,
                       .src = {from, to},
                       .alu0 = Alu::multiply,
                       .alu1 = Alu::add,
                       .scalar0 = run.weight});
      }
    }
    if (rounds()) {
      builder_.tensor_copy(on_chip_tile(result_, lanes.partitions, s_.out * lanes.count), sums);
    }
  }

  // Rows of a contiguous axis: each partition holds as many as make its DMA runs long.
  void rows(std::int64_t group) {
    group = std::min(group, ceil_div(s_.outer, partitions_));
    declare(group);
    auto emit = [&](const char* name, std::int64_t start, std::int64_t trips, std::int64_t p, std::int64_t g) {
      if (trips == 0 || p == 0 || g == 0) {
        return;
      }
      builder_.nest(name);
      builder_.parallel_loop(trips, [&](const Index& i) {
        const Index row = i * (p * g) + start;
        auto far = [&](std::int16_t hbm, std::int64_t length) {
          return hbm_tile(hbm, p, g * length, {{g * length, 1}}, row * length);
        };
        builder_.dma(on_chip_tile(loaded_, p, g * s_.in), far(in_, s_.in));
        compute({p, g, true});
        builder_.dma(far(out_, s_.out), on_chip_tile(result_, p, g * s_.out));
      });
    };
    const std::int64_t full = s_.outer / (partitions_ * group), rest = s_.outer % (partitions_ * group);
    emit("body", 0, full, partitions_, group);
    emit("remainder", s_.outer - rest, 1, partitions_, rest / partitions_);
    emit("tail", s_.outer - rest % partitions_, 1, rest % partitions_, 1);
  }

  // Planes [axis, inner]: one for each partition, or of few planes the columns in blocks.
  void planes(std::int64_t fitting) {
    constexpr std::int64_t kShortestBlock = 16;
    const std::int64_t block = std::min({fitting, s_.inner, std::max(ceil_div(s_.inner, partitions_), kShortestBlock)});
    const bool on_columns = std::min(s_.outer, partitions_) < std::min(ceil_div(s_.inner, block), partitions_);
    const std::int64_t width = on_columns ? block : std::min(fitting, s_.inner);
    declare(width);
    auto tile = [&](const Index& plane, const Index& column, std::int64_t p, std::int64_t count) {
      auto far = [&](std::int16_t hbm, std::int64_t length) {
        const std::int64_t stride = on_columns ? count : length * s_.inner;
        std::vector<Dim> dims{{length, s_.inner}, {count, 1}};
        if (count == s_.inner) {
          dims = {{length * count, 1}};
        }
        return hbm_tile(hbm, p, stride, std::move(dims), plane * (length * s_.inner) + column);
      };
      builder_.dma(on_chip_tile(loaded_, p, s_.in * count), far(in_, s_.in));
      compute({p, count, false});
      builder_.dma(far(out_, s_.out), on_chip_tile(result_, p, s_.out * count));
    };
    if (!on_columns) {
      for (const Segment& outer : split(s_.outer, partitions_)) {
        for (const Segment& inner : split(s_.inner, width)) {
          builder_.nest(outer.start == 0 ? inner.start == 0 ? "body" : "edge" : "remainder");
          builder_.parallel_loop(outer.trips, [&](const Index& o) {
            builder_.parallel_loop(inner.trips, [&](const Index& i) {
              tile(o * outer.size + outer.start, i * inner.size + inner.start, outer.size, inner.size);
            });
          });
        }
      }
      return;
    }
    auto blocks = [&](const char* name, std::int64_t start, std::int64_t trips, std::int64_t p, std::int64_t count) {
      if (trips > 0 && p > 0 && count > 0) {
        builder_.nest(name);
        builder_.parallel_loop(s_.outer, [&](const Index& o) {
          builder_.parallel_loop(trips, [&](const Index& i) { tile(o, i * (p * count) + start, p, count); });
        });
      }
    };
    const std::int64_t full = s_.inner / (partitions_ * width), rest = s_.inner % (partitions_ * width);
    blocks("body", 0, full, partitions_, width);
    blocks("remainder", s_.inner - rest, 1, rest / width, width);
    blocks("tail", s_.inner - rest % width, 1, 1, rest % width);
  }

  const target::Target& target_;
  const TapsShape& s_;
  const std::int64_t partitions_;
  const bool moves_;
  Builder builder_{"taps"};
  std::vector<bool> starts_;
  bool clears_ = false;
  std::int16_t in_ = -1, out_ = -1, loaded_ = -1, result_ = -1, sum_ = -1;
};

[[noreturn]] void refuse(Category category, const std::string& rule, const std::string& got, const std::string& what) {
  throw Error(category, "[taps] " + rule + "; got " + got + ". " + what);
}

void check(const TapsShape& shape) {
  auto check_range = [](std::int64_t first, std::int64_t step, std::int64_t count, std::int64_t limit) {
    const std::int64_t last = first + (count - 1) * step;
    if (count < 1 || std::min(first, last) < 0 || std::max(first, last) >= limit) {
      refuse(Category::invalid_argument, "a run of taps lies within its axis",
             std::to_string(first) + " to " + std::to_string(last) + ", limit " + std::to_string(limit),
             "Check its steps and count.");
    }
  };
  for (const TapRun& run : shape.runs) {
    check_range(run.to, run.to_step, run.count, shape.out);
    check_range(run.from, run.from_step, run.count, shape.in);
    if (run.to_step == 0 && run.count > 1) {
      refuse(Category::invalid_argument, "a run gives each output one tap", "to_step 0", "Make it several runs.");
    }
  }
}

}  // namespace

program::Program taps(const target::Target& target, const TapsShape& shape) {
  check(shape);
  return TapsKernel(target, shape).build();
}

void require_executable(const target::Core& core, const TapsShape& shape) {
  check(shape);
  const bool computes = is_real_float(shape.src_dtype) && is_real_float(shape.dst_dtype);
  const bool is_kept = sbuf_dtype(shape.src_dtype) == shape.src_dtype && !is_complex(shape.src_dtype);
  if (!computes && !(only_moves(shape) && is_kept)) {
    refuse(Category::unimplemented, "sums are of real floating-point elements, moves of 32 bits",
           std::string(target::name(shape.src_dtype)), "Use reference numerics for it.");
  }
  const std::int64_t bytes = 4 * (shape.in + 2 * shape.out), limit = core.sbuf_bytes_per_partition / 16 * 15;
  if (bytes > limit) {
    refuse(Category::unimplemented, "an axis fits into a partition",
           std::to_string(bytes) + " bytes, limit " + std::to_string(limit), "Use reference numerics for it.");
  }
}

}  // namespace trn::kernels
