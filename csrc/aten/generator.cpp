// Random numbers on the device: a seed and an offset, from which every launch derives its own CPU engine.
#include "aten/generator.h"

#include <ATen/Functions.h>
#include <ATen/Utils.h>
#include <ATen/core/MT19937RNGEngine.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <array>
#include <cstring>
#include <mutex>
#include <type_traits>
#include <utility>

#include "emu/clones.h"

namespace trn::aten {
namespace {

constexpr std::size_t kMaxDevices = 128;  // c10::DeviceIndex is an int8

std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31);
}

constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15ULL;

// Each word is a keyed hash of its place, so that the engine's first draws need none of its own mixing. (at::mt19937's
// seeding keeps only 32 bits, so that long runs would repeat a sequence.)
TRN_CLONES void fill_words(std::uint32_t* words, std::uint64_t key, std::uint32_t last) {
  const auto first = static_cast<std::uint32_t>(key), second = static_cast<std::uint32_t>(key >> 32);
  for (std::uint32_t place = 0; place < at::MERSENNE_STATE_N; ++place) {
    std::uint32_t word = first + place * static_cast<std::uint32_t>(kStep);
    word = (word ^ (word >> 16)) * 0x7feb352dU ^ second;
    word = (word ^ (word >> 15)) * 0x846ca68bU + last;
    words[place] = word ^ (word >> 16);
  }
}

// A CPU generator takes and gives its engine by copy, 2.5 KiB each time, which would double what a small launch costs.
// An explicit instantiation may name what is private; an engine is its data and nothing else.
template <auto kEngine>
struct EngineAccess {
  friend at::mt19937_data_pod& data_of(at::CPUGeneratorImpl& generator) {
    return reinterpret_cast<at::mt19937_data_pod&>(generator.*kEngine);
  }
};
template struct EngineAccess<&at::CPUGeneratorImpl::engine_>;
at::mt19937_data_pod& data_of(at::CPUGeneratorImpl& generator);
static_assert(std::is_standard_layout_v<at::mt19937> && sizeof(at::mt19937) == sizeof(at::mt19937_data_pod));

void place(at::CPUGeneratorImpl& generator, const GeneratorState& position) {
  at::mt19937_data_pod& data = data_of(generator);
  const std::uint64_t key = mix(position.seed + kStep) ^ mix(mix(position.offset + 2 * kStep));
  fill_words(data.state_.data(), key, static_cast<std::uint32_t>(mix(key + kStep)));
  data.seed_ = position.seed;
  data.seeded_ = true;
  data.left_ = at::MERSENNE_STATE_N;  // the words are drawn as they are, then the engine goes on from them
  data.next_ = 0;
  generator.set_next_float_normal_sample(std::nullopt);
  generator.set_next_double_normal_sample(std::nullopt);
}

c10::DeviceIndex checked_index(c10::DeviceIndex device) {
  const auto* guard = c10::impl::getDeviceGuardImpl(c10::DeviceType::PrivateUse1);
  const c10::DeviceIndex index = device == -1 ? guard->getDevice().index() : device;
  const int count = guard->deviceCount();
  TORCH_CHECK(index >= 0 && index < count, "[generator] a device index must name a device; got ", int{index},
              ", limit ", count - 1, ". Use an index below torch.trn.device_count().");
  return index;
}

GeneratorState launch_position(const std::optional<at::Generator>& generator, c10::DeviceIndex device,
                               std::int64_t numel) {
  const bool given = generator.has_value() && generator->defined();
  TrnGenerator* source = nullptr;
  if (given) {
    TORCH_CHECK(generator->device().type() == c10::DeviceType::PrivateUse1, "Expected a '",
                c10::get_privateuse1_backend(), "' device type for generator but found '", generator->device().type(),
                "'");
    source = generator->get<TrnGenerator>();
  } else {
    source = default_generator(device).get<TrnGenerator>();
  }
  const std::lock_guard<std::mutex> lock(source->mutex_);
  return source->advance(numel);
}

}  // namespace

TrnGenerator::TrnGenerator(c10::DeviceIndex device) : TrnGenerator(device, std::make_shared<GeneratorState>()) {}

