// VectorE along the free axis: reductions, scans, statistics.
#include <algorithm>
#include <array>
#include <limits>
#include <string>

#include "emu/activation.h"
#include "emu/convert.h"
#include "emu/limits.h"
#include "emu/vector_engine.h"

namespace trn::emu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float one(Alu alu, float a, float b) {
  float result = 0;
  apply(alu, &a, &b, &result, 1);
  return result;
}

bool is_comparison(Alu alu) {
  return alu == Alu::equal || (alu >= Alu::less && alu <= Alu::greater_equal);
}

void require_reduction(std::string_view where, Alu alu) {
  switch (alu) {
    case Alu::add:
    case Alu::subtract:
    case Alu::multiply:
    case Alu::maximum:
    case Alu::minimum:
      return;
    default:
      refuse(where, "the reduction is add, subtract, multiply, maximum or minimum", target::name(alu),
             "Use tensor_reduce.");
  }
}

// Sum and sum of squared deviations of every other element.
struct Moments {
  float count = 0, mean = 0, deviation = 0;

  Moments(const float* values, std::int64_t n, std::int64_t step) {
    double sum = 0, squares = 0;
    for (std::int64_t i = 0; i < n; i += step) {
      sum += values[i];
      ++count;
    }
    const double average = count > 0 ? sum / count : 0;
    for (std::int64_t i = 0; i < n; i += step) {
      squares += (values[i] - average) * (values[i] - average);
    }
    mean = static_cast<float>(average);
    deviation = static_cast<float>(squares);
  }
};

}  // namespace

void VectorEngine::tensor_reduce(const View& dst, Alu alu, const View& data, bool negate) {
  constexpr std::string_view where = "tensor_reduce";
  require_tile(where, core_, dst);
  require_source(where, core_, data);
  require_partitions(where, data, dst.partitions);
  const std::int64_t n = data.free_elements(), kept = dst.free_elements();
  require_multiple(where, "the input's elements are a multiple of the result's", n, kept, "Reduce whole axes.");
  const std::int64_t reduced = n / kept;
  const bool is_exact = !negate && computes_integers({&dst, &data}, {alu});
  if (is_bitwise(alu) || is_exact) {
    require_dtype(where, "bitwise operations take integers", data, is_exact || (is_integer(data.dtype) && !negate),
                  "Use integer tiles.");
    std::int64_t *row = lanes_.integer_row(0, n), *out = lanes_.integer_row(1, kept);
    for (std::int64_t p = 0; p < dst.partitions; ++p) {
      lanes_.read_row(data, p, row);
      for (std::int64_t k = 0; k < kept; ++k) {
        out[k] = row[k * reduced];
        for (std::int64_t i = 1; i < reduced; ++i) {
          apply(alu, out + k, row + k * reduced + i, out + k, 1);
        }
      }
      lanes_.write_row(dst, p, out);
    }
    return;
  }
  float* const result = lanes_.row(1, dst.elements());
  float* out = result;
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    const float* row = lanes_.dense_row(data, p, 0);
    for (std::int64_t k = 0; k < kept; ++k) {
      const float value = fold(alu, row + k * reduced, reduced);
      *out++ = negate ? -value : value;
    }
  }
  lanes_.write_all(dst, result);
}

