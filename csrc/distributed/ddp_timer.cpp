// DistributedDataParallel's clock for its own statistics: the host's, as for CPU tensors.
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>

namespace trn::distributed {

namespace {

class HostTimer final : public c10d::Timer {
 public:
  explicit HostTimer(c10::Device) {}

  std::optional<std::int64_t> measureDifference(Event start, Event end) override {
    const auto from = getTimestamp(start), to = getTimestamp(end);
    // An event of an iteration that is not over yet is older than the start.
    return from && to && *to >= *from ? std::make_optional(*to - *from) : std::nullopt;
  }
};

}  // namespace

}  // namespace trn::distributed

namespace c10d {

namespace {

C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kPrivateUse1, trn::distributed::HostTimer)

}  // namespace

}  // namespace c10d
