// The recorded program's buffers.
#include "program/recorder.h"

#include <limits>
#include <string>

#include "target/error.h"

namespace trn::program {

std::int16_t Recorder::add(Buffer buffer) {
  constexpr std::size_t kMost = std::numeric_limits<std::int16_t>::max();
  if (program_.buffers.size() == kMost) {
    throw Error(Category::unsupported, "[recorder] a core has at most " + std::to_string(kMost) +
                                           " tiles and tensors; got one more, " + buffer.name + ". Use parts of them.");
  }
  program_.buffers.push_back(std::move(buffer));
  return static_cast<std::int16_t>(program_.buffers.size() - 1);
}

}  // namespace trn::program
