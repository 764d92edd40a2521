// VectorE's element-wise instructions.
#include "emu/vector_engine.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>
#include <type_traits>

#include "emu/clones.h"
#include "emu/convert.h"
#include "emu/limits.h"
#include "emu/transfer.h"

namespace trn::emu {
namespace {

template <class T>
TRN_INLINE T at(const T* values, std::int64_t i) {
  return values[i];
}
template <class T>
TRN_INLINE T at(T value, std::int64_t) {
  return value;
}

template <class T, class X, class Y>
TRN_INLINE void choose_each(const T* condition, X x, Y y, T* out, std::int64_t n) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = condition[i] != 0 ? at(x, i) : at(y, i);
  }
}

TRN_CLONES void choose(const float* condition, const float* x, const float* y, float* out, std::int64_t n) {
  choose_each(condition, x, y, out, n);
}
TRN_CLONES void choose(const float* condition, const float* x, float y, float* out, std::int64_t n) {
  choose_each(condition, x, y, out, n);
}
TRN_CLONES void choose(const float* condition, float x, const float* y, float* out, std::int64_t n) {
  choose_each(condition, x, y, out, n);
}
template <class X, class Y>
void choose(const std::int64_t* condition, X x, Y y, std::int64_t* out, std::int64_t n) {
  choose_each(condition, x, y, out, n);
}

bool is_whole(double value) {
  return std::abs(value) <= 0x1p62 && std::trunc(value) == value;
}

void apply_ordered(Alu alu, const float* x, float scalar, bool is_reversed, float* out, std::int64_t n) {
  if (is_reversed) {
    apply(alu, scalar, x, out, n);
  } else {
    apply(alu, x, scalar, out, n);
  }
}

void apply_ordered(Alu alu, const std::int64_t* x, std::int64_t scalar, bool is_reversed, std::int64_t* out,
                   std::int64_t n) {
  if (!is_reversed) {
    apply(alu, x, scalar, out, n);
    return;
  }
  for (std::int64_t i = 0; i < n; ++i) {
    apply(alu, &scalar, x + i, out + i, 1);
  }
}

void require_integers(std::string_view where, std::initializer_list<const View*> views) {
  for (const View* view : views) {
    require_dtype(where, "bitwise operations take integers", *view, is_integer(view->dtype), "Use integer tiles.");
  }
}

}  // namespace

void VectorEngine::check(std::string_view where, const View& dst, const View* const* sources,
                         std::size_t num_sources) const {
  require_operand(where, core_, dst, dst);
  require_elements(where, dst);
  for (std::size_t s = 0; s < num_sources; ++s) {
    require_operand(where, core_, *sources[s], dst);
    require_elements(where, *sources[s]);
  }
}

bool VectorEngine::computes_integers(std::initializer_list<const View*> views, std::initializer_list<Alu> alus,
                                     std::initializer_list<double> constants) const {
  const Numerics& numerics = lanes_.numerics();
  if (numerics.integers_through_fp32 && !numerics.native_int64) {
    return false;
  }
  const bool has_64_bits =
      std::ranges::any_of(views, [](const View* view) { return target::itemsize(view->dtype) == 8; });
  return numerics.computes_integers(has_64_bits) &&
         std::ranges::all_of(views, [](const View* view) { return is_integer(view->dtype); }) &&
         std::ranges::all_of(alus, has_integer_form) && std::ranges::all_of(constants, is_whole);
}

void VectorEngine::require_float_alu(std::string_view where, Alu alu) const {
  if (is_bitwise(alu)) {
    refuse(where, "the operation is arithmetic", target::name(alu), "Use tensor_scalar or tensor_tensor for bits.");
  }
}

void VectorEngine::tensor_tensor(const View& dst, const View& a, const View& b, Alu alu, bool is_native) {
  constexpr std::string_view where = "tensor_tensor";
  require_not_both_in_psum(where, a, b);
  if (alu == Alu::power) {  // GpSimdE's, which does not reach PSUM
    for (const View* view : {&dst, &a, &b}) {
      require_sbuf(where, *view);
    }
  }
  auto body = [&](auto in, auto* out, std::int64_t n) { apply(alu, in[0], in[1], out, n); };
  if (is_bitwise(alu)) {
    require_integers(where, {&dst, &a, &b});
  }
  const bool is_exact =
      is_native && has_integer_form(alu) && is_integer(dst.dtype) && is_integer(a.dtype) && is_integer(b.dtype);
  if (is_bitwise(alu) || is_exact || computes_integers({&dst, &a, &b}, {alu})) {
    run<std::int64_t, 2>(where, dst, {&a, &b}, body);
  } else {
    run<float, 2>(where, dst, {&a, &b}, body);
  }
}

