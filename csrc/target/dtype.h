// Element types of device tensors and engine operands, by the names that torch and nki share.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace trn::target {

enum class Dtype : std::uint8_t {
  float32,
  bfloat16,
  float16,
  float64,
  float8_e4m3,    // IEEE-like, with infinities: trn1 and trn2
  float8_e4m3fn,  // OCP: trn3 only
  float8_e5m2,
  int8,
  int16,
  int32,
  int64,
  uint8,
  uint16,
  uint32,
  uint64,
  boolean,
  complex32,
  complex64,
  complex128,
  float8_e3m4,
  float8_e5m2_x4,  // four values of one partition that share a microscaling exponent: NeuronCore-v4
  float8_e4m3fn_x4,
  float4_e2m1fn_x4,
  tfloat32,  // fp32 with a mantissa of 10 bits, for TensorE
};

struct DtypeTraits {
  Dtype dtype;
  std::string_view name;
  std::int64_t bytes;
};

inline constexpr DtypeTraits kDtypes[] = {
    {Dtype::float32, "float32", 4},
    {Dtype::bfloat16, "bfloat16", 2},
    {Dtype::float16, "float16", 2},
    {Dtype::float64, "float64", 8},
    {Dtype::float8_e4m3, "float8_e4m3", 1},
    {Dtype::float8_e4m3fn, "float8_e4m3fn", 1},
    {Dtype::float8_e5m2, "float8_e5m2", 1},
    {Dtype::int8, "int8", 1},
    {Dtype::int16, "int16", 2},
    {Dtype::int32, "int32", 4},
    {Dtype::int64, "int64", 8},
    {Dtype::uint8, "uint8", 1},
    {Dtype::uint16, "uint16", 2},
    {Dtype::uint32, "uint32", 4},
    {Dtype::uint64, "uint64", 8},
    {Dtype::boolean, "bool", 1},
    {Dtype::complex32, "complex32", 4},
    {Dtype::complex64, "complex64", 8},
    {Dtype::complex128, "complex128", 16},
    {Dtype::float8_e3m4, "float8_e3m4", 1},
    {Dtype::float8_e5m2_x4, "float8_e5m2_x4", 4},
    {Dtype::float8_e4m3fn_x4, "float8_e4m3fn_x4", 4},
    {Dtype::float4_e2m1fn_x4, "float4_e2m1fn_x4", 2},
    {Dtype::tfloat32, "tfloat32", 4},
};

inline constexpr std::int64_t itemsize(Dtype dtype) {
  return kDtypes[static_cast<std::size_t>(dtype)].bytes;
}

inline constexpr std::string_view name(Dtype dtype) {
  return kDtypes[static_cast<std::size_t>(dtype)].name;
}

inline Dtype dtype_from_name(std::string_view text) {
  for (const auto& row : kDtypes) {
    if (row.name == text) {
      return row.dtype;
    }
  }
  throw std::invalid_argument("[dtype] unknown element type; got " + std::string(text));
}

// float64 and int64 travel through the engines as float32 and int32 (neuronx-cc: `--implicit-integer-downcast`).
inline constexpr bool is_narrowed(Dtype dtype) {
  return dtype == Dtype::float64 || dtype == Dtype::int64 || dtype == Dtype::uint64 || dtype == Dtype::complex128;
}

inline constexpr bool is_complex(Dtype dtype) {
  return dtype == Dtype::complex32 || dtype == Dtype::complex64 || dtype == Dtype::complex128;
}

// Floating-point types of two bytes or one.
inline constexpr bool is_small_float(Dtype dtype) {
  switch (dtype) {
    case Dtype::bfloat16:
    case Dtype::float16:
    case Dtype::float8_e4m3:
    case Dtype::float8_e4m3fn:
    case Dtype::float8_e5m2:
    case Dtype::float8_e3m4:
      return true;
    default:
      return false;
  }
}

inline constexpr bool is_real_float(Dtype dtype) {
  return dtype == Dtype::float32 || dtype == Dtype::float64 || is_small_float(dtype);
}

}  // namespace trn::target
