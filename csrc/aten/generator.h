// Random numbers on the device: a seed and an offset, from which every launch derives its own CPU engine.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>
#include <c10/core/GeneratorImpl.h>

#include <cstdint>
#include <memory>
#include <optional>

namespace trn::aten {

// Counter-based as on CUDA: `seed` names the sequence, `offset` the position in it (a multiple of 4).
struct GeneratorState {
  std::uint64_t seed = c10::default_rng_seed_val;
  std::uint64_t offset = 0;
};

// The state's bytes, as DTensor and checkpoints read them: u64 seed, u64 offset.
inline constexpr std::int64_t kGeneratorStateBytes = 16;

class TrnGenerator final : public c10::GeneratorImpl {
 public:
  explicit TrnGenerator(c10::DeviceIndex device);
  TrnGenerator(c10::DeviceIndex device, std::shared_ptr<GeneratorState> state);

  static c10::DeviceType device_type() { return c10::DeviceType::PrivateUse1; }

  void set_current_seed(std::uint64_t seed) override;
  void set_offset(std::uint64_t offset) override;
  std::uint64_t get_offset() const override;
  std::uint64_t current_seed() const override;
  std::uint64_t seed() override;
  void set_state(const c10::TensorImpl& new_state) override;
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override;
  // Shared, not copied: two generators that draw from one sequence.
  void graphsafe_set_state(const c10::intrusive_ptr<c10::GeneratorImpl>& new_state) override;
  c10::intrusive_ptr<c10::GeneratorImpl> graphsafe_get_state() const override;

  // The position of a launch that draws `numel` numbers; moves the offset past them. The caller holds `mutex_`.
  GeneratorState advance(std::int64_t numel);

 private:
  TrnGenerator* clone_impl() const override;

  std::shared_ptr<GeneratorState> state_;
};

// The default generator of a device; -1 is the current one. The reference stays valid.
const at::Generator& default_generator(c10::DeviceIndex device);
at::Generator make_generator(c10::DeviceIndex device);

// A CPU engine for one launch of `numel` random numbers, a function of (seed, offset) alone; moves the offset on.
// `generator` is the operator's argument: none means the device's default; a CPU generator raises.
at::Generator cpu_generator_for(const std::optional<at::Generator>& generator, c10::DeviceIndex device,
                                std::int64_t numel);

// Moves the offset on as such a launch does, for one that draws nothing.
void skip_draws(const std::optional<at::Generator>& generator, c10::DeviceIndex device, std::int64_t numel);

// The engine of a launch whose operator takes no generator; our own CPU kernel asks for it while this lives.
class LaunchGenerator {
 public:
  LaunchGenerator(c10::DeviceIndex device, std::int64_t numel);
  ~LaunchGenerator();
  LaunchGenerator(const LaunchGenerator&) = delete;
  LaunchGenerator& operator=(const LaunchGenerator&) = delete;

  static const at::Generator& current();  // of this thread

 private:
  at::Generator generator_;
  const LaunchGenerator* outer_;
};

}  // namespace trn::aten