void VectorEngine::tensor_scalar_reduce(const View& dst, const View& data, Alu alu0, const ScalarOperand& operand0,
                                        Alu reduce_op, const View* reduce_res, ReduceCmd cmd,
                                        const ScalarOperand& reduce_init, bool reverse0, bool negates) {
  constexpr std::string_view where = "tensor_scalar_reduce";
  require_float_alu(where, alu0);
  require_reduction(where, reduce_op);
  require_operand(where, core_, dst, dst);
  require_operand(where, core_, data, dst);
  require_scalar(where, core_, operand0, dst.partitions);
  require_scalar(where, core_, reduce_init, dst.partitions);
  if (reduce_res != nullptr) {
    require_vector(where, core_, *reduce_res, dst.partitions);
  }
  require_reduces(where, cmd);
  float scalars[kMostPartitions], starts[kMostPartitions];
  lanes_.read_scalars(operand0, dst.partitions, scalars);
  lanes_.read_scalars(reduce_init, dst.partitions, starts);
  registers_.begin(dst, cmd, identity(reduce_op), starts);
  const std::int64_t n = dst.free_elements();
  float* out = lanes_.row(1, n);
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    const float* row = lanes_.dense_row(data, p, 0);
    reverse0 ? apply(alu0, scalars[p], row, out, n) : apply(alu0, row, scalars[p], out, n);
    const float reduced = fold(reduce_op, out, n);
    if (resets(cmd)) {
      registers_.lane(dst, p) = reduced;
    } else {
      registers_.reduce(dst, p, reduce_op, reduced);
    }
    lanes_.write_row(dst, p, out);
  }
  registers_.store(lanes_, dst, reduce_res, negates);
}

void VectorEngine::tensor_scalar_cumulative(const View& dst, const View& src, Alu op0, Alu op1,
                                            const ScalarOperand& imm0, const ScalarOperand& imm1, ReduceCmd cmd) {
  constexpr std::string_view where = "tensor_scalar_cumulative";
  require_float_alu(where, op0);
  require_reduction(where, op1);
  require_reduces(where, cmd);
  require_operand(where, core_, dst, dst);
  require_operand(where, core_, src, dst);
  require_scalar(where, core_, imm0, dst.partitions);
  require_scalar(where, core_, imm1, dst.partitions);
  for (const View* view : {&dst, &src}) {
    require_dtype(where, "32-bit integers have no cumulative form", *view,
                  !is_integer(view->dtype) || target::itemsize(view->dtype) < 4, "Cast to float32.");
  }
  float scalars[kMostPartitions], loaded[kMostPartitions];
  lanes_.read_scalars(imm0, dst.partitions, scalars);
  lanes_.read_scalars(imm1, dst.partitions, loaded);
  const std::int64_t n = dst.free_elements();
  float* out = lanes_.row(1, n);
  registers_.begin(dst, cmd, identity(op1), loaded);
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    float& state = registers_.lane(dst, p);
    apply(op0, lanes_.dense_row(src, p, 0), scalars[p], out, n);
    for (std::int64_t i = 0; i < n; ++i) {
      state = one(op1, out[i], state);
      out[i] = state;
    }
    lanes_.write_row(dst, p, out);
  }
}

void VectorEngine::tensor_tensor_scan(const View& dst, const View& data0, const View& data1,
                                      const ScalarOperand& initial, Alu op0, Alu op1, bool reverse0, bool reverse1) {
  constexpr std::string_view where = "tensor_tensor_scan";
  require_float_alu(where, op0);
  require_float_alu(where, op1);
  require_not_both_in_psum(where, data0, data1);
  require_operand(where, core_, dst, dst);
  require_operand(where, core_, data0, dst);
  require_operand(where, core_, data1, dst);
  require_scalar(where, core_, initial, dst.partitions);
  float states[kMostPartitions];
  lanes_.read_scalars(initial, dst.partitions, states);
  const std::int64_t n = dst.free_elements();
  float* out = lanes_.row(2, n);
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    const float *a = lanes_.dense_row(data0, p, 0), *b = lanes_.dense_row(data1, p, 1);
    float state = states[p];
    if (op0 == Alu::multiply && op1 == Alu::add) {  // the linear recurrence of state-space models
      for (std::int64_t i = 0; i < n; ++i) {
        out[i] = state = a[i] * state + b[i];
      }
    } else {
      for (std::int64_t i = 0; i < n; ++i) {
        const float first = reverse0 ? one(op0, state, a[i]) : one(op0, a[i], state);
        out[i] = state = reverse1 ? one(op1, b[i], first) : one(op1, first, b[i]);
      }
    }
    lanes_.write_row(dst, p, out);
  }
}

