#include "aten/values.h"

#include <atomic>
#include <utility>

#include "aten/alias.h"
#include "aten/allocator.h"

namespace trn::aten {

namespace {

std::atomic<bool> is_dry{false};
std::atomic<std::size_t> most_held{std::size_t{1} << 20};
ValueSource& value_source() {
  static auto* source = new ValueSource();
  return *source;
}

runtime::Block* block_under(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.device().is_privateuseone() || !tensor.has_storage()) {
    return nullptr;
  }
  return block_of(*tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
}

}  // namespace

bool dry_run() noexcept {
  return is_dry.load(std::memory_order_relaxed);
}

void set_dry_run(bool on) {
  is_dry = on;
}

std::size_t set_most_held_bytes(std::size_t bytes) {
  return most_held.exchange(bytes);
}

std::size_t most_held_bytes() noexcept {
  return most_held.load(std::memory_order_relaxed);
}

bool holds_values(const at::Tensor& tensor) {
  const runtime::Block* block = block_under(tensor);
  return !block || block->holds_values;
}

void lose_values(const at::Tensor& tensor) {
  if (runtime::Block* block = block_under(tensor)) {
    block->holds_values = false;
  }
}

bool may_write_values(const at::Tensor& tensor) {
  runtime::Block* block = block_under(tensor);
  if (!block) {
    return true;
  }
  const std::size_t storage_bytes = tensor.storage().nbytes();
  if (dry_run() && storage_bytes > most_held_bytes()) {
    block->holds_values = false;
  } else if (!block->holds_values) {
    block->holds_values = tensor.is_non_overlapping_and_dense() &&
                          static_cast<std::size_t>(tensor.numel()) * tensor.itemsize() >= storage_bytes;
  }
  return block->holds_values;
}

void set_value_source(ValueSource source) {
  value_source() = std::move(source);
}

at::Tensor supplied_values(const std::string& op, const at::Tensor& tensor) {
  TORCH_CHECK(value_source(), "[dry_run] ", op, " reads values; got a tensor that a dry run left without.");
  return value_source()(op, tensor);
}

}  // namespace trn::aten
