// GpSimdE: indices, random numbers, and what is picked by them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "emu/alu.h"
#include "emu/lanes.h"
#include "emu/view.h"
#include "emu/xorwow.h"
#include "target/target.h"

namespace trn::emu {

// Element (p, f) of a tile stands for index offset + p * partition_stride + sum(free strides * f).
struct IndexPattern {
  std::int64_t offset = 0, partition_stride = 0;
  Extents free;
};

class GpSimdEngine {
 public:
  explicit GpSimdEngine(const target::Core& core, std::uint64_t seed = 0, const Numerics& numerics = {})
      : core_(core), seed_(seed), lanes_(numerics), generators_(1, seed) {}

  // start + index
  void iota(const View& dst, const IndexPattern& pattern, float start);
  // Uniform in [0, 1), a function of the seed and the index alone: tiling does not change the numbers. Or what has been
  // drawn for each index elsewhere, until `draws` is empty again.
  void rng(const View& dst, const IndexPattern& pattern);
  void set_draws(std::span<const float> draws) { draws_ = draws; }

  void rng(const View& dst);                   // bits; dst: integers
  void rand_set_state(const View& src_seeds);  // [P, 6]
  void rand_get_state(const View& dst);
  // on_true where cmp_op(pattern's value, 0)
  void affine_select(const View& dst, const IndexPattern& pattern, const View& on_true, float on_false, Alu cmp_op);

  // gpsimd_gather.cpp. Each group of 16 partitions picks runs of `elements_per_index` that begin at its own indices,
  // which lie partition first: index i of a group is element i / 16 of its partition i % 16. num_valid_indices 0: all.
  void local_gather(const View& dst, const View& src_buffer, const View& index, std::int64_t elements_per_index,
                    std::int64_t num_valid_indices);
  // dst[p, i] = data[p, indices[p, i]]
  void nc_n_gather(const View& dst, const View& data, const View& indices);
  // dst: [1, N], data: [P, N]; add, maximum, bitwise_or, bitwise_and
  void tensor_partition_reduce(const View& dst, Alu alu, const View& data);
  // segment_ids: [1, N], dst: [1, 2, N], first index and one past the last of each element's segment; N and -1 for
  // segment 0, which is padding.
  void sequence_bounds(const View& dst, const View& segment_ids);

  // Of partitions 0, 16, 32, ...: the places of elements that are not 0, then padding_val, then how many there are.
  // dst: one element more to a partition.
  void nonzero_with_count(const View& dst, const View& src, std::int64_t index_offset, std::int64_t padding_val);

  // Of each 16 partitions, whose n elements lie partition first (element i in column i / 16 of partition i % 16): the
  // largest, as many as val_dst has columns, in ascending order and laid alike, and their places. Of equal values the
  // first are taken; a NaN is larger than all (both assumed). What shares a column with the last result is undefined:
  // NaN, and 2^32 - 1.
  void topk(const View& val_dst, const View& idx_dst, const View& src, std::int64_t n);

  StochasticBits& bits() { return lanes_.bits(); }

 private:
  // function(indices, n, p) per partition.
  template <class Function>
  void fill(std::string_view where, const View& dst, const IndexPattern& pattern, Function function);

  target::Core core_;
  std::uint64_t seed_;
  std::span<const float> draws_;
  Lanes lanes_;
  Xorwow generators_;
};

}  // namespace trn::emu
