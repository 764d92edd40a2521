// TensorE's two instructions and their limits.
#include "emu/tensor_engine.h"

#include <string>

#include "emu/lanes.h"
#include "emu/limits.h"
#include "emu/transfer.h"

namespace trn::emu {
namespace {

bool is_tensor_dtype(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
    case Dtype::bfloat16:
    case Dtype::float16:
    case Dtype::float8_e4m3:
    case Dtype::float8_e4m3fn:
    case Dtype::float8_e5m2:
      return true;
    default:
      return false;
  }
}

}  // namespace

void TensorEngine::require_bank(std::string_view where, const View& dst) const {
  require_memory(where, "the result lies in PSUM", dst, dst.memory == Memory::psum, "Copy it to SBUF afterwards.");
  const std::int64_t bank_bytes = core_.psum_bytes_per_partition / core_.psum_num_banks;
  require_at_most(where, "the result lies in one PSUM bank",
                  dst.bank_offset_bytes + dst.span() * target::itemsize(dst.dtype), bank_bytes,
                  "Use fewer moving columns or start on a bank.");
}

TensorEngine::Rows TensorEngine::rows(const View& view, std::vector<float>& storage) {
  const std::int64_t columns = view.free_elements();
  if (view.dtype == Dtype::float32 && view.free.size() == 1 && view.free[0].stride == 1) {
    return {reinterpret_cast<const float*>(view.data), view.partition_bytes / static_cast<std::int64_t>(sizeof(float))};
  }
  if (storage.size() < static_cast<std::size_t>(view.partitions * columns)) {
    storage.resize(static_cast<std::size_t>(view.partitions * columns));
  }
  float* to = storage.data();
  Walk walk(view);
  walk.take(view.elements(), [&](const std::byte* from, std::int64_t stride, std::int64_t n) {
    load(view.dtype, from, stride, to, n);
    to += n;
  });
  return {storage.data(), columns};
}

void TensorEngine::nc_matmul(const View& dst, const View& stationary, const View& moving, bool accumulate) {
  constexpr std::string_view where = "nc_matmul";
  for (const View* operand : {&stationary, &moving}) {
    require_memory(where, "stationary and moving tiles lie in SBUF", *operand, operand->memory == Memory::sbuf,
                   "Load them by DMA first.");
    if (!is_tensor_dtype(operand->dtype)) {
      throw Error(Category::hardware_constraint, "[nc_matmul] TensorE multiplies floating types; got " +
                                                     std::string(target::name(operand->dtype)) +
                                                     ". Cast to float32 first.");
    }
  }
  if ((stationary.dtype == Dtype::float32) != (moving.dtype == Dtype::float32)) {
    throw Error(Category::hardware_constraint, "[nc_matmul] float32 pairs only with float32; got " +
                                                   std::string(target::name(stationary.dtype)) + " and " +
                                                   std::string(target::name(moving.dtype)) + ". Cast one of them.");
  }
  const std::int64_t m = stationary.free_elements(), n = moving.free_elements();
  require_at_most(where, "K lies on the partitions", stationary.partitions, core_.num_partitions, "Split K.");
  require_equal(where, "stationary and moving tiles share K", moving.partitions, stationary.partitions,
                "Give both the same partitions.");
  require_at_most(where, "the stationary tile has few columns", m, core_.stationary_free_max_elements, "Split M.");
  require_at_most(where, "the moving tile has few columns", n, core_.moving_free_max_elements, "Split N.");
  require_equal(where, "the result has a partition per stationary column", dst.partitions, m,
                "Give it the shape [M, N].");
  require_equal(where, "the result has an element per moving column", dst.free_elements(), n,
                "Give it the shape [M, N].");
  require_bank(where, dst);
  if (dst.dtype != Dtype::float32) {
    throw Error(Category::hardware_constraint, "[nc_matmul] PSUM accumulates in float32; got " +
                                                   std::string(target::name(dst.dtype)) +
                                                   ". Cast when copying out of PSUM.");
  }
  if (dst.span() != n) {
    throw Error(Category::hardware_constraint, "[nc_matmul] the result's columns are contiguous; got a span of " +
                                                   std::to_string(dst.span()) + ", limit " + std::to_string(n) +
                                                   ". Use a stride of 1.");
  }
  const Rows weights = rows(stationary, stationary_), inputs = rows(moving, moving_);
  gemm_(m, n, stationary.partitions, weights.data, weights.stride, inputs.data, inputs.stride,
        reinterpret_cast<float*>(dst.data), dst.partition_bytes / static_cast<std::int64_t>(sizeof(float)), accumulate);
}

void TensorEngine::nc_transpose(const View& dst, const View& src) {
  constexpr std::string_view where = "nc_transpose";
  require_memory(where, "the source lies in SBUF", src, src.memory == Memory::sbuf, "Load it by DMA first.");
  require_at_most(where, "the source spans at most every partition", src.partitions, core_.num_partitions,
                  "Split the tile.");
  require_at_most(where, "the source has few columns", src.free_elements(), core_.stationary_free_max_elements,
                  "Split the tile.");
  require_equal(where, "the result has a partition per source column", dst.partitions, src.free_elements(),
                "Give it the transposed shape.");
  require_equal(where, "the result has an element per source partition", dst.free_elements(), src.partitions,
                "Give it the transposed shape.");
  require_bank(where, dst);
  if (dst.dtype != src.dtype) {
    throw Error(Category::hardware_constraint,
                "[nc_transpose] the result has the source's dtype; got " + std::string(target::name(dst.dtype)) +
                    " from " + std::string(target::name(src.dtype)) + ". Cast when copying out of PSUM.");
  }
  // Row f of the result is column f of the source: its partitions as the free dimension.
  View columns = dst;
  columns.partitions = src.partitions;
  columns.partition_bytes = dst.free.back().stride * target::itemsize(dst.dtype);
  columns.free = {{src.free_elements(), dst.partition_bytes / target::itemsize(dst.dtype)}};
  transfer(columns, src);
}

}  // namespace trn::emu
