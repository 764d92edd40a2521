// Conversions of runs, one loop per element type.
#include "emu/elements.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "emu/convert.h"

namespace trn::emu {
namespace {

// A stored type: its bits, and whether they are an integer's.
template <class T, bool IsInteger>
struct Stored {
  using Bits = T;
  static constexpr bool kIsInteger = IsInteger;
};
template <class T>
using Number = Stored<T, std::is_integral_v<T>>;
template <class Small>
using Float = Stored<typename Small::Bits, false>;

// The decoder of each stored type, given to `visit` with that type.
template <class Visit>
TRN_INLINE void decoder(Dtype dtype, Visit visit) {
  auto number = [&]<class T>(T) { visit(Number<T>{}, [](T stored) { return static_cast<float>(stored); }); };
  auto small = [&]<class Small>(Small) {
    visit(Float<Small>{}, [](typename Small::Bits stored) { return Small::decode(stored); });
  };
  switch (dtype) {
    case Dtype::float32:
      return number(float{});
    case Dtype::float64:
      return number(double{});
    case Dtype::bfloat16:
      return small(BFloat16{});
    case Dtype::float16:
      return small(Float16{});
    case Dtype::float8_e4m3:
      return small(Float8E4M3{});
    case Dtype::float8_e4m3fn:
      return small(Float8E4M3FN{});
    case Dtype::float8_e5m2:
      return small(Float8E5M2{});
    case Dtype::float8_e3m4:
      return small(Float8E3M4{});
    case Dtype::tfloat32:
      return small(TFloat32{});
    case Dtype::int8:
      return number(std::int8_t{});
    case Dtype::int16:
      return number(std::int16_t{});
    case Dtype::int32:
      return number(std::int32_t{});
    case Dtype::int64:
      return number(std::int64_t{});
    case Dtype::uint8:
    case Dtype::boolean:
      return number(std::uint8_t{});
    case Dtype::uint16:
      return number(std::uint16_t{});
    case Dtype::uint32:
      return number(std::uint32_t{});
    case Dtype::uint64:
      return number(std::uint64_t{});
    default:
      return visit(Number<std::uint16_t>{}, [](std::uint16_t) { return std::numeric_limits<float>::quiet_NaN(); });
  }
}

template <class Visit>
TRN_INLINE void encoder(Dtype dtype, Visit visit) {
  auto integer = [&]<class T>(T) { visit(Number<T>{}, [](float value) { return float_to_integer<T>(value); }); };
  auto small = [&]<class Small>(Small) { visit(Float<Small>{}, [](float value) { return Small::encode(value); }); };
  switch (dtype) {
    case Dtype::float32:
      return visit(Number<float>{}, [](float value) { return value; });
    case Dtype::float64:
      return visit(Number<double>{}, [](float value) { return static_cast<double>(value); });
    case Dtype::bfloat16:
      return small(BFloat16{});
    case Dtype::float16:
      return small(Float16{});
    case Dtype::float8_e4m3:
      return small(Float8E4M3{});
    case Dtype::float8_e4m3fn:
      return small(Float8E4M3FN{});
    case Dtype::float8_e5m2:
      return small(Float8E5M2{});
    case Dtype::float8_e3m4:
      return small(Float8E3M4{});
    case Dtype::tfloat32:
      return small(TFloat32{});
    case Dtype::int8:
      return integer(std::int8_t{});
    case Dtype::int16:
      return integer(std::int16_t{});
    case Dtype::int32:
      return integer(std::int32_t{});
    case Dtype::int64:
      return integer(std::int64_t{});
    case Dtype::uint8:
      return integer(std::uint8_t{});
    case Dtype::uint16:
      return integer(std::uint16_t{});
    case Dtype::uint32:
      return integer(std::uint32_t{});
    case Dtype::uint64:
      return integer(std::uint64_t{});
    case Dtype::boolean:
      return visit(Number<std::uint8_t>{}, [](float value) { return static_cast<std::uint8_t>(value != 0); });
    default:
      return;
  }
}

template <class Bits, class Value, class Function>
TRN_INLINE void read(const std::byte* from, std::int64_t stride, Value* __restrict__ out, std::int64_t n,
                     Function function) {
  if (stride == sizeof(Bits)) {
    for (std::int64_t i = 0; i < n; ++i) {
      out[i] = function(load_as<Bits>(from + i * static_cast<std::int64_t>(sizeof(Bits))));
    }
  } else if (stride == 0) {
    const Value value = function(load_as<Bits>(from));
    for (std::int64_t i = 0; i < n; ++i) {
      out[i] = value;
    }
  } else {
    for (std::int64_t i = 0; i < n; ++i) {
      out[i] = function(load_as<Bits>(from + i * stride));
    }
  }
}

template <class Bits, class Value, class Function>
TRN_INLINE void write(std::byte* to, std::int64_t stride, const Value* __restrict__ values, std::int64_t n,
                      Function function) {
  if (stride == sizeof(Bits)) {
    for (std::int64_t i = 0; i < n; ++i) {
      store_as<Bits>(to + i * static_cast<std::int64_t>(sizeof(Bits)), function(values[i], i));
    }
  } else {
    for (std::int64_t i = 0; i < n; ++i) {
      store_as<Bits>(to + i * stride, function(values[i], i));
    }
  }
}

template <class Small>
TRN_INLINE void write_stochastic(std::byte* to, std::int64_t stride, const float* values, std::int64_t n,
                                 std::uint32_t seed, std::uint32_t first) {
  write<typename Small::Bits>(to, stride, values, n, [=](float value, std::int64_t i) {
    return Small::encode(value, mix_bits(mix_bits(first + static_cast<std::uint32_t>(i)) ^ seed));
  });
}

TRN_CLONES void store_small(Dtype dtype, std::byte* to, std::int64_t stride, const float* values, std::int64_t n,
                            std::uint32_t seed, std::uint32_t first) {
  switch (dtype) {
    case Dtype::bfloat16:
      return write_stochastic<BFloat16>(to, stride, values, n, seed, first);
    case Dtype::float16:
      return write_stochastic<Float16>(to, stride, values, n, seed, first);
    case Dtype::float8_e4m3:
      return write_stochastic<Float8E4M3>(to, stride, values, n, seed, first);
    case Dtype::float8_e4m3fn:
      return write_stochastic<Float8E4M3FN>(to, stride, values, n, seed, first);
    case Dtype::float8_e3m4:
      return write_stochastic<Float8E3M4>(to, stride, values, n, seed, first);
    default:
      return write_stochastic<Float8E5M2>(to, stride, values, n, seed, first);
  }
}

template <class T>
void copy_strided(std::byte* to, std::int64_t to_stride, const std::byte* from, std::int64_t from_stride,
                  std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    store_as<T>(to + i * to_stride, load_as<T>(from + i * from_stride));
  }
}

}  // namespace

