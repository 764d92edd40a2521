// The device guard: current device, streams and events on the simulated clock.
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceCapability.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <memory>

#include "aten/allocator.h"
#include "aten/system.h"

namespace trn::aten {

namespace {

struct Event {
  runtime::Moment moment;
  int device = 0;
  bool timed = false;
};

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return c10::DeviceType::PrivateUse1; }

  c10::Device exchangeDevice(c10::Device target) const override {
    const int previous = current_device();
    setDevice(target);
    return device(previous);
  }
  c10::Device getDevice() const override { return device(current_device()); }
  void setDevice(c10::Device target) const override {
    TORCH_CHECK(target.is_privateuseone(), "[device] a trn guard takes trn devices; got ", target, ".");
    set_current_device(resolve(target));
  }
  void uncheckedSetDevice(c10::Device target) const noexcept override { set_current_device_unchecked(target.index()); }
  c10::DeviceIndex deviceCount() const noexcept override { return static_cast<c10::DeviceIndex>(device_count()); }

  c10::Stream getStream(c10::Device d) const override { return stream(resolve(d), current_stream(resolve(d))); }
  c10::Stream getDefaultStream(c10::Device d) const override { return stream(resolve(d), 0); }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool) const override { return getNewStream(d, 0); }
  c10::Stream getNewStream(c10::Device d, int) const override { return stream(resolve(d), clock_of(d).pool_stream()); }
  c10::Stream exchangeStream(c10::Stream s) const override {
    const int index = resolve(s.device());
    if (s.id() != 0) {
      clock_of(s.device()).ready(static_cast<int>(s.id()));  // raises when there is no such stream
    }
    return stream(index, exchange_stream(index, static_cast<int>(s.id())));
  }
  void* getStreamNativeHandle(const c10::Stream s) const override { return reinterpret_cast<void*>(s.id()); }

  bool queryStream(const c10::Stream& s) const override {
    auto& clock = clock_of(s.device());
    return clock.reached(clock.ready(static_cast<int>(s.id())));
  }
  void synchronizeStream(const c10::Stream& s) const override {
    clock_of(s.device()).host_wait_for_stream(static_cast<int>(s.id()));
    reclaim(resolve(s.device()));
  }
  void synchronizeDevice(const c10::DeviceIndex index) const override {
    const int i = index < 0 ? current_device() : index;
    system().device(i).clock.synchronize();
    reclaim(i);
  }

  void record(void** event, const c10::Stream& s, const c10::DeviceIndex, const c10::EventFlag flag) const override {
    auto*& slot = reinterpret_cast<Event*&>(*event);
    if (!slot) {
      slot = new Event;
    }
    slot->device = resolve(s.device());
    slot->timed = flag == c10::EventFlag::BACKEND_DEFAULT;
    slot->moment = clock_of(s.device()).mark(static_cast<int>(s.id()));
  }
  void block(void* event, const c10::Stream& s) const override {
    if (event) {
      clock_of(s.device()).wait(static_cast<int>(s.id()), static_cast<Event*>(event)->moment);
    }
  }
  bool queryEvent(void* event) const override {
    if (!event) {
      return true;
    }
    const auto& e = *static_cast<Event*>(event);
    return system().device(e.device).clock.reached(e.moment.time);
  }
  void synchronizeEvent(void* event) const override {
    if (event) {
      const auto& e = *static_cast<Event*>(event);
      system().device(e.device).clock.host_wait(e.moment);
      reclaim(e.device);
    }
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  double elapsedTime(void* first, void* second, const c10::DeviceIndex) const override {
    TORCH_CHECK(first && second, "Both events must be recorded before calculating elapsed time.");
    const auto& begin = *static_cast<Event*>(first);
    const auto& end = *static_cast<Event*>(second);
    TORCH_CHECK(begin.timed && end.timed,
                "Both events must be created with enable_timing=True to measure elapsed time.");
    TORCH_CHECK(begin.device == end.device,
                "[elapsed_time] both events must be of one device, each has a clock of its own; got ",
                device(begin.device), " and ", device(end.device), ". Record both on one device.");
    constexpr double kMillisecondsPerSecond = 1e3;
    return runtime::to_seconds(end.moment.time - begin.moment.time) * kMillisecondsPerSecond;
  }

  void recordDataPtrOnStream(const c10::DataPtr& ptr, const c10::Stream& s) const override {
    static_cast<c10::DeviceAllocator*>(device_allocator())->recordStream(ptr, s);
  }
  c10::DeviceCapability getDeviceCapability(c10::Device) const override { return {}; }

 private:
  static runtime::Clock& clock_of(c10::Device d) { return system().device(resolve(d)).clock; }
  static c10::Stream stream(int index, int id) { return c10::Stream(c10::Stream::UNSAFE, device(index), id); }
  static void reclaim(int index) {
    auto& dev = system().device(index);
    dev.memory->reclaim(dev.clock.host());
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

}  // namespace

}  // namespace trn::aten
