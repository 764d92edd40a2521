// What ATen asks of an accelerator: devices, generators, pinned memory, storage resizing; and the registrations of
// them.
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CPUAllocator.h>

#include "aten/allocator.h"
#include "aten/generator.h"
#include "aten/host_allocator.h"
#include "aten/system.h"

namespace trn::aten {

namespace {

class Hooks final : public at::PrivateUse1HooksInterface {
 public:
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return device_count() > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return is_started(); }
  void init() const override { system(); }

  c10::DeviceIndex deviceCount() const override { return static_cast<c10::DeviceIndex>(device_count()); }
  void setCurrentDevice(c10::DeviceIndex index) const override { set_current_device(index); }
  c10::DeviceIndex getCurrentDevice() const override { return static_cast<c10::DeviceIndex>(current_device()); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    const int previous = current_device();
    set_current_device(index);
    return static_cast<c10::DeviceIndex>(previous);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return index < 0 ? getCurrentDevice() : exchangeDevice(index);
  }

  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override { return default_generator(index); }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override { return make_generator(index); }

  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return host_allocator(); }
  at::Device getDeviceFromPtr(void* data) const override {
    runtime::System* machine = running_system();
    const runtime::Device* owner = machine ? machine->device_of(data) : nullptr;
    TORCH_CHECK(owner,
                "[from_blob] the pointer must lie in a trn device's HBM; got an address outside of all devices.");
    return device(owner->index);
  }

  void resizePrivateUse1Bytes(const c10::Storage& storage, std::size_t bytes) const override {
    resize_storage(*storage.unsafeGetStorageImpl(), bytes);
  }
};

// Registered when the library loads, before any operator can run.
const bool registered = [] {
  c10::SetAllocator(c10::DeviceType::PrivateUse1, device_allocator());
  install_cpu_allocator();
  at::setHostAllocator(c10::DeviceType::PrivateUse1, host_allocator());
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

}  // namespace

}  // namespace trn::aten
