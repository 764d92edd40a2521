// VectorE: streams of elements in fp32, with the cast to the result's dtype on the way out.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "emu/alu.h"
#include "emu/lanes.h"
#include "emu/reduce_registers.h"
#include "emu/view.h"
#include "emu/xorwow.h"
#include "target/target.h"

namespace trn::emu {

// All operands have the result's shape but where said; a stride of 0 repeats an element.
class VectorEngine {
 public:
  explicit VectorEngine(const target::Core& core, const Numerics& numerics = {}, std::uint64_t seed = 0)
      : core_(core), lanes_(numerics), random_(seed), generators_(4, seed) {}

  // Element by element: vector_engine.cpp.
  // `is_native`: integers as such, as GpSimdE computes them.
  void tensor_tensor(const View& dst, const View& a, const View& b, Alu alu, bool is_native = false);
  // alu1(alu0(x, scalar0), scalar1); reversed: the scalar is the left operand.
  void tensor_scalar(const View& dst, const View& x, Alu alu0, const ScalarOperand& scalar0, Alu alu1,
                     const ScalarOperand& scalar1, bool reverse0 = false, bool reverse1 = false);
  // alu1(alu0(a, scalar0), b)
  void scalar_tensor_tensor(const View& dst, const View& a, const View& b, Alu alu0, const ScalarOperand& scalar0,
                            Alu alu1, bool reverse0 = false, bool reverse1 = false);
  // The cast; bits are kept where the dtype is.
  void tensor_copy(const View& dst, const View& src);
  // predicate ? scalar : x
  void tensor_copy_predicated(const View& dst, const View& x, const View& predicate, float scalar);
  // dst keeps its elements where the predicate (reversed: its negation) is false; `src` a tile of dst's dtype, or null
  // for the scalar.
  void tensor_copy_predicated(const View& dst, const View* src, double scalar, const View& predicate, bool reverse);
  void select(const View& dst, const View& condition, const View& x, const View& y);
  void select(const View& dst, const View& condition, const View& x, float y);
  void reciprocal(const View& dst, const View& src);
  void memset(const View& dst, double value);

  // Along the free axis: vector_reduce.cpp.
  // data: [P, kept * reduced], dst: [P, kept]; the innermost elements are reduced.
  void tensor_reduce(const View& dst, Alu alu, const View& data, bool negate = false);
  // dst = alu0(data, operand0), reduced into the registers; reduce_res: [P, 1]. reduce_init goes with load_reduce.
  void tensor_scalar_reduce(const View& dst, const View& data, Alu alu0, const ScalarOperand& operand0, Alu reduce_op,
                            const View* reduce_res, ReduceCmd cmd = ReduceCmd::reset_reduce,
                            const ScalarOperand& reduce_init = 0.0, bool reverse0 = false, bool negates = false);
  // dst[i] = register = op1(op0(src[i], imm0), register)
  void tensor_scalar_cumulative(const View& dst, const View& src, Alu op0, Alu op1, const ScalarOperand& imm0,
                                const ScalarOperand& imm1, ReduceCmd cmd);
  // dst[i] = op1(op0(data0[i], dst[i - 1]), data1[i]), from `initial`
  void tensor_tensor_scan(const View& dst, const View& data0, const View& data1, const ScalarOperand& initial, Alu op0,
                          Alu op1, bool reverse0 = false, bool reverse1 = false);
  // dst: [P, 6], (count, mean, variance * count) of the even and of the odd elements
  void bn_stats(const View& dst, const View& data);
  // dst: [P, 2], mean and variance of any number of such triples
  void bn_aggr(const View& dst, const View& data);
  // reduce_res (may be null): [P, 1], the registers' maximum
  void select_reduce(const View& dst, const View& predicate, const View& on_true, const ScalarOperand& on_false,
                     const View* reduce_res, ReduceCmd cmd, bool reverse_pred);
  // on_true where op0(range_start + f, bound0) and op1(range_start + f, bound1)
  void range_select(const View& dst, const View& on_true, Alu comp_op0, Alu comp_op1, const View& bound0,
                    const View& bound1, const View* reduce_res, ReduceCmd cmd, float range_start, float on_false);

  // exp(src - max_value), summed into the registers; reduce_init goes with load_reduce.
  void exponential(const View& dst, const View& src, const ScalarOperand& max_value, const View* reduce_res,
                   ReduceCmd cmd, const ScalarOperand& reduce_init);

  // By value: vector_search.cpp. dst, vals, dst_idx: [P, 8]
  void max8(const View& dst, const View& src);
  void nc_find_index8(const View& dst, const View& data, const View& vals);
  void nc_match_replace8(const View& dst, const View& data, const View& vals, float imm, const View* dst_idx);

  // Across partitions and formats: vector_move.cpp.
  void nc_transpose(const View& dst, const View& data);  // up to [32, 32]
  void nc_stream_shuffle(const View& dst, const View& src, const std::array<int, 32>& mask);
  void quantize_mx(const View& dst, const View& src, const View& dst_scale);

  // At random: vector_random.cpp.
  void dropout(const View& dst, const View& data, const ScalarOperand& prob);
  void rng(const View& dst);                                                        // bits; dst: integers
  void rand2(const View& dst, const ScalarOperand& min, const ScalarOperand& max);  // uniform in [min, max)
  void set_rng_seed(const View& src_seeds);                                         // [1, 1] of 32 bits
  void rand_set_state(const View& src_seeds);                                       // [P, 24]
  void rand_get_state(const View& dst);

  StochasticBits& bits() { return lanes_.bits(); }
  // dropout's numbers: a function of the seed and of how many were drawn.
  StochasticBits& random() { return random_; }

 private:
  // Checks the operands, then lanes_.run.
  template <class T, std::size_t S, class Body>
  void run(std::string_view where, const View& dst, const std::array<const View*, S>& sources, Body body) {
    check(where, dst, sources.data(), S);
    lanes_.run<T>(dst, sources, body);
  }
  void check(std::string_view where, const View& dst, const View* const* sources, std::size_t num_sources) const;
  void require_float_alu(std::string_view where, Alu alu) const;
  // Whether an instruction on these operands computes in integers.
  bool computes_integers(std::initializer_list<const View*> views, std::initializer_list<Alu> alus = {},
                         std::initializer_list<double> constants = {}) const;
  void require_reduce_res(std::string_view where, const View* reduce_res, std::int64_t partitions) const;

  target::Core core_;
  Lanes lanes_;
  StochasticBits random_;
  Xorwow generators_;  // four, as four numbers are drawn in a cycle
  ReduceRegisters registers_;
};

}  // namespace trn::emu
