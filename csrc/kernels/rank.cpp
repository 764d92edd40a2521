// Ranks among keys: every query meets every key. Many queries stream, and each key is a scalar that every partition
// has; few queries are the scalars themselves, one for each partition, and keys stream.
//
//   HBM bytes read    = tables * queries * size + keys: once for each tile of queries, in every partition
//   HBM bytes written = tables * queries * size(out)
#include <algorithm>
#include <string>

#include "kernels/build.h"
#include "kernels/executable.h"
#include "kernels/tiling.h"
#include "target/error.h"

namespace trn::kernels {

using namespace tiling;

namespace {

class RankKernel {
 public:
  RankKernel(const target::Target& target, const RankShape& shape)
      : target_(target), s_(shape), partitions_(target.core.num_partitions) {
    keys_ = builder_.hbm("keys", s_.key_dtype, s_.tables * s_.length);
    queries_ = builder_.hbm("queries", s_.query_dtype, s_.tables * s_.queries);
    out_ = builder_.hbm("out", s_.out_dtype, s_.tables * s_.queries, true);
  }

  program::Program build() {
    if (s_.tables * s_.queries == 0) {
      return builder_.take();
    }
    const std::int64_t size = target::itemsize(sbuf_dtype(s_.query_dtype));
    const std::int64_t wide = target::itemsize(sbuf_dtype(s_.out_dtype));
    const std::int64_t chunk = std::max<std::int64_t>(
        std::min(s_.length, target_.core.sbuf_bytes_per_partition / 4 /
                                (2 * target::itemsize(sbuf_dtype(s_.key_dtype)) + target::itemsize(Dtype::float32))),
        1);
    const std::int64_t least = target_.core.min_instruction_cycles;
    const std::int64_t in_partition = ceil_div(s_.queries, partitions_);
    streams_queries_ = s_.length * std::max(in_partition, least) <= 2 * in_partition * std::max(s_.length, least);
    const std::int64_t free =
        streams_queries_
            ? std::min(in_partition, stream_free_elements(target_, s_.queries, size, 4 * (2 * (size + wide) + 4)))
            : 1;
    key_tile_ = builder_.sbuf("key_tile", sbuf_dtype(s_.key_dtype), partitions_, chunk);
    query_tile_ = builder_.sbuf("query_tile", sbuf_dtype(s_.query_dtype), partitions_, free);
    result_ = builder_.sbuf("result", sbuf_dtype(s_.out_dtype), partitions_, free);
    count_ = builder_.sbuf("count", Dtype::float32, partitions_, free, 1);
    if (!streams_queries_) {
      matches_ = builder_.sbuf("matches", Dtype::float32, partitions_, chunk, 1);
      part_ = builder_.sbuf("part", Dtype::float32, partitions_, 1, 1);
    }
    const std::int64_t full = s_.queries / (partitions_ * free), rest = s_.queries % (partitions_ * free);
    emit(0, full, partitions_, free, chunk);
    emit(s_.queries - rest, 1, partitions_, rest / partitions_, chunk);
    emit(s_.queries - rest % partitions_, 1, rest % partitions_, 1, chunk);
    return builder_.take();
  }

 private:
  Alu gathers() const { return s_.any ? Alu::maximum : Alu::add; }

  void emit(std::int64_t start, std::int64_t trips, std::int64_t p, std::int64_t free, std::int64_t chunk) {
    if (trips == 0 || p == 0 || free == 0) {
      return;
    }
    builder_.nest("queries");
    builder_.parallel_loop(s_.tables, [&](const Index& table) {
      builder_.parallel_loop(trips, [&](const Index& i) {
        const Index first = table * s_.queries + i * (p * free) + start;
        auto far = [&](std::int16_t hbm) { return hbm_tile(hbm, p, free, {{free, 1}}, first); };
        const Tile queries = on_chip_tile(query_tile_, p, free), count = on_chip_tile(count_, p, free);
        builder_.dma(queries, far(queries_));
        builder_.memset(count, 0);
        builder_.tiles(s_.length, chunk, [&](const Index& key, std::int64_t width) {
          builder_.dma(on_chip_tile(key_tile_, p, width), hbm_tile(keys_, p, 0, {{width, 1}}, table * s_.length + key));
          streams_queries_ ? meet_keys(queries, count, p, width) : meet_queries(queries, count, p, width);
        });
        const Tile result = on_chip_tile(result_, p, free);
        if (s_.any) {
          builder_.tensor_copy(result, count);
        } else {
          builder_.tensor_scalar(result, count, Alu::multiply, -1, Alu::add, static_cast<float>(s_.length));
        }
        builder_.dma(far(out_), result);
      });
    });
  }

  void meet_keys(const Tile& queries, const Tile& count, std::int64_t p, std::int64_t width) {
    builder_.loop(width, [&](const Index& key) {
      builder_.emit({.opcode = Opcode::scalar_tensor_tensor,
                     .dst = count,
                     .src = {queries, count, on_chip_tile(key_tile_, p, 1, key)},
                     .alu0 = s_.alu,
                     .alu1 = gathers()});
    });
  }

  void meet_queries(const Tile& query, const Tile& count, std::int64_t p, std::int64_t width) {
    const Tile matches = on_chip_tile(matches_, p, width), part = on_chip_tile(part_, p, 1);
    builder_.emit({.opcode = Opcode::tensor_scalar,
                   .dst = matches,
                   .src = {on_chip_tile(key_tile_, p, width), query},
                   .alu0 = mirrored(s_.alu)});
    builder_.tensor_reduce(part, matches, gathers());
    builder_.tensor_tensor(count, count, part, gathers());
  }

  const target::Target& target_;
  const RankShape& s_;
  const std::int64_t partitions_;
  Builder builder_{"rank"};
  bool streams_queries_ = false;
  std::int16_t keys_ = -1, queries_ = -1, out_ = -1;
  std::int16_t key_tile_ = -1, query_tile_ = -1, result_ = -1, count_ = -1, matches_ = -1, part_ = -1;
};

[[noreturn]] void refuse(const std::string& rule, const std::string& got) {
  throw Error(Category::unimplemented, "[rank] " + rule + "; got " + got + ". Use reference numerics for it.");
}

}  // namespace

program::Program rank(const target::Target& target, const RankShape& shape) {
  return RankKernel(target, shape).build();
}

void require_executable(const RankShape& shape) {
  constexpr std::int64_t kMostExact = std::int64_t{1} << 24;
  if (shape.alu < Alu::equal || shape.alu > Alu::greater_equal) {
    refuse("keys are compared", std::string(target::name(shape.alu)));
  }
  if (is_complex(shape.key_dtype) || is_complex(shape.query_dtype)) {
    refuse("complex elements are counted, not executed", std::string(target::name(shape.key_dtype)));
  }
  if (shape.length > kMostExact) {
    refuse("counts are exact in fp32", std::to_string(shape.length) + " keys");
  }
}

}  // namespace trn::kernels
