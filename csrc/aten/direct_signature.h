// A C++ signature as a short text, which an operator's schema has too: how the short way finds its operators.
#pragma once

#include <ATen/core/IListRef.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>

#include <array>
#include <concepts>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

namespace trn::aten {

std::string signature_text(const c10::FunctionSchema& schema);

// T tensor, W written tensor, s Scalar, i int, y SymInt, d float, b bool, c ScalarType, z string, g Generator.
template <class T>
struct TypeText;

#define TRN_TYPE_TEXT(type, letters)              \
  template <>                                     \
  struct TypeText<type> {                         \
    static std::string text() { return letters; } \
  };
TRN_TYPE_TEXT(at::Tensor, "T")
TRN_TYPE_TEXT(at::Scalar, "s")
TRN_TYPE_TEXT(std::int64_t, "i")
TRN_TYPE_TEXT(c10::SymInt, "y")
TRN_TYPE_TEXT(double, "d")
TRN_TYPE_TEXT(bool, "b")
TRN_TYPE_TEXT(at::ScalarType, "c")
TRN_TYPE_TEXT(c10::string_view, "z")
TRN_TYPE_TEXT(at::Generator, "g")
TRN_TYPE_TEXT(at::ITensorListRef, "T[]")
TRN_TYPE_TEXT(at::OptionalIntArrayRef, "i[]?")
TRN_TYPE_TEXT(at::OptionalSymIntArrayRef, "y[]?")
#undef TRN_TYPE_TEXT
template <class T>
struct TypeText<std::optional<T>> {
  static std::string text() { return TypeText<T>::text() + "?"; }
};
template <class T>
struct TypeText<c10::ArrayRef<T>> {
  static std::string text() { return TypeText<T>::text() + "[]"; }
};
template <class T>
struct TypeText<c10::List<T>> {
  static std::string text() { return TypeText<T>::text() + "[]"; }
};
template <class T>
struct TypeText<std::vector<T>> {
  static std::string text() { return TypeText<T>::text() + "[]"; }
};
template <std::size_t N>
struct TypeText<std::array<bool, N>> {
  static std::string text() { return "b[" + std::to_string(N) + "]"; }
};

template <class T>
std::string type_text() {
  if constexpr (std::is_void_v<T>) {
    return "";
  } else if constexpr (std::same_as<T, at::Tensor&>) {
    return "W";
  } else {
    return TypeText<std::remove_cvref_t<T>>::text();
  }
}

template <class Signature>
struct SignatureText;

template <class Result, class... Args>
struct SignatureText<Result(Args...)> {
  static std::string text() {
    std::string out;
    ((out += type_text<Args>() + ","), ...);
    return out + ">" + results(static_cast<Result (*)()>(nullptr));
  }

 private:
  template <class... Items>
  static std::string results(std::tuple<Items...> (*)()) {
    std::string out;
    ((out += type_text<Items>() + ","), ...);
    return out;
  }
  template <class Item>
  static std::string results(Item (*)()) {
    return std::is_void_v<Item> ? "" : type_text<Item>() + ",";
  }
};

}  // namespace trn::aten