void VectorEngine::bn_stats(const View& dst, const View& data) {
  constexpr std::string_view where = "bn_stats";
  require_tile(where, core_, dst);
  require_source(where, core_, data);
  require_partitions(where, data, dst.partitions);
  const std::int64_t n = data.free_elements();
  require_at_most(where, "a partition has few elements", n, 512, "Split the tile and join with bn_aggr.");
  require_equal(where, "the result has six elements per partition", dst.free_elements(), 6,
                "Give it the shape [P, 6].");
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    const float* row = lanes_.dense_row(data, p, 0);
    const Moments even(row, n, 2), odd(row + 1, n - 1, 2);
    float out[] = {even.count, even.mean, even.deviation, odd.count, odd.mean, odd.deviation};
    lanes_.write_row(dst, p, out);
  }
}

void VectorEngine::bn_aggr(const View& dst, const View& data) {
  constexpr std::string_view where = "bn_aggr";
  require_tile(where, core_, dst);
  require_source(where, core_, data);
  require_partitions(where, data, dst.partitions);
  const std::int64_t n = data.free_elements();
  require_multiple(where, "a partition holds triples of bn_stats", n, 3, "Pass whole results of bn_stats.");
  require_equal(where, "the result has two elements per partition", dst.free_elements(), 2,
                "Give it the shape [P, 2].");
  for (std::int64_t p = 0; p < dst.partitions; ++p) {
    const float* row = lanes_.dense_row(data, p, 0);
    float count = 0, sum = 0, deviation = 0;
    for (std::int64_t i = 0; i < n; i += 3) {
      count += row[i];
      sum += row[i] * row[i + 1];
    }
    const float mean = sum / count;
    for (std::int64_t i = 0; i < n; i += 3) {
      const float apart = row[i + 1] - mean;
      deviation += row[i + 2] + row[i] * apart * apart;
    }
    float out[] = {mean, deviation / count};
    lanes_.write_row(dst, p, out);
  }
}

void VectorEngine::require_reduce_res(std::string_view where, const View* reduce_res, std::int64_t partitions) const {
  if (reduce_res != nullptr) {
    require_vector(where, core_, *reduce_res, partitions);
    require_dtype(where, "the reduction's result is floating", *reduce_res, !is_integer(reduce_res->dtype),
                  "Use float32.");
  }
}

void VectorEngine::exponential(const View& dst, const View& src, const ScalarOperand& max_value, const View* reduce_res,
                               ReduceCmd cmd, const ScalarOperand& reduce_init) {
  constexpr std::string_view where = "exponential";
  require_generation(where, core_, 4);
  require_operand(where, core_, dst, dst);
  for (const ScalarOperand* operand : {&max_value, &reduce_init}) {
    require_scalar(where, core_, *operand, dst.partitions);
    if (operand->vector != nullptr) {
      require_dtype(where, "max_value and reduce_init are float32", *operand->vector,
                    operand->vector->dtype == Dtype::float32, "Cast them.");
    }
  }
  if (cmd != ReduceCmd::load_reduce && (reduce_init.vector != nullptr || reduce_init.value != 0)) {
    refuse(where, "reduce_init goes with load_reduce", "another reduce_cmd", "Leave it out.");
  }
  require_reduce_res(where, reduce_res, dst.partitions);
  float maxima[kMostPartitions], starts[kMostPartitions];
  lanes_.read_scalars(max_value, dst.partitions, maxima);
  lanes_.read_scalars(reduce_init, dst.partitions, starts);
  registers_.begin(dst, cmd, 0, starts);
  run<float, 1>(where, dst, {&src}, [&](auto in, float* out, std::int64_t n, std::int64_t p) {
    evaluate(Activation::exp, lanes_.numerics(), in[0], 1.0F, -maxima[p], out, n);
    if (reduces(cmd)) {
      registers_.reduce(dst, p, Alu::add, fold(Alu::add, out, n));
    }
  });
  registers_.store(lanes_, dst, reduce_res);
}

