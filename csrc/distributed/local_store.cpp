#include "distributed/local_store.h"

#include <c10/util/Exception.h>

#include <algorithm>

#include "distributed/agreement.h"

namespace trn::distributed {

namespace {

std::string text_of_keys(const LocalStore::Keys& keys) {
  std::string out;
  for (const auto& key : keys) {
    out += (out.empty() ? "" : ", ") + key;
  }
  return out;
}

}  // namespace

LocalStore::LocalStore(std::shared_ptr<Turns> turns) : turns_(std::move(turns)) {
  // The run outlives its ranks' stores only in part: the shared part is all that the waker holds.
  turns_->on_end([shared = std::weak_ptr<Shared>(shared_)] {
    if (const auto alive = shared.lock()) {
      std::lock_guard lock(alive->mutex);
      alive->changed.notify_all();
    }
  });
}

template <class Condition>
void LocalStore::wait_until(std::unique_lock<std::mutex>& lock, const std::string& what,
                            std::chrono::milliseconds timeout, const Condition& is_there) {
  if (is_there()) {
    return;
  }
  lock.unlock();
  bool in_time = true;
  wait_in([&] { return "store: " + what; },
          [&] {
            lock.lock();
            const auto over = [&] { return is_there() || !turns_->why_ended().empty(); };
            if (timeout == kNoTimeout) {
              shared_->changed.wait(lock, over);
            } else {
              in_time = shared_->changed.wait_for(lock, timeout, over);
            }
            lock.unlock();
          });
  lock.lock();
  if (is_there()) {
    return;
  }
  turns_->raise_if_ended("store");
  C10_THROW_ERROR(DistStoreError, "[store] a key must be set within the timeout; got no " + what + ", limit " +
                                      text_of(timeout) + ". See what the rank that sets it does instead.");
}

template <class Change>
auto LocalStore::change(const Change& make) {
  struct Notice {
    LocalStore& store;
    ~Notice() {
      store.turns_->count_event();
      store.shared_->changed.notify_all();
    }
  };
  const std::lock_guard lock(shared_->mutex);
  const Notice after{*this};
  return make();
}

void LocalStore::set(const std::string& key, const Bytes& value) {
  change([&] { shared_->values[key] = value; });
}

LocalStore::Bytes LocalStore::compareSet(const std::string& key, const Bytes& expected, const Bytes& desired) {
  return change([&]() -> Bytes {
    const auto found = shared_->values.find(key);
    if (found == shared_->values.end()) {
      if (!expected.empty()) {
        return expected;  // as c10d's stores do
      }
      return shared_->values[key] = desired;
    }
    if (found->second == expected) {
      found->second = desired;
    }
    return found->second;
  });
}

LocalStore::Bytes LocalStore::get(const std::string& key) {
  std::unique_lock lock(shared_->mutex);
  wait_until(lock, key, timeout_, [&] { return shared_->values.contains(key); });
  return shared_->values[key];
}

std::int64_t LocalStore::add(const std::string& key, std::int64_t value) {
  return change([&] {
    Bytes& bytes = shared_->values[key];
    const std::int64_t sum = (bytes.empty() ? 0 : std::stoll(std::string(bytes.begin(), bytes.end()))) + value;
    const std::string text = std::to_string(sum);
    bytes.assign(text.begin(), text.end());
    return sum;
  });
}

bool LocalStore::deleteKey(const std::string& key) {
  return change([&] { return shared_->values.erase(key) > 0; });
}

bool LocalStore::check(const Keys& keys) {
  const std::lock_guard lock(shared_->mutex);
  return std::all_of(keys.begin(), keys.end(),
                     [&](const auto& key) { return shared_->values.contains(key) || shared_->queues.contains(key); });
}

std::int64_t LocalStore::getNumKeys() {
  const std::lock_guard lock(shared_->mutex);
  return static_cast<std::int64_t>(shared_->values.size());
}

void LocalStore::wait(const Keys& keys, const std::chrono::milliseconds& timeout) {
  std::unique_lock lock(shared_->mutex);
  wait_until(lock, text_of_keys(keys), timeout, [&] {
    return std::all_of(keys.begin(), keys.end(), [&](const auto& key) { return shared_->values.contains(key); });
  });
}

void LocalStore::append(const std::string& key, const Bytes& value) {
  change([&] {
    Bytes& bytes = shared_->values[key];
    bytes.insert(bytes.end(), value.begin(), value.end());
  });
}

std::vector<LocalStore::Bytes> LocalStore::multiGet(const Keys& keys) {
  std::vector<Bytes> out;
  for (const auto& key : keys) {
    out.push_back(get(key));
  }
  return out;
}

void LocalStore::multiSet(const Keys& keys, const std::vector<Bytes>& values) {
  TORCH_CHECK_VALUE(keys.size() == values.size(), "[store] takes one value for each key; got ", values.size(),
                    ", limit ", keys.size(), ".");
  for (std::size_t i = 0; i < keys.size(); ++i) {
    set(keys[i], values[i]);
  }
}

void LocalStore::queuePush(const std::string& key, const Bytes& value) {
  change([&] { shared_->queues[key].push_back(value); });
}

LocalStore::Bytes LocalStore::queuePop(const std::string& key, bool block) {
  std::unique_lock lock(shared_->mutex);
  if (block) {
    wait_until(lock, key, timeout_, [&] { return shared_->queues.contains(key); });
  }
  const auto found = shared_->queues.find(key);
  if (found == shared_->queues.end()) {
    C10_THROW_ERROR(DistQueueEmptyError, "[store] a queue to pop from must hold a value; got an empty one, " + key +
                                             ". Wait for it with block=True.");
  }
  Bytes value = std::move(found->second.front());
  found->second.pop_front();
  if (found->second.empty()) {
    shared_->queues.erase(found);
  }
  return value;
}

std::int64_t LocalStore::queueLen(const std::string& key) {
  const std::lock_guard lock(shared_->mutex);
  const auto found = shared_->queues.find(key);
  return found == shared_->queues.end() ? 0 : static_cast<std::int64_t>(found->second.size());
}

LocalStore::Keys LocalStore::listKeys() {
  const std::lock_guard lock(shared_->mutex);
  Keys keys;
  for (const auto& [key, value] : shared_->values) {
    keys.push_back(key);
  }
  return keys;
}

}  // namespace trn::distributed