void VectorEngine::tensor_scalar(const View& dst, const View& x, Alu alu0, const ScalarOperand& scalar0, Alu alu1,
                                 const ScalarOperand& scalar1, bool reverse0, bool reverse1) {
  constexpr std::string_view where = "tensor_scalar";
  require_scalar(where, core_, scalar0, dst.partitions);
  require_scalar(where, core_, scalar1, dst.partitions);
  if (is_bitwise(alu0) != is_bitwise(alu1) && alu1 != Alu::none) {
    refuse(where, "both operations are bitwise, or neither",
           std::string(target::name(alu0)) + " and " + std::string(target::name(alu1)), "Use two instructions.");
  }
  require_operand(where, core_, dst, dst);
  const bool is_constant = scalar0.vector == nullptr && scalar1.vector == nullptr;
  if (is_bitwise(alu0)) {
    require_integers(where, {&dst, &x});
    for (const ScalarOperand* scalar : {&scalar0, &scalar1}) {
      if (scalar->vector != nullptr) {
        require_integers(where, {scalar->vector});
      }
    }
  }
  auto compute = [&]<class T>(bool is_everywhere) {
    T first[kMostPartitions], second[kMostPartitions];
    lanes_.read_scalars(scalar0, dst.partitions, first);
    lanes_.read_scalars(scalar1, dst.partitions, second);
    auto at = [&](auto in, T* out, std::int64_t n, std::int64_t p) {
      apply_ordered(alu0, in[0], first[p], reverse0, out, n);
      if (alu1 != Alu::none) {
        apply_ordered(alu1, out, second[p], reverse1, out, n);
      }
    };
    if (is_everywhere) {
      run<T, 1>(where, dst, {&x}, [&](auto in, T* out, std::int64_t n) { at(in, out, n, 0); });
    } else {
      run<T, 1>(where, dst, {&x}, at);
    }
  };
  if (is_bitwise(alu0) ||
      (is_constant && computes_integers({&dst, &x}, {alu0, alu1}, {scalar0.value, scalar1.value}))) {
    compute.template operator()<std::int64_t>(false);
  } else {
    compute.template operator()<float>(is_constant);
  }
}

void VectorEngine::scalar_tensor_tensor(const View& dst, const View& a, const View& b, Alu alu0,
                                        const ScalarOperand& scalar0, Alu alu1, bool reverse0, bool reverse1) {
  constexpr std::string_view where = "scalar_tensor_tensor";
  require_float_alu(where, alu0);
  require_float_alu(where, alu1);
  require_not_both_in_psum(where, a, b);
  require_scalar(where, core_, scalar0, dst.partitions);
  float scalars[kMostPartitions];
  require_operand(where, core_, dst, dst);
  lanes_.read_scalars(scalar0, dst.partitions, scalars);
  // The first result never overwrites b, which dst may be.
  float* first = lanes_.row(0, Lanes::kBlock);
  auto at = [&](auto in, float* out, std::int64_t n, std::int64_t p) {
    apply_ordered(alu0, in[0], scalars[p], reverse0, first, n);
    apply(alu1, reverse1 ? in[1] : first, reverse1 ? first : in[1], out, n);
  };
  if (scalar0.vector == nullptr && computes_integers({&dst, &a, &b}, {alu0, alu1}, {scalar0.value})) {
    const auto scalar = static_cast<std::int64_t>(scalar0.value);
    std::int64_t* whole = lanes_.integer_row(0, Lanes::kBlock);
    run<std::int64_t, 2>(where, dst, {&a, &b}, [&](auto in, std::int64_t* out, std::int64_t n) {
      apply_ordered(alu0, in[0], scalar, reverse0, whole, n);
      apply(alu1, reverse1 ? in[1] : whole, reverse1 ? whole : in[1], out, n);
    });
  } else if (scalar0.vector == nullptr) {
    run<float, 2>(where, dst, {&a, &b}, [&](auto in, float* out, std::int64_t n) { at(in, out, n, 0); });
  } else {
    run<float, 2>(where, dst, {&a, &b}, at);
  }
}

void VectorEngine::tensor_copy(const View& dst, const View& src) {
  if (dst.dtype != src.dtype && computes_integers({&dst, &src})) {
    run<std::int64_t, 1>("tensor_copy", dst, {&src},
                         [&](auto in, std::int64_t* out, std::int64_t n) { std::copy(in[0], in[0] + n, out); });
    return;
  }
  if (dst.dtype != src.dtype) {
    run<float, 1>("tensor_copy", dst, {&src},
                  [&](auto in, float* out, std::int64_t n) { std::copy(in[0], in[0] + n, out); });
    return;
  }
  require_operand("tensor_copy", core_, dst, dst);
  require_operand("tensor_copy", core_, src, dst);
  transfer(dst, src);
}

