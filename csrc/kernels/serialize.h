// A shape's fields as bytes: equal shapes have equal texts.
#pragma once

#include <string>
#include <type_traits>
#include <variant>

#include "kernels/shapes.h"

namespace trn::kernels {

struct Serializer {
  std::string& out;
  template <class T>
  void operator()(const char*, const T& value) {
    write(value);
  }
  template <class T>
  void write(const T& value) {
    if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T>) {
      out.append(reinterpret_cast<const char*>(&value), sizeof value);
    } else if constexpr (requires { value.size(); }) {
      write(value.size());
      for (const auto& item : value) {
        write(item);
      }
    } else {
      T::visit(*this, value);
    }
  }
};

inline void serialize(const Part& part, std::string& out) {
  Serializer serializer{out};
  serializer.write(part.index());
  std::visit([&](const auto& shape) { serializer.write(shape); }, part);
  serializer.write(part.precision);
}

inline std::string serialize(const Spec& spec) {
  std::string out;
  for (const Part& part : spec) {
    serialize(part, out);
  }
  return out;
}

}  // namespace trn::kernels