TRN_CLONES void load(Dtype dtype, const std::byte* from, std::int64_t stride, float* out, std::int64_t n) {
  decoder(dtype, [&]<class T>(T, auto decode) { read<typename T::Bits>(from, stride, out, n, decode); });
}

TRN_CLONES void store(Dtype dtype, std::byte* to, std::int64_t stride, const float* values, std::int64_t n) {
  encoder(dtype, [&]<class T>(T, auto encode) {
    write<typename T::Bits>(to, stride, values, n, [&](float value, std::int64_t) { return encode(value); });
  });
}

TRN_CLONES void load(Dtype dtype, const std::byte* from, std::int64_t stride, std::int64_t* out, std::int64_t n) {
  decoder(dtype, [&]<class T>(T, auto decode) {
    read<typename T::Bits>(from, stride, out, n, [&](auto stored) {
      if constexpr (T::kIsInteger) {
        return static_cast<std::int64_t>(stored);
      } else {
        return static_cast<std::int64_t>(decode(stored));
      }
    });
  });
}

TRN_CLONES void store(Dtype dtype, std::byte* to, std::int64_t stride, const std::int64_t* values, std::int64_t n) {
  const bool is_truth = dtype == Dtype::boolean;
  encoder(dtype, [&]<class T>(T, auto encode) {
    write<typename T::Bits>(to, stride, values, n, [&](std::int64_t value, std::int64_t) {
      if constexpr (T::kIsInteger) {
        return static_cast<typename T::Bits>(is_truth ? value != 0 : value);
      } else {
        return encode(static_cast<float>(value));
      }
    });
  });
}

void store_stochastic(Dtype dtype, std::byte* to, std::int64_t stride, const float* values, std::int64_t n,
                      StochasticBits& bits) {
  if (!target::is_small_float(dtype)) {
    return store(dtype, to, stride, values, n);
  }
  store_small(dtype, to, stride, values, n, bits.seed(), bits.take(n));
}

void copy(std::int64_t size, std::byte* to, std::int64_t to_stride, const std::byte* from, std::int64_t from_stride,
          std::int64_t n) {
  if (to_stride == size && from_stride == size) {
    std::memmove(to, from, static_cast<std::size_t>(n * size));
    return;
  }
  switch (size) {
    case 1:
      return copy_strided<std::uint8_t>(to, to_stride, from, from_stride, n);
    case 2:
      return copy_strided<std::uint16_t>(to, to_stride, from, from_stride, n);
    case 4:
      return copy_strided<std::uint32_t>(to, to_stride, from, from_stride, n);
    case 8:
      return copy_strided<std::uint64_t>(to, to_stride, from, from_stride, n);
    default:
      return copy_strided<std::array<std::uint64_t, 2>>(to, to_stride, from, from_stride, n);
  }
}

bool holds(Dtype dtype, double number) {
  bool result = false;
  decoder(dtype, [&]<class Type>(Type, auto) {
    if constexpr (Type::kIsInteger) {
      using Bits = typename Type::Bits;
      // One past the largest is a power of two, which a double has.
      const double end = std::ldexp(1.0, std::numeric_limits<Bits>::digits);
      const double least = std::is_signed_v<Bits> ? -end : 0;
      result = number >= least && number < end && std::trunc(number) == number;
    }
  });
  return result && is_integer(dtype);
}

}  // namespace trn::emu
