// The device timeline of torch.profiler: a Kineto activity profiler that lays simulated time onto the wall clock.
#include "aten/profiler.h"

#include <c10/util/ApproximateClock.h>
#include <libkineto.h>
#include <output_base.h>
#include <torch/csrc/profiler/standalone/privateuse1_profiler.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trn::aten {

std::atomic<bool> detail::profiler_recording{false};

namespace {

struct Launch {
  std::string name;
  int device;
  int stream;
  double start_seconds;  // simulated
  double end_seconds;
  std::int64_t host_nanoseconds;  // when the host launched it, on c10::getTime()'s clock
  std::int32_t host_thread;
  std::uint64_t correlation;
};

struct Recording {
  std::mutex mutex;
  std::vector<Launch> launches;
};

Recording& kept_launches() {
  static auto* instance = new Recording;  // outlives Kineto's own shutdown
  return *instance;
}

// Ids of the CPU operators that are open on this thread, innermost last.
thread_local std::vector<std::uint64_t> open_correlations;

// A kernel with its operator's own name would be merged with it in key_averages() and counted twice.
std::string kernel_name_of(std::string_view name) {
  constexpr std::string_view kAten = "aten::";
  return name.substr(0, kAten.size()) == kAten ? "trn::" + std::string(name.substr(kAten.size())) : std::string(name);
}

std::int64_t nanoseconds(double seconds) {
  return static_cast<std::int64_t>(std::llround(seconds * 1e9));
}

double microseconds(double seconds) {
  return static_cast<double>(nanoseconds(seconds)) / 1e3;
}

class Session final : public libkineto::IActivityProfilerSession {
 public:
  void start() override {
    const std::lock_guard<std::mutex> lock(kept_launches().mutex);
    kept_launches().launches.clear();
    start_nanoseconds_ = c10::getTime();
    status_ = libkineto::TraceStatus::RECORDING;
    detail::profiler_recording.store(true, std::memory_order_relaxed);
  }

  void stop() override {
    detail::profiler_recording.store(false, std::memory_order_relaxed);
    const std::lock_guard<std::mutex> lock(kept_launches().mutex);
    launches_ = std::exchange(kept_launches().launches, {});
    status_ = libkineto::TraceStatus::PROCESSING;
  }

  std::vector<std::string> errors() override { return {}; }

  void processTrace(libkineto::ActivityLogger& logger) override {
    processTrace(logger, [](std::int32_t) { return nullptr; }, 0, 0);
  }

  void processTrace(libkineto::ActivityLogger& logger, libkineto::getLinkedActivityCallback linked_activity,
                    std::int64_t, std::int64_t) override {
    buffer_ = std::make_unique<libkineto::CpuTraceBuffer>();
    buffer_->span = libkineto::TraceSpan(start_nanoseconds_, c10::getTime(), "trn");
    buffer_->gpuOpCount = static_cast<int>(launches_.size());
    announce_rows(logger);
    std::uint32_t flow = 0;
    for (const Launch& launch : launches_) {
      ++flow;
      const auto* linked = linked_activity(static_cast<std::int32_t>(launch.correlation));
      add_launch_call(logger, launch, flow, linked);
      add_kernel(logger, launch, flow, linked);
    }
  }

  // Several devices: their rows are announced in processTrace.
  std::unique_ptr<libkineto::DeviceInfo> getDeviceInfo() override { return nullptr; }
  std::vector<libkineto::ResourceInfo> getResourceInfos() override { return {}; }

  std::unique_ptr<libkineto::CpuTraceBuffer> getTraceBuffer() override { return std::move(buffer_); }

  void pushCorrelationId(std::uint64_t id) override { open_correlations.push_back(id); }

  void popCorrelationId() override {
    if (!open_correlations.empty()) {
      open_correlations.pop_back();
    }
  }

 private:
  // Simulated second 0 of the trace is the first launch; from there one simulated second is one second.
  std::int64_t on_wall_clock(double seconds) const {
    const Launch& first = launches_.front();
    return first.host_nanoseconds + nanoseconds(seconds - first.start_seconds);
  }

  void announce_rows(libkineto::ActivityLogger& logger) const {
    std::map<int, std::set<int>> streams;
    for (const Launch& launch : launches_) {
      streams[launch.device].insert(launch.stream);
    }
    for (const auto& [device, ids] : streams) {
      const std::string name = "trn:" + std::to_string(device);
      logger.handleDeviceInfo({device, device + libkineto::kExceedMaxPid, name, name + " (simulated time)"},
                              start_nanoseconds_);
      for (const int stream : ids) {
        logger.handleResourceInfo({stream, stream, device, "stream " + std::to_string(stream)}, start_nanoseconds_);
      }
    }
  }

