// The one error type of the C++ core, with the category that says whose fault it is.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace trn {

enum class Category : std::uint8_t {
  invalid_argument,
  out_of_memory,
  hardware_constraint,
  unimplemented,
  unsupported,
  internal,
};

// Worded `[where] rule; got X, limit Y. What to do.`
class Error : public std::runtime_error {
 public:
  Error(Category category, const std::string& what) : std::runtime_error(what), category_(category) {}
  Category category() const { return category_; }

 private:
  Category category_;
};

}  // namespace trn
