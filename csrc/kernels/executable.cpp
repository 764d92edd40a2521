#include "kernels/executable.h"

#include <string>

#include "target/error.h"

namespace trn::kernels {

void require_executable(const target::Core& core, const Part& part) {
  std::visit(
      [&](const auto& shape) {
        if constexpr (requires(void (*family)(const std::remove_cvref_t<decltype(shape)>&)) {
                        family = &require_executable;
                      }) {
          require_executable(shape);
        } else if constexpr (requires(
                                 void (*family)(const target::Core&, const std::remove_cvref_t<decltype(shape)>&)) {
                               family = &require_executable;
                             }) {
          require_executable(core, shape);
        } else {
          throw Error(Category::unimplemented, "[execute] programs of this family are counted, not executed; got " +
                                                   std::string(kFamilyNames[part.index()]) +
                                                   ". Use reference numerics for it.");
        }
      },
      part);
}

}  // namespace trn::kernels