void VectorEngine::select_reduce(const View& dst, const View& predicate, const View& on_true,
                                 const ScalarOperand& on_false, const View* reduce_res, ReduceCmd cmd,
                                 bool reverse_pred) {
  constexpr std::string_view where = "select_reduce";
  require_not_both_in_psum(where, on_true, predicate);
  require_dtype(where, "the predicate is an integer of 8 or 16 bits", predicate,
                is_integer(predicate.dtype) && target::itemsize(predicate.dtype) <= 2, "Compare into uint8.");
  require_dtype(where, "the input is no 32-bit integer", on_true,
                !is_integer(on_true.dtype) || target::itemsize(on_true.dtype) < 4, "Cast to float32.");
  require_operand(where, core_, dst, dst);
  require_scalar(where, core_, on_false, dst.partitions);
  require_reduce_res(where, reduce_res, dst.partitions);
  require_no_load(where, cmd);
  float scalars[kMostPartitions];
  lanes_.read_scalars(on_false, dst.partitions, scalars);
  registers_.begin(dst, cmd, -kInfinity);
  run<float, 2>(where, dst, {&predicate, &on_true}, [&](auto in, float* out, std::int64_t n, std::int64_t p) {
    for (std::int64_t i = 0; i < n; ++i) {
      out[i] = (in[0][i] != 0) != reverse_pred ? in[1][i] : scalars[p];
    }
    if (reduces(cmd)) {
      registers_.reduce(dst, p, Alu::maximum, fold(Alu::maximum, out, n));
    }
  });
  registers_.store(lanes_, dst, reduce_res);
}

void VectorEngine::range_select(const View& dst, const View& on_true, Alu comp_op0, Alu comp_op1, const View& bound0,
                                const View& bound1, const View* reduce_res, ReduceCmd cmd, float range_start,
                                float on_false) {
  constexpr std::string_view where = "range_select";
  require_generation(where, core_, 3);
  for (const Alu alu : {comp_op0, comp_op1}) {
    if (!is_comparison(alu)) {
      refuse(where, "both operations compare: equal, less, less_equal, greater, greater_equal", target::name(alu),
             "Use one of them.");
    }
  }
  require_dtype(where, "the input is floating", on_true, !is_integer(on_true.dtype), "Cast to float32.");
  for (const View* bound : {&bound0, &bound1}) {
    require_vector(where, core_, *bound, dst.partitions);
    require_initialized(where, *bound);
    require_dtype(where, "bounds are float32", *bound, bound->dtype == Dtype::float32, "Cast them.");
  }
  if (on_false != std::numeric_limits<float>::lowest()) {
    refuse(where, "on_false_value is the lowest float32, -3.4028235e38", std::to_string(on_false),
           "Use select_reduce for another.");
  }
  require_operand(where, core_, dst, dst);
  require_reduce_res(where, reduce_res, dst.partitions);
  require_no_load(where, cmd);
  registers_.begin(dst, cmd, -kInfinity);
  float low[kMostPartitions], high[kMostPartitions];
  lanes_.read_scalars(bound0, dst.partitions, low);
  lanes_.read_scalars(bound1, dst.partitions, high);
  const std::int64_t columns = dst.free_elements();
  float *index = lanes_.row(1, columns), *first = lanes_.row(2, columns), *second = lanes_.row(3, columns);
  for (std::int64_t i = 0; i < columns; ++i) {
    index[i] = range_start + static_cast<float>(i);
  }
  std::int64_t done = 0;
  run<float, 1>(where, dst, {&on_true}, [&](auto in, float* out, std::int64_t n, std::int64_t p) {
    const float* at = index + done % columns;
    apply(comp_op0, at, low[p], first, n);
    apply(comp_op1, at, high[p], second, n);
    for (std::int64_t i = 0; i < n; ++i) {
      out[i] = first[i] != 0 && second[i] != 0 ? in[0][i] : on_false;
    }
    if (reduces(cmd)) {  // of what is not cast yet: the fill stays a number
      registers_.reduce(dst, p, Alu::maximum, fold(Alu::maximum, out, n));
    }
    done += n;
  });
  registers_.store(lanes_, dst, reduce_res);
}

}  // namespace trn::emu