void VectorEngine::tensor_copy_predicated(const View& dst, const View& x, const View& predicate, float scalar) {
  auto body = [&](auto in, auto* out, std::int64_t n) {
    choose(in[1], static_cast<std::remove_pointer_t<decltype(out)>>(scalar), in[0], out, n);
  };
  if (computes_integers({&dst, &x, &predicate}, {}, {scalar})) {
    run<std::int64_t, 2>("tensor_copy_predicated", dst, {&x, &predicate}, body);
  } else {
    run<float, 2>("tensor_copy_predicated", dst, {&x, &predicate}, body);
  }
}

void VectorEngine::tensor_copy_predicated(const View& dst, const View* src, double scalar, const View& predicate,
                                          bool reverse) {
  constexpr std::string_view where = "tensor_copy_predicated";
  require_dtype(where, "the predicate is an unsigned integer", predicate,
                predicate.dtype == Dtype::uint8 || predicate.dtype == Dtype::uint16 ||
                    predicate.dtype == Dtype::uint32 || predicate.dtype == Dtype::boolean,
                "Compare into uint8.");
  // What is not cast is not rounded.
  if (src == nullptr) {
    auto body = [&]<class T>(const T* const* in, T* out, std::int64_t n) {
      const T value = static_cast<T>(scalar);
      reverse ? choose(in[1], in[0], value, out, n) : choose(in[1], value, in[0], out, n);
    };
    if (holds(dst.dtype, scalar)) {
      run<std::int64_t, 2>(where, dst, {&dst, &predicate},
                           [&](auto in, std::int64_t* out, std::int64_t n) { body(in, out, n); });
    } else {
      run<float, 2>(where, dst, {&dst, &predicate}, [&](auto in, float* out, std::int64_t n) { body(in, out, n); });
    }
    return;
  }
  require_not_both_in_psum(where, *src, predicate);
  require_dtype(where, "source and result have one dtype", *src, src->dtype == dst.dtype, "Cast with tensor_copy.");
  auto body = [&](auto in, auto* out, std::int64_t n) {
    choose(in[2], in[reverse ? 0 : 1], in[reverse ? 1 : 0], out, n);
  };
  if (is_integer(dst.dtype)) {
    run<std::int64_t, 3>(where, dst, {&dst, src, &predicate}, body);
  } else {
    run<float, 3>(where, dst, {&dst, src, &predicate}, body);
  }
}

void VectorEngine::select(const View& dst, const View& condition, const View& x, const View& y) {
  auto body = [&](auto in, auto* out, std::int64_t n) { choose(in[0], in[1], in[2], out, n); };
  if (computes_integers({&dst, &condition, &x, &y})) {
    run<std::int64_t, 3>("select", dst, {&condition, &x, &y}, body);
  } else {
    run<float, 3>("select", dst, {&condition, &x, &y}, body);
  }
}

void VectorEngine::select(const View& dst, const View& condition, const View& x, float y) {
  auto body = [&](auto in, auto* out, std::int64_t n) {
    choose(in[0], in[1], static_cast<std::remove_pointer_t<decltype(out)>>(y), out, n);
  };
  if (computes_integers({&dst, &condition, &x}, {}, {y})) {
    run<std::int64_t, 2>("select", dst, {&condition, &x}, body);
  } else {
    run<float, 2>("select", dst, {&condition, &x}, body);
  }
}

void VectorEngine::reciprocal(const View& dst, const View& src) {
  run<float, 1>("reciprocal", dst, {&src},
                [&](auto in, float* out, std::int64_t n) { apply(Alu::divide, 1.0F, in[0], out, n); });
}

void VectorEngine::memset(const View& dst, double value) {
  if (is_block_scaled(dst.dtype)) {
    if (value != 0) {
      refuse("memset", "an x4 tile is set to 0", std::to_string(value), "Quantize a tile of the value.");
    }
    View bits = dst;
    bits.dtype = target::itemsize(dst.dtype) == 4 ? Dtype::uint32 : Dtype::uint16;
    memset(bits, 0);
    return;
  }
  if (holds(dst.dtype, value)) {
    run<std::int64_t, 0>("memset", dst, {}, [&](auto, std::int64_t* out, std::int64_t n) {
      std::fill(out, out + n, static_cast<std::int64_t>(value));
    });
    return;
  }
  if (value == std::numeric_limits<double>::infinity() && computes_integers({&dst})) {
    // What a minimum starts from: the largest integer of the tile, whose lowest bits all types share.
    const std::int64_t bits = 8 * target::itemsize(dst.dtype) - 1;
    const auto largest = static_cast<std::int64_t>((std::uint64_t{1} << bits) - 1);
    run<std::int64_t, 0>("memset", dst, {},
                         [&](auto, std::int64_t* out, std::int64_t n) { std::fill(out, out + n, largest); });
    return;
  }
  run<float, 0>("memset", dst, {},
                [&](auto, float* out, std::int64_t n) { std::fill(out, out + n, static_cast<float>(value)); });
}

}  // namespace trn::emu
