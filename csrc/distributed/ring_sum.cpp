#include "distributed/ring_sum.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "target/integers.h"

namespace trn::distributed {

using target::ceil_div;
using target::round_up;

namespace {

using c10d::ReduceOp;

constexpr std::int64_t kBlockBytes = 16 << 10;      // stays in the first cache
constexpr std::int64_t kMaxSegmentBytes = 1 << 20;  // gloo's default
constexpr std::int64_t kParallelBytes = 256 << 10;  // below this one thread is faster

// gloo gives each rank one chunk, of at least two segments; what is left over the last ranks lack.
std::int64_t chunk_bytes(Ring ring, std::int64_t total, std::int64_t element, std::int64_t num_ranks) {
  const std::int64_t max_segment = element * std::max<std::int64_t>(1, kMaxSegmentBytes / element);
  if (ring == Ring::all_reduce) {
    const std::int64_t num_segments = round_up(std::max(ceil_div(total, max_segment), 2 * num_ranks), num_ranks);
    return num_segments / num_ranks * round_up(ceil_div(total, num_segments), element);
  }
  const std::int64_t segment = round_up(std::min(ceil_div(total, 2 * num_ranks), max_segment), element);
  const std::int64_t num_segments = round_up(std::max(ceil_div(total, segment), 2 * num_ranks), num_ranks);
  return num_segments / num_ranks * segment;
}

// `own` is the rank's, `sum` what has come round the ring: the order counts for a NaN in max and min.
template <class T>
void combine(ReduceOp::RedOpType op, const T* own, T* sum, std::int64_t n) {
  const auto each = [&](auto function) {
    for (std::int64_t i = 0; i < n; ++i) {
      sum[i] = static_cast<T>(function(own[i], sum[i]));
    }
  };
  switch (op) {
    case ReduceOp::SUM:
    case ReduceOp::AVG:
      return each([](T a, T b) { return a + b; });
    case ReduceOp::PRODUCT:
      return each([](T a, T b) { return a * b; });
    case ReduceOp::MIN:
      return each([](T a, T b) { return std::min(a, b); });
    case ReduceOp::MAX:
      return each([](T a, T b) { return std::max(a, b); });
    default:
      break;
  }
  if constexpr (std::is_integral_v<T>) {
    switch (op) {
      case ReduceOp::BAND:
        return each([](T a, T b) { return a & b; });
      case ReduceOp::BOR:
        return each([](T a, T b) { return a | b; });
      case ReduceOp::BXOR:
        return each([](T a, T b) { return a ^ b; });
      default:
        break;
    }
  }
  TORCH_CHECK_VALUE(false, "[reduction] there is no such reduction for this type; got ReduceOp ", static_cast<int>(op),
                    ". Use another ReduceOp or convert the tensor.");
}

template <class T>
void ring_sum_of(Ring ring, const std::vector<const void*>& inputs, const std::vector<void*>& outputs, std::int64_t n,
                 ReduceOp::RedOpType op) {
  const auto num_ranks = static_cast<std::int64_t>(inputs.size());
  constexpr std::int64_t kBlock = kBlockBytes / static_cast<std::int64_t>(sizeof(T));
  const std::int64_t chunk = chunk_bytes(ring, n * static_cast<std::int64_t>(sizeof(T)), sizeof(T), num_ranks) /
                             static_cast<std::int64_t>(sizeof(T));
  const auto run = [&](std::int64_t begin, std::int64_t end) {
    std::array<T, kBlock> sum;
    for (std::int64_t start = begin; start < end;) {
      const std::int64_t owner = start / chunk;
      const std::int64_t size = std::min({kBlock, end - start, (owner + 1) * chunk - start});
      // A chunk starts at the rank before its owner and goes down the ranks, the owner last.
      for (std::int64_t step = 1; step <= num_ranks; ++step) {
        const auto rank = static_cast<std::size_t>(((owner - step) % num_ranks + num_ranks) % num_ranks);
        const T* own = static_cast<const T*>(inputs[rank]) + start;
        if (step == 1) {
          std::memcpy(sum.data(), own, static_cast<std::size_t>(size) * sizeof(T));
        } else {
          combine(op, own, sum.data(), size);
        }
      }
      for (void* output : outputs) {
        std::memcpy(static_cast<T*>(output) + start, sum.data(), static_cast<std::size_t>(size) * sizeof(T));
      }
      start += size;
    }
  };
  if (n * static_cast<std::int64_t>(sizeof(T)) < kParallelBytes) {
    run(0, n);
  } else {
    at::parallel_for(0, n, kParallelBytes / static_cast<std::int64_t>(sizeof(T)), run);
  }
}

}  // namespace

void ring_sum(Ring ring, const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
              std::int64_t num_elements, at::ScalarType dtype, c10d::ReduceOp::RedOpType op) {
  if (num_elements == 0) {
    return;
  }
  switch (dtype) {
    case at::kFloat:
      return ring_sum_of<float>(ring, inputs, outputs, num_elements, op);
    case at::kDouble:
      return ring_sum_of<double>(ring, inputs, outputs, num_elements, op);
    case at::kHalf:
      return ring_sum_of<c10::Half>(ring, inputs, outputs, num_elements, op);
    case at::kBFloat16:
      return ring_sum_of<c10::BFloat16>(ring, inputs, outputs, num_elements, op);
    case at::kChar:
      return ring_sum_of<std::int8_t>(ring, inputs, outputs, num_elements, op);
    case at::kByte:
    case at::kBool:
      return ring_sum_of<std::uint8_t>(ring, inputs, outputs, num_elements, op);
    case at::kInt:
      return ring_sum_of<std::int32_t>(ring, inputs, outputs, num_elements, op);
    case at::kLong:
      return ring_sum_of<std::int64_t>(ring, inputs, outputs, num_elements, op);
    default:
      TORCH_CHECK_TYPE(false, "[reduction] takes the types that gloo adds; got ", c10::getDtypeNames(dtype).first,
                       ". Convert the tensor.");
  }
}

}  // namespace trn::distributed