  libkineto::GenericTraceActivity& add(libkineto::ActivityType type, const std::string& name, const Launch& launch,
                                       std::uint32_t flow, bool flow_start, const libkineto::ITraceActivity* linked) {
    buffer_->emplace_activity(buffer_->span, type, name);
    libkineto::GenericTraceActivity& activity = *buffer_->activities.back();
    activity.id = static_cast<std::int32_t>(launch.correlation);
    activity.linked = linked;
    activity.flow.id = flow;
    activity.flow.type = libkineto::kLinkAsyncCpuGpu;
    activity.flow.start = flow_start;
    return activity;
  }

  // The host's side of the launch, where the arrow to the kernel starts.
  void add_launch_call(libkineto::ActivityLogger& logger, const Launch& launch, std::uint32_t flow,
                       const libkineto::ITraceActivity* linked) {
    auto& call = add(libkineto::ActivityType::PRIVATEUSE1_RUNTIME, "trnLaunchKernel", launch, flow, true, linked);
    call.startTime = launch.host_nanoseconds;
    call.endTime = launch.host_nanoseconds;
    call.device = static_cast<std::int32_t>(getpid());
    call.resource = launch.host_thread;
    call.threadId = launch.host_thread;
    call.addMetadata("correlation", launch.correlation);
    logger.handleGenericActivity(call);
  }

  void add_kernel(libkineto::ActivityLogger& logger, const Launch& launch, std::uint32_t flow,
                  const libkineto::ITraceActivity* linked) {
    auto& kernel = add(libkineto::ActivityType::CONCURRENT_KERNEL, launch.name, launch, flow, false, linked);
    kernel.startTime = on_wall_clock(launch.start_seconds);
    kernel.endTime = std::max(kernel.startTime, on_wall_clock(launch.end_seconds));
    kernel.device = launch.device;
    kernel.resource = launch.stream;
    kernel.threadId = launch.host_thread;
    kernel.addMetadata("device", launch.device);
    kernel.addMetadata("stream", launch.stream);
    kernel.addMetadata("correlation", launch.correlation);
    kernel.addMetadata("simulated start (us)", microseconds(launch.start_seconds));
    kernel.addMetadata("simulated duration (us)", microseconds(launch.end_seconds - launch.start_seconds));
    logger.handleGenericActivity(kernel);
  }

  std::int64_t start_nanoseconds_ = 0;
  std::vector<Launch> launches_;
  std::unique_ptr<libkineto::CpuTraceBuffer> buffer_;
};

class Profiler final : public libkineto::IActivityProfiler {
 public:
  const std::string& name() const override { return name_; }

  const std::set<libkineto::ActivityType>& availableActivities() const override { return activities_; }

  std::unique_ptr<libkineto::IActivityProfilerSession> configure(const std::set<libkineto::ActivityType>& types,
                                                                 const libkineto::Config&) override {
    if (!types.contains(libkineto::ActivityType::CONCURRENT_KERNEL)) {
      return nullptr;
    }
    return std::make_unique<Session>();
  }

  std::unique_ptr<libkineto::IActivityProfilerSession> configure(std::int64_t, std::int64_t,
                                                                 const std::set<libkineto::ActivityType>& types,
                                                                 const libkineto::Config& config) override {
    return configure(types, config);
  }

 private:
  std::string name_ = "trn";
  std::set<libkineto::ActivityType> activities_ = {libkineto::ActivityType::CONCURRENT_KERNEL,
                                                   libkineto::ActivityType::PRIVATEUSE1_RUNTIME};
};

REGISTER_PRIVATEUSE1_PROFILER(Profiler);

}  // namespace

void profiler_on_launch(const char* kernel_name, int device, int stream, double start_seconds, double end_seconds,
                        std::uint64_t correlation) {
  if (!profiler_active()) {
    return;
  }
  if (correlation == 0 && !open_correlations.empty()) {
    correlation = open_correlations.back();
  }
  Launch launch{.name = kernel_name_of(kernel_name),
                .device = device,
                .stream = stream,
                .start_seconds = start_seconds,
                .end_seconds = end_seconds,
                .host_nanoseconds = c10::getTime(),
                .host_thread = static_cast<std::int32_t>(libkineto::systemThreadId()),
                .correlation = correlation};
  const std::lock_guard<std::mutex> lock(kept_launches().mutex);
  kept_launches().launches.push_back(std::move(launch));
}

}  // namespace trn::aten
