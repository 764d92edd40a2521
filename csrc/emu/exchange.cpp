// Two transfers at once.
#include "emu/exchange.h"

#include <array>
#include <cstddef>
#include <vector>

#include "emu/transfer.h"

namespace trn::emu {
namespace {

// A tile's values as they were.
struct Snapshot {
  std::vector<std::byte> bytes;
  View view;

  explicit Snapshot(const View& of) {
    const std::int64_t row_bytes = of.free_elements() * target::itemsize(of.dtype);
    bytes.resize(static_cast<std::size_t>(of.partitions * row_bytes));
    view = {.data = bytes.data(),
            .dtype = of.dtype,
            .partitions = of.partitions,
            .partition_bytes = row_bytes,
            .free = {{of.free_elements(), 1}}};
    transfer(view, of);
  }
};

}  // namespace

void exchange(const Side& a, const Side& b, bool crosses, target::Alu reduce_op) {
  const Snapshot of_a(a.src), of_b(b.src);
  auto receive = [&](const Side& side, const Snapshot& own, const Snapshot& other) {
    if (reduce_op == target::Alu::none) {
      side.dma.copy(side.dst, other.view);
    } else {
      side.dma.compute(side.dst, std::array{own.view, other.view}, reduce_op);
    }
    mark_written(side.dst);
  };
  receive(a, of_a, crosses ? of_b : of_a);
  receive(b, of_b, crosses ? of_a : of_b);
}

}  // namespace trn::emu