TrnGenerator::TrnGenerator(c10::DeviceIndex device, std::shared_ptr<GeneratorState> state)
    : c10::GeneratorImpl(c10::Device(c10::DeviceType::PrivateUse1, device),
                         c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
      state_(std::move(state)) {}

void TrnGenerator::set_current_seed(std::uint64_t seed) {
  state_->seed = seed;
  state_->offset = 0;
}

void TrnGenerator::set_offset(std::uint64_t offset) {
  TORCH_CHECK(offset % 4 == 0, "[generator] an offset must be a multiple of 4; got ", offset, ".");
  state_->offset = offset;
}

std::uint64_t TrnGenerator::get_offset() const {
  return state_->offset;
}

std::uint64_t TrnGenerator::current_seed() const {
  return state_->seed;
}

std::uint64_t TrnGenerator::seed() {
  const std::uint64_t random = c10::detail::getNonDeterministicRandom();
  set_current_seed(random);
  return random;
}

void TrnGenerator::set_state(const c10::TensorImpl& new_state) {
  at::detail::check_rng_state(new_state);
  const std::int64_t size = new_state.numel();
  TORCH_CHECK(size == kGeneratorStateBytes || size == kGeneratorStateBytes / 2,
              "[generator] RNG state is wrong size; got ", size, " bytes, limit ", kGeneratorStateBytes,
              ". Pass what get_rng_state() of this device returned.");
  const auto* bytes = static_cast<const char*>(new_state.data());
  GeneratorState next{.seed = 0, .offset = 0};
  std::memcpy(&next.seed, bytes, sizeof(next.seed));
  if (size == kGeneratorStateBytes) {
    std::memcpy(&next.offset, bytes + sizeof(next.seed), sizeof(next.offset));
  }
  set_current_seed(next.seed);
  set_offset(next.offset);
}

c10::intrusive_ptr<c10::TensorImpl> TrnGenerator::get_state() const {
  at::Tensor state = at::detail::empty_cpu({kGeneratorStateBytes}, c10::ScalarType::Byte, std::nullopt, std::nullopt,
                                           std::nullopt, std::nullopt);
  auto* bytes = state.mutable_data_ptr<std::uint8_t>();
  std::memcpy(bytes, &state_->seed, sizeof(state_->seed));
  std::memcpy(bytes + sizeof(state_->seed), &state_->offset, sizeof(state_->offset));
  return state.getIntrusivePtr();
}

void TrnGenerator::graphsafe_set_state(const c10::intrusive_ptr<c10::GeneratorImpl>& new_state) {
  const auto other = c10::dynamic_intrusive_pointer_cast<TrnGenerator>(new_state);
  TORCH_CHECK(other, "[generator] graphsafe_set_state takes a generator of this device type.");
  state_ = other->state_;
}

c10::intrusive_ptr<c10::GeneratorImpl> TrnGenerator::graphsafe_get_state() const {
  return c10::make_intrusive<TrnGenerator>(device().index(), state_);
}

GeneratorState TrnGenerator::advance(std::int64_t numel) {
  const GeneratorState position = *state_;
  const auto drawn = static_cast<std::uint64_t>(numel > 4 ? numel : 4);
  state_->offset += (drawn + 3) / 4 * 4;
  return position;
}

TrnGenerator* TrnGenerator::clone_impl() const {
  return new TrnGenerator(device().index(), std::make_shared<GeneratorState>(*state_));
}

const at::Generator& default_generator(c10::DeviceIndex device) {
  static std::array<at::Generator, kMaxDevices> generators;
  static std::array<std::once_flag, kMaxDevices> created;
  const c10::DeviceIndex index = checked_index(device);
  const auto slot = static_cast<std::size_t>(index);
  std::call_once(created[slot], [&] { generators[slot] = at::make_generator<TrnGenerator>(index); });
  return generators[slot];
}

at::Generator make_generator(c10::DeviceIndex device) {
  return at::make_generator<TrnGenerator>(checked_index(device));
}

at::Generator cpu_generator_for(const std::optional<at::Generator>& generator, c10::DeviceIndex device,
                                std::int64_t numel) {
  const GeneratorState position = launch_position(generator, device, numel);
  // One engine per thread is reused; a launch within a launch finds it taken and gets its own.
  thread_local auto reused = c10::make_intrusive<at::CPUGeneratorImpl>();
  auto engine = reused.use_count() == 1 ? reused : c10::make_intrusive<at::CPUGeneratorImpl>();
  place(*engine, position);
  return at::Generator(std::move(engine));
}

void skip_draws(const std::optional<at::Generator>& generator, c10::DeviceIndex device, std::int64_t numel) {
  launch_position(generator, device, numel);
}

namespace {
thread_local const LaunchGenerator* launch_generator = nullptr;
}  // namespace

LaunchGenerator::LaunchGenerator(c10::DeviceIndex device, std::int64_t numel)
    : generator_(cpu_generator_for(std::nullopt, device, numel)), outer_(launch_generator) {
  launch_generator = this;
}

LaunchGenerator::~LaunchGenerator() {
  launch_generator = outer_;
}

const at::Generator& LaunchGenerator::current() {
  TORCH_INTERNAL_ASSERT(launch_generator, "[generator] a CPU kernel of the device draws outside of a launch.");
  return launch_generator->generator_;
}

}  // namespace trn::aten
