// What an operator's name says.
#pragma once

#include <cstdint>
#include <string_view>

namespace trn::aten::rules {

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// "max_pool3d" has three.
inline std::int64_t num_axes(std::string_view name) {
  return contains(name, "1d") ? 1 : contains(name, "3d") ? 3 : 2;
}

}  // namespace trn::aten::rules
