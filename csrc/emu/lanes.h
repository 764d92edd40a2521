// How the engines stream operands: blocks of elements in the order [partitions, free...], as fp32 or as integers.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "emu/elements.h"
#include "emu/numerics.h"
#include "emu/view.h"

namespace trn::emu {

// An operand's elements in order, with adjacent dimensions merged where memory allows: a dense tile is one run.
class Walk {
 public:
  explicit Walk(const View& view);

  std::byte* at() const { return at_; }
  std::int64_t stride() const { return dims_[0].stride; }           // bytes within the current run
  std::int64_t run() const { return dims_[0].size - dims_[0].at; }  // elements left in it
  Dtype dtype() const { return dtype_; }
  void advance(std::int64_t n) {  // n <= run()
    at_ += n * dims_[0].stride;
    dims_[0].at += n;
    if (dims_[0].at == dims_[0].size) {
      carry();
    }
  }
  // Calls visit(address, stride, n) for the runs that make up the next `n` elements.
  template <class Visit>
  void take(std::int64_t n, Visit visit) {
    while (n > 0) {
      const std::int64_t part = std::min(n, run());
      visit(at_, stride(), part);
      advance(part);
      n -= part;
    }
  }

 private:
  struct Dim {
    std::int64_t size = 1, stride = 0, at = 0;
  };
  void carry();

  std::byte* at_;
  Dtype dtype_;
  std::size_t rank_ = 0;
  std::array<Dim, Extents::kMost + 1> dims_;  // innermost first
};

// One value for all partitions, or a tile of one element per partition.
struct ScalarOperand {
  ScalarOperand(double value) : value(value) {}
  ScalarOperand(const View& vector) : vector(&vector) {}
  double value = 0;  // holds any int32
  const View* vector = nullptr;
};
inline constexpr std::int64_t kMostPartitions = 128;

class Lanes {
 public:
  // Elements per block: a few operands of it stay in the host's first-level cache.
  static constexpr std::int64_t kBlock = 2048;

  explicit Lanes(const Numerics& numerics = {});

  // body(in, out, n) per block: `in[s]` the sources' elements, `out` the result's. An fp32 operand is used in place.
  // A body that takes a partition, body(in, out, n, p), sees blocks that stay within one.
  template <class T, std::size_t S, class Body>
  void run(const View& dst, const std::array<const View*, S>& sources, Body body);

  // One partition's row, dense.
  void read_row(const View& view, std::int64_t partition, float* out);
  void write_row(const View& view, std::int64_t partition, float* values);
  void read_row(const View& view, std::int64_t partition, std::int64_t* out);
  void write_row(const View& view, std::int64_t partition, const std::int64_t* values);

  // The same for reading, in place where the row is dense fp32, in scratch `which` otherwise.
  const float* dense_row(const View& view, std::int64_t partition, std::size_t which);
  // A per-partition operand's values.
  void read_scalars(const ScalarOperand& operand, std::int64_t partitions, float* out);
  void read_scalars(const ScalarOperand& operand, std::int64_t partitions, std::int64_t* out);
  // All elements of a tile at once.
  void write_all(const View& view, float* values);

  // Scratch of at least n elements, kept from call to call; which: 0 to 4.
  float* row(std::size_t which, std::int64_t n);
  std::int64_t* integer_row(std::size_t which, std::int64_t n);

  const Numerics& numerics() const { return numerics_; }
  StochasticBits& bits() { return bits_; }

 private:
  static constexpr std::int64_t kLeastInPlace = 64;
  static constexpr std::size_t kMostOperands = 5;

  template <class T>
  static bool is_native(const Walk& walk) {
    constexpr Dtype native = std::is_same_v<T, float> ? Dtype::float32 : Dtype::int64;
    return walk.dtype() == native && walk.stride() == sizeof(T);
  }
  template <class T>
  std::vector<T>& blocks() {
    if constexpr (std::is_same_v<T, float>) {
      return floats_;
    } else {
      return integers_;
    }
  }
  template <class T>
  std::vector<T>& staged() {
    if constexpr (std::is_same_v<T, float>) {
      return staged_floats_;
    } else {
      return staged_integers_;
    }
  }
  void put(Walk& to, float* values, std::int64_t n);
  void put(Walk& to, const std::int64_t* values, std::int64_t n);
  // What the switches make of results on their way out.
  void settle(Dtype dtype, float* values, std::int64_t n) const;
  void settle(Dtype, std::int64_t*, std::int64_t) const {}

  Numerics numerics_;
  StochasticBits bits_;
  std::vector<float> floats_, staged_floats_, rows_[5];
  std::vector<std::int64_t> integers_, staged_integers_, integer_rows_[5];
};

template <class T, std::size_t S, class Body>
void Lanes::run(const View& dst, const std::array<const View*, S>& sources, Body body) {
  static_assert(S < kMostOperands);
  std::vector<T>& blocks = this->blocks<T>();
  blocks.resize(static_cast<std::size_t>(kBlock) * kMostOperands);
  const std::int64_t total = dst.elements();
  const bool is_staged = std::any_of(sources.begin(), sources.end(), [&](const View* s) { return is_hazard(dst, *s); });
  std::vector<T>& staged = this->staged<T>();
  if (is_staged) {
    staged.resize(static_cast<std::size_t>(total));
  }
  Walk to(dst);
  const auto walks = [&]<std::size_t... I>(std::index_sequence<I...>) {
    return std::array<Walk, S + 1>{Walk(*sources[I])..., Walk(dst)};
  };
  std::array<Walk, S + 1> from = walks(std::make_index_sequence<S>{});
  std::array<const T*, S + 1> in = {};
  constexpr bool by_partition = std::is_invocable_v<Body, const T**, T*, std::int64_t, std::int64_t>;
  const std::int64_t row = dst.free_elements();
  auto call = [&](T* out, std::int64_t n, std::int64_t done) {
    if constexpr (by_partition) {
      body(in.data(), out, n, done / row);
    } else {
      body(in.data(), out, n);
    }
  };
  for (std::int64_t done = 0; done < total;) {
    std::int64_t n = std::min(total - done, kBlock);
    if constexpr (by_partition) {
      n = std::min(n, row - done % row);
    }
    auto shorten = [&](const Walk& walk) {
      if (is_native<T>(walk) && walk.run() >= kLeastInPlace) {
        n = std::min(n, walk.run());
      }
    };
    for (std::size_t s = 0; s < S; ++s) {
      shorten(from[s]);
    }
    shorten(to);
    for (std::size_t s = 0; s < S; ++s) {
      if (is_native<T>(from[s]) && from[s].run() >= n) {
        in[s] = reinterpret_cast<const T*>(from[s].at());
        from[s].advance(n);
        continue;
      }
      T* at = blocks.data() + static_cast<std::int64_t>(s) * kBlock;
      in[s] = at;
      from[s].take(n, [&](const std::byte* address, std::int64_t stride, std::int64_t part) {
        load(from[s].dtype(), address, stride, at, part);
        at += part;
      });
    }
    if (is_staged) {
      call(staged.data() + done, n, done);
    } else if (is_native<T>(to) && to.run() >= n) {
      T* out = reinterpret_cast<T*>(to.at());
      call(out, n, done);
      settle(to.dtype(), out, n);
      to.advance(n);
    } else {
      T* out = blocks.data() + static_cast<std::int64_t>(S) * kBlock;
      call(out, n, done);
      put(to, out, n);
    }
    done += n;
  }
  if (is_staged) {
    put(to, staged.data(), total);
  }
}

}  // namespace trn::emu
