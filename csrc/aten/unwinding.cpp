#include "aten/unwinding.h"

#include <c10/core/DeviceType.h>

#include <regex>
#include <string>
#include <typeinfo>

namespace trn::aten {
namespace {

template <class Type>
void throw_as(const c10::Error& error, const std::string& message) {
  if (typeid(error) == typeid(Type)) {
    throw Type(message, error.backtrace(), error.caller());
  }
}

bool says(const std::string& message, const char* word) {
  return message.find(word) != std::string::npos;
}

}  // namespace

void rethrow_of_device(const c10::Error& error) {
  const std::string& message = error.msg();
  if (says(message, "CPU") && (says(message, "support") || says(message, "implement"))) {
    static const auto* place =
        new std::regex(" on (the )?CPU\\b");  // leaked: operators run while statics are destroyed
    const std::string renamed = std::regex_replace(message, *place, " on " + c10::get_privateuse1_backend());
    throw_as<c10::Error>(error, renamed);
    throw_as<c10::NotImplementedError>(error, renamed);
    throw_as<c10::TypeError>(error, renamed);
    throw_as<c10::ValueError>(error, renamed);
  }
  throw;
}

}  // namespace trn::aten
